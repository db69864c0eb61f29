"""Fetching pictures: only from listed public hosts, bounded, and without following anything.

Both who fetch, service and feeder, go through one room; each case is tried through both.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network

import pytest

from feeder.read.image_fetch import PictureFetcher as FeederFetcher
from feeder.read.image_fetch import PictureRefused
from image_fetch.addresses import is_public
from image_fetch.fetch import FetchLimits, PictureFetch, Resolve
from service.app.image_fetch import PictureFetcher as ServiceFetcher
from service.errors import InvalidImage

OK = b"HTTP/1.1 200 OK\r\n"
HERE = [ip_network("127.0.0.0/8")]
S_MAX = 0.8
GOES_ON_S = 20
"""How long the host sends, and its name is looked for: far beyond any deadline here."""

Fetch = Callable[[PictureFetch, str], bytes]


class Shop:
    """A host of pictures that sends byte for byte what a path is told to, and keeps the heads it was sent."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[str] = []
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head and (more := connection.recv(4096)):
                head += more
            self.heads.append(head.decode("latin-1"))
            path = head.split(b" ")[1].decode("latin-1") if b" " in head else ""
            try:
                for piece in self._pieces(path):
                    connection.sendall(piece)
            except OSError:
                return  # whoever asked has gone

    def _pieces(self, path: str) -> Iterator[bytes]:
        if path.endswith(("/slow", "/continue", "/headers")):
            trickle = {"w": b"x", "e": b"HTTP/1.1 100 Continue\r\n\r\n", "s": b"X-More: 1\r\n"}[path[-1]]
            yield OK + b"\r\n" if path.endswith("/slow") else OK if path.endswith("/headers") else b""
            for _ in range(GOES_ON_S * 20):
                yield trickle
                if self._over.wait(0.05):
                    return
        yield {
            "/redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/secret\r\n\r\n",
            "/missing": b"HTTP/1.1 404 Not Found\r\n\r\n",
            "/large": OK + b"\r\n" + b"y" * 5000,
            "/announced": OK + b"Content-Length: 5000\r\n\r\n",
            "/short": OK + b"Content-Length: 9\r\n\r\nabc",
            "/empty": OK + b"Content-Length: 9\r\n\r\n",
            "/chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\nabc",
            "/noise": b"\x00\x01\x02 not HTTP\r\n\r\n",
            "/hangup": b"",
        }.get(path, OK + b"\r\n" + path.encode())


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.close()


def through_service(pictures: PictureFetch, url: str) -> bytes:
    with ThreadPoolExecutor(1) as executor:
        return asyncio.run(ServiceFetcher(pictures, executor).fetch(url))


def through_feeder(pictures: PictureFetch, url: str) -> bytes:
    return FeederFetcher(pictures).picture_at(url)


@pytest.fixture(params=[through_service, through_feeder])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    return request.param  # type: ignore[no-any-return]


