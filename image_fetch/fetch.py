"""Pictures behind an address: from listed hosts only, and never into a private network.

The address that was checked is the one that is connected to, so a name can't be re-pointed in between;
redirects are not followed; one deadline holds from the look-up of the name to the last byte.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from image_fetch.addresses import Network, is_in, is_public
from image_fetch.errors import FetchFailed, FetchRefused

_PORTS = {"http": 80, "https": 443}
_LOOKUPS_MAX = 32
_PATH_SAFE = "%/:@!$&'()*+,;=~"

Resolve = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> Sequence[str]:
    """Return every address of `host`. Raises OSError, ValueError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Where pictures may come from, and how large and slow they may be.

    hosts: `name`, `name:port` where the port is not the scheme's own, `*.name` for subdomains. hosts_setting:
    the setting that holds them, for error messages. s_max: seconds from the name's look-up to the last byte.
    networks: private networks in which a listed host may stand.
    """

    hosts: Sequence[str]
    hosts_setting: str
    bytes_max: int
    s_max: float
    networks: Sequence[Network] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """A checked address. name: host and port as the Host field gives them."""

    scheme: str
    host: str
    port: int
    name: str
    path: str


class PictureFetch:
    """Downloads a picture a call from listed hosts. `fetch` blocks and is safe from any thread."""

    def __init__(self, limits: FetchLimits, *, resolve: Resolve = resolve) -> None:
        """resolve: what looks up a host; a test gives its own."""
        self._limits = limits
        self._resolve = resolve
        self._lookups = threading.Semaphore(_LOOKUPS_MAX)
        self._tls: ssl.SSLContext | None = None

    @property
    def s_max(self) -> float:
        """Seconds after which `fetch` has returned or raised."""
        return self._limits.s_max

    def fetch(self, url: str) -> bytes:
        """Return the body behind `url`, `bytes_max` at most. Raises FetchRefused, FetchFailed."""
        target = self._checked(url)
        give_up = time.monotonic() + self._limits.s_max
        try:
            body = self._exchange(target, give_up)
            _left(give_up)  # a stream that was cut off looks like one that ended
            return body
        except (OSError, http.client.HTTPException, ValueError) as exc:
            if time.monotonic() >= give_up:
                raise FetchFailed(f"The picture took longer than {self._limits.s_max:g} s to fetch.") from exc
            raise FetchFailed(f"The picture could not be fetched: {type(exc).__name__}.") from exc

    def _checked(self, url: str) -> _Target:
        limits = self._limits
        if not limits.hosts:
            raise FetchRefused(
                f"Fetching pictures is off; {limits.hosts_setting} names the hosts that may be asked."
            )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise FetchRefused("The address is not well-formed.") from exc
        is_plain = url.isprintable() and " " not in url and "\\" not in url and parts.netloc.isascii()
        if not is_plain or parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc:
            raise FetchRefused("The address must be a plain http or https one.")
        bracketed = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        name = bracketed if port in (None, _PORTS[parts.scheme]) else f"{bracketed}:{port}"
        if not any(_fits(name, host.lower()) for host in limits.hosts):
            raise FetchRefused(f"The host {name[:100]} is not listed in {limits.hosts_setting}.")
        # Shops name files in their own script; browsers send them like this.
        path = quote(parts.path or "/", safe=_PATH_SAFE)
        query = f"?{quote(parts.query, safe=_PATH_SAFE + '?')}" if parts.query else ""
        return _Target(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], name, path + query)

    def _exchange(self, target: _Target, give_up: float) -> bytes:
        with self._connected(target, give_up) as raw, _cut_off_at(give_up, raw.dup()):
            stream = raw
            if target.scheme == "https":
                stream = self._context().wrap_socket(raw, server_hostname=target.host)
            connection = http.client.HTTPConnection(target.host, target.port)
            connection.sock = stream
            try:
                return self._body(connection, target)
            finally:
                connection.close()

    def _connected(self, target: _Target, give_up: float) -> socket.socket:
        addresses = self._addresses(target, give_up)
        networks = self._limits.networks
        if not addresses or not all(is_public(one) or is_in(one, networks) for one in addresses):
            raise FetchRefused("The host has an address in a private network.")
        for position, address in enumerate(addresses, start=1):
            share = _left(give_up) / (len(addresses) - position + 1)
            try:
                return socket.create_connection((address, target.port), timeout=share)
            except OSError:
                if position == len(addresses):
                    raise
        raise AssertionError("unreachable: the last address returns or raises")

    def _addresses(self, target: _Target, give_up: float) -> Sequence[str]:
        """A look-up can't be interrupted: it runs in a thread that nobody has to wait for, of which there are
        not many at a time."""
        if not self._lookups.acquire(timeout=_left(give_up)):
            raise TimeoutError("too many look-ups wait for the resolver")
        found: Future[Sequence[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(self._resolve(target.host, target.port))
            except Exception as exc:
                found.set_exception(exc)
            finally:
                self._lookups.release()

        threading.Thread(target=look_up, name="resolve", daemon=True).start()
        return found.result(timeout=_left(give_up))

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()  # reads every certificate: once
        return self._tls

    def _body(self, connection: http.client.HTTPConnection, target: _Target) -> bytes:
        bytes_max = self._limits.bytes_max
        connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
        fields = {"Host": target.name, "Accept": "image/*", "Accept-Encoding": "identity"}
        for field, value in (fields | {"User-Agent": "uhok-ml-inference", "Connection": "close"}).items():
            connection.putheader(field, value)
        connection.endheaders()
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise FetchFailed(f"The host answered {response.status}; redirects are not followed.")
        if (response.length or 0) > bytes_max:
            raise FetchFailed(f"The picture is larger than {bytes_max} bytes.")
        body = response.read(bytes_max + 1)
        if len(body) > bytes_max:
            raise FetchFailed(f"The picture is larger than {bytes_max} bytes.")
        if response.length:
            raise FetchFailed(f"The picture is {response.length} bytes shorter than its Content-Length.")
        return body


@contextlib.contextmanager
def _cut_off_at(give_up: float, twin: socket.socket) -> Iterator[None]:
    """A timeout of a socket starts over with each byte; this one does not.

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
