"""Pictures behind an address: from allow-listed hosts only, and never into a private network.

The address that was checked is the address that is connected to, so a name can't be re-pointed in between;
redirects are not followed; time and bytes are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from service.errors import InvalidImage

_PORTS = {"http": 80, "https": 443}
_GRACE_S = 0.5

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of `host`. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None)
    return parsed.is_global and not parsed.is_multicast and (mapped is None or is_public(str(mapped)))


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """hosts: names, `name:port` for another port than the scheme's, `*.name` for subdomains."""

    hosts: Sequence[str]
    bytes_max: int
    ms_max: int


class PictureFetcher:
    """Fits `service.app.ingest.PictureSource`. The exchange runs on `executor`, one thread a fetch."""

    def __init__(
        self,
        limits: FetchLimits,
        executor: Executor,
        *,
        resolve: Resolve = resolve,
        is_allowed_address: Callable[[str], bool] = is_public,
    ) -> None:
        self._limits = limits
        self._executor = executor
        self._resolve = resolve
        self._is_allowed_address = is_allowed_address

    async def fetch(self, url: str) -> bytes:
        """Return the body behind `url`. Raises InvalidImage (image_url_refused, image_url_failed)."""
        parts = self._checked(url)
        loop = asyncio.get_running_loop()
        try:
            # Resolving a name can't be interrupted, so the caller stops waiting for it.
            async with asyncio.timeout(self._limits.ms_max / 1000 + _GRACE_S):
                return await loop.run_in_executor(self._executor, self._exchange, parts)
        except TimeoutError as exc:
            raise _failed("The picture took too long to fetch.") from exc

    def _checked(self, url: str) -> SplitResult:
        if not self._limits.hosts:
            raise _refused("Fetching pictures is off; IMAGE_URL_HOSTS names the hosts that may be asked.")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise _refused("The address is not well-formed.") from exc
        is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
        if not is_plain or parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
            raise _refused("The address must be a plain http or https one.")
        name = parts.hostname if port in (None, _PORTS[parts.scheme]) else f"{parts.hostname}:{port}"
        if not any(_fits(name, host.lower()) for host in self._limits.hosts):
            raise _refused(f"The host {name[:100]} is not one that may be asked.")
        return parts

    def _exchange(self, parts: SplitResult) -> bytes:
        give_up = time.monotonic() + self._limits.ms_max / 1000
        host, port = str(parts.hostname), parts.port or _PORTS[parts.scheme]
        try:
            with self._connected(host, port, give_up) as raw, _cut_off_at(give_up, raw.dup()):
                is_tls = parts.scheme == "https"
                stream = (
                    ssl.create_default_context().wrap_socket(raw, server_hostname=host) if is_tls else raw
                )
                connection = http.client.HTTPConnection(host, port)
                connection.sock = stream
                try:
                    body = self._body(connection, parts)
                finally:
                    connection.close()
            _left(give_up)  # a stream that was cut off looks like one that ended
            return body
        except (OSError, http.client.HTTPException) as exc:
            raise _failed(f"The picture could not be fetched: {type(exc).__name__}.") from exc

    def _connected(self, host: str, port: int, give_up: float) -> socket.socket:
        addresses = self._resolve(host, port)
        if not addresses or not all(map(self._is_allowed_address, addresses)):
            raise _refused("The host has an address in a private network.")
        return socket.create_connection((addresses[0], port), timeout=_left(give_up))

    def _body(self, connection: http.client.HTTPConnection, parts: SplitResult) -> bytes:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "uhok-ml-inference"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise _failed(f"The host answered {response.status}; redirects are not followed.")
        body = response.read(self._limits.bytes_max + 1)
        if len(body) > self._limits.bytes_max:
            raise _failed(f"The picture is larger than {self._limits.bytes_max} bytes.")
        return body


@contextlib.contextmanager
def _cut_off_at(give_up: float, twin: socket.socket) -> Iterator[None]:
    """A timeout of a socket starts anew with each byte; this one does not.

    twin: a duplicate, for TLS takes the original's descriptor away.
    """

    def cut() -> None:
        with contextlib.suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_left(give_up), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        twin.close()


def _left(give_up: float) -> float:
    left = give_up - time.monotonic()
    if left <= 0:
        raise TimeoutError("too slow")
    return left


def _fits(name: str, host: str) -> bool:
    return name.endswith(host[1:]) if host.startswith("*.") else name == host


def _refused(detail: str) -> InvalidImage:
    return InvalidImage("image_url_refused", detail)


def _failed(detail: str) -> InvalidImage:
    return InvalidImage("image_url_failed", detail)
