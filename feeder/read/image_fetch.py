"""Pictures fetched by address, within limits: only listed hosts, only where their name points when asked.

The address a name resolves to is checked and then used for the connection itself, so a second answer of the
resolver cannot redirect it. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from feeder.settings import Network

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024


class PictureRefused(Exception):
    """The picture cannot be had; the message says why."""


class PictureFetcher:
    """Fetches pictures from `hosts` ("img.example" or "img.example:8443"). Safe from any thread.

    networks: private address ranges that a listed host may lie in; public addresses are always allowed.
    """

    def __init__(
        self,
        hosts: frozenset[str],
        networks: Sequence[Network],
        bytes_max: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._networks = networks
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self._clock = clock

    def fetch(self, url: str) -> bytes:
        """Return the bytes behind a URL. Raises PictureRefused."""
        parts = urlsplit(url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as exc:
            raise PictureRefused(f"{url!r}: no such port") from exc
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not ({host, f"{host}:{port}"} & self._hosts):
            raise PictureRefused(f"host {host}:{port} is not listed in FEEDER_IMAGE_HOSTS")
        deadline = self._clock() + self._timeout_s
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = self._connection(parts.scheme, host, port)
        try:
            connection.request("GET", path, headers={"Host": parts.netloc, "Accept": "image/*"})
            return self._read(connection.getresponse(), deadline)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise PictureRefused(f"{url}: {exc or type(exc).__name__}") from exc
        finally:
            connection.close()

    def fetch_or_none(self, url: str) -> bytes | None:
        """Return the bytes behind a URL, or None, with the reason in the log."""
        try:
            return self.fetch(url)
        except PictureRefused as exc:
            log.info("picture_refused", extra={"why": str(exc)})
            return None

    def _connection(self, scheme: str, host: str, port: int) -> http.client.HTTPConnection:
        """Connect to the address that was checked, under the name that was asked for."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise PictureRefused(f"{host}: {exc}") from exc
        addresses = [str(each[4][0]) for each in found]
        refused = [address for address in addresses if not self._may_reach(address)]
        if refused or not addresses:
            raise PictureRefused(f"{host} lies at {refused}, outside FEEDER_IMAGE_NETWORKS")
        try:
            raw = socket.create_connection((addresses[0], port), timeout=self._timeout_s)
            if scheme == "https":
                raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
        except OSError as exc:
            raise PictureRefused(f"{host}:{port}: {exc}") from exc
        connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection.sock = raw
        return connection

    def _may_reach(self, address: str) -> bool:
        found = ip_address(address.split("%")[0])
        if found.is_global and not found.is_multicast:
            return True
        return any(found in network for network in self._networks)

    def _read(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        if response.status != 200:
            raise PictureRefused(f"status {response.status}")
        data = bytearray()
        while chunk := response.read1(READ_BYTES):
            data += chunk
            if len(data) > self._bytes_max:
                raise PictureRefused(f"more than {self._bytes_max} bytes")
            if self._clock() > deadline:
                raise PictureRefused(f"not complete within {self._timeout_s} s")
        if response.length:
            raise PictureRefused(f"{response.length} bytes short")
        return bytes(data)
