"""Fetching pictures: only from allow-listed public hosts, bounded, and without following anything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.app.image_fetch import FetchLimits, PictureFetcher, is_public
from service.errors import InvalidImage


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(50):
                time.sleep(0.1)
                self.wfile.write(b"x")
            return
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/missing" else 404)
        self.end_headers()
        self.wfile.write(b"y" * 5000 if self.path == "/large" else self.path.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def fetch(
    url: str, hosts: list[str], addresses: list[str] | None = None, *, any_address: bool = True
) -> bytes:
    with ThreadPoolExecutor(1) as executor:
        fetcher = PictureFetcher(
            FetchLimits(hosts, bytes_max=1000, ms_max=800),
            executor,
            resolve=lambda _host, _port: addresses or ["127.0.0.1"],
            is_allowed_address=(lambda _: True) if any_address else is_public,
        )
        return asyncio.run(fetcher.fetch(url))


def code_of(
    url: str, hosts: list[str], addresses: list[str] | None = None, *, any_address: bool = True
) -> str:
    with pytest.raises(InvalidImage) as caught:
        fetch(url, hosts, addresses, any_address=any_address)
    return caught.value.code


def test_a_listed_host_is_asked_at_the_resolved_address(port: int) -> None:
    host = f"img.shop.example:{port}"
    assert fetch(f"http://{host}/a.png?w=1", [host]) == b"/a.png?w=1"
    assert fetch(f"http://{host}/a.png", [f"*.shop.example:{port}"]) == b"/a.png"


def test_what_is_not_listed_is_refused(port: int) -> None:
    for url in (
        f"http://img.shop.example:{port}/", f"http://shop.example.other.example:{port}/", f"http://127.0.0.1:{port}/",
        "http://shop.example:22/", "http:" + f"//user:word@shop.example:{port}/", "ftp://shop.example/",
        "file:///etc/passwd", "//shop.example/", "shop.example", "http://shop.example\\@evil/",
        "http:" + "//[::1",
        f"http://shop.example:{port}/a b", "http://쇼핑.example/", "http://shop.example:99999/",
    ):  # fmt: skip
        assert code_of(url, [f"shop.example:{port}", "*.other.example"]) == "image_url_refused", url
    assert code_of("http://shop.example/", []) == "image_url_refused"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "224.0.0.1", "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_private_addresses_are_refused_even_for_listed_hosts(address: str) -> None:
    assert (
        code_of("http://shop.example/", ["shop.example"], [address], any_address=False) == "image_url_refused"
    )
    mixed = ["93.184.216.34", address]
    assert code_of("http://shop.example/", ["shop.example"], mixed, any_address=False) == "image_url_refused"


def test_public_addresses_are_public() -> None:
    assert is_public("93.184.216.34") and is_public("2606:2800:220:1::1")


def test_redirects_errors_size_and_time_are_bounded(port: int) -> None:
    host = f"shop.example:{port}"
    for path in ("redirect", "missing", "large"):
        assert code_of(f"http://{host}/{path}", [host]) == "image_url_failed"
    started = time.monotonic()
    assert code_of(f"http://{host}/slow", [host]) == "image_url_failed"
    assert time.monotonic() - started < 3
    assert code_of("http://shop.example:1/", ["shop.example:1"]) == "image_url_failed"