def local(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def pictures(hosts: Sequence[str], resolve: Resolve = local, *, is_local: bool = True) -> PictureFetch:
    limits = FetchLimits(hosts, "THE_HOSTS", 1000, S_MAX, HERE if is_local else ())
    return PictureFetch(limits, resolve=resolve)


def refusal(fetch: Fetch, fetcher: PictureFetch, url: str) -> str:
    with pytest.raises((InvalidImage, PictureRefused)) as caught:
        fetch(fetcher, url)
    return str(caught.value)


def test_a_listed_host_is_asked_at_the_resolved_address(fetch: Fetch, shop: Shop) -> None:
    host = f"img.shop.example:{shop.port}"
    assert fetch(pictures([host]), f"http://{host}/a.png?w=1") == b"/a.png?w=1"
    assert fetch(pictures([f"*.shop.example:{shop.port}"]), f"http://{host}/a.png") == b"/a.png"
    assert f"\r\nHost: {host}\r\n" in shop.heads[-1]


def test_names_of_files_in_any_script_are_asked_as_browsers_do(fetch: Fetch, shop: Shop) -> None:
    host = f"img.shop.example:{shop.port}"
    assert fetch(pictures([host]), f"http://{host}/김치%20찜.jpg") == b"/%EA%B9%80%EC%B9%98%20%EC%B0%9C.jpg"


def test_what_is_not_listed_is_refused(fetch: Fetch, shop: Shop) -> None:
    port = shop.port
    asked = len(shop.heads)
    for url in (
        f"http://img.shop.example:{port}/", f"http://shop.example.other.example:{port}/", f"http://127.0.0.1:{port}/",
        "http://shop.example:22/", "ftp://shop.example/",
        "file:///etc/passwd", "//shop.example/", "shop.example", "http://shop.example\\@evil/",
        "http:" + "//[::1",
        f"http://shop.example:{port}/a b", "http://쇼핑.example/", "http://shop.example:99999/",
        f"http://shop.example:{port}/\r\nX-A: b",
    ):  # fmt: skip
        fetcher = pictures([f"shop.example:{port}", "*.other.example"])
        refusal(fetch, fetcher, url)
    assert "THE_HOSTS" in refusal(fetch, pictures([]), "http://shop.example/")
    assert len(shop.heads) == asked


@pytest.mark.parametrize("user", ["user:word@", "user@", "@", ":@"])
def test_userinfo_never_reaches_a_host(fetch: Fetch, shop: Shop, user: str) -> None:
    host, asked = f"shop.example:{shop.port}", len(shop.heads)
    refusal(fetch, pictures([host]), "http:" + f"//{user}{host}/a.png")
    assert len(shop.heads) == asked


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.88.99.1", "198.18.0.1", "192.0.0.1",
     "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "fec0::1",
     "::ffff:10.0.0.1", "::ffff:93.184.216.34", "::10.0.0.1", "::93.184.216.34",
     "64:ff9b::7f00:1", "64:ff9b::5db8:d822", "64:ff9b:1::a00:1",
     "2002:7f00:1::", "2002:5db8:d822::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1",
     "5f00::1", "100::1"],
)  # fmt: skip
def test_private_and_wrapped_addresses_are_refused_even_for_listed_hosts(fetch: Fetch, address: str) -> None:
    assert not is_public(address)
    for found in ([address], ["93.184.216.34", address]):
        fetcher = pictures(["shop.example"], lambda _host, _port, found=found: found, is_local=False)
        assert "private network" in refusal(fetch, fetcher, "http://shop.example/")


def test_public_addresses_are_public() -> None:
    for address in (
        "93.184.216.34",
        "2606:2800:220:1::1",
        "2a00:1450:4001:82a::200e",
        "2001:4860:4860::8888",
    ):
        assert is_public(address), address


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("redirect", "302"), ("missing", "404"), ("large", "larger than 1000"),
        ("announced", "larger than 1000"), ("short", "6 bytes shorter"), ("empty", "9 bytes shorter"),
        ("chunks", "IncompleteRead"), ("noise", "BadStatusLine"), ("hangup", "RemoteDisconnected"),
    ],
)  # fmt: skip
def test_what_is_no_whole_picture_is_an_error(fetch: Fetch, shop: Shop, path: str, words: str) -> None:
    host = f"shop.example:{shop.port}"
    assert words in refusal(fetch, pictures([host]), f"http://{host}/{path}")


def slow_names(_host: str, _port: int) -> Sequence[str]:
    threading.Event().wait(GOES_ON_S)
    return ["127.0.0.1"]


@pytest.mark.long
@pytest.mark.parametrize("path", ["slow", "continue", "headers", "name", "tls"])
def test_one_deadline_holds_over_everything(fetch: Fetch, shop: Shop, path: str) -> None:
    """A byte, a header or a `100 Continue` now and then; a resolver and a handshake that never end."""
    scheme = "https" if path == "tls" else "http"
    host = f"shop.example:{shop.port}"
    fetcher = pictures([host], slow_names if path == "name" else local)
    started = time.monotonic()
    reported = refusal(fetch, fetcher, f"{scheme}://{host}/{'slow' if path == 'tls' else path}")
    assert "longer than 0.8 s" in reported, reported
    assert time.monotonic() - started < GOES_ON_S / 2


def test_nobody_there_and_no_name(fetch: Fetch) -> None:
    def fails(_host: str, _port: int) -> Sequence[str]:
        raise socket.gaierror("no such name")

    def odd(_host: str, _port: int) -> Sequence[str]:
        raise UnicodeError("label too long")

    for resolve in (local, fails, odd):
        refusal(fetch, pictures(["shop.example:1"], resolve), "http://shop.example:1/")


def test_the_next_address_is_tried(fetch: Fetch, shop: Shop) -> None:
    host = f"shop.example:{shop.port}"
    fetcher = pictures([host], lambda _host, _port: ["127.99.0.1", "127.0.0.1"])
    assert fetch(fetcher, f"http://{host}/b.png") == b"/b.png"
