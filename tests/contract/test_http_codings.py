"""gzip both ways, and pages of other origins."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import BadConfiguration
from service.http.wire.codings.accepted import accepts_gzip
from service.http.wire.codings.gzip_bodies import GzipUnpacker
from service.settings import Settings
from tests.contract.test_http_protocol import post, read_answer, served
from tests.http_app import HttpApp, as_base64, picture_bytes, running_app, unit

JSON = {"content-type": "application/json"}
PACKED = {**JSON, "content-encoding": "gzip"}
SHOP = "https://shop.example"
LIMITS = {
    "GZIP_BYTES_MIN": "2000",
    "SEARCH_BYTES_MAX": "100000",
    "CORS_ORIGINS": f"{SHOP}, http://localhost:3000",
}
ASKED = json.dumps({"query": "갈비탕", "top_k": 3}).encode()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("codings"), LIMITS) as running:
        vector = as_base64(unit(np.random.default_rng(3), 384))
        items = [
            {"recipe_id": n, "vector": vector, "metadata": {"title": f"갈비탕 {n}"}} for n in range(1, 60)
        ]
        assert running.post("/v1/upsert", {"items": items}).status_code == 200
        yield running


def test_packed_bodies_are_read_on_every_kind_of_route(app: HttpApp) -> None:
    plain = app.post("/v1/search", content=ASKED, headers=JSON).json()
    for body in (gzip.compress(ASKED), gzip.compress(ASKED[:9]) + gzip.compress(ASKED[9:])):
        packed = app.post("/v1/search", content=body, headers=PACKED)
        assert packed.status_code == 200 and packed.json()["results"] == plain["results"]
    stored = app.post(
        "/v1/upsert", content=gzip.compress(b'{"items": [{"recipe_id": 99, "text": "a"}]}'), headers=PACKED
    )
    assert stored.json()["upserted"] == 1
    assert (
        app.post("/v1/delete", content=gzip.compress(b'{"ids": [99]}'), headers=PACKED).json()["deleted"] == 1
    )
    form = app._client.build_request("POST", "/search_similar", files={"file": ("a.png", picture_bytes(1))})
    upload = {"content-type": form.headers["content-type"], "content-encoding": "x-gzip"}
    answer = app.post("/search_similar", content=gzip.compress(b"".join(form.stream)), headers=upload)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text


async def _in_pieces(body: bytes, size: int) -> Any:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_a_packed_body_may_arrive_in_pieces(app: HttpApp) -> None:
    answer = app.post("/v1/search", content=_in_pieces(gzip.compress(ASKED), 7), headers=PACKED)
    assert answer.status_code == 200 and len(answer.json()["results"]) == 3


@pytest.mark.parametrize("unpacked", [200_000, pytest.param(300_000_000, marks=pytest.mark.long)])
def test_what_unpacks_to_too_much_is_refused(app: HttpApp, unpacked: int) -> None:
    bomb = gzip.compress(b" " * unpacked)
    answer = app.post("/v1/search", content=bomb, headers=PACKED)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    upload = {"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"}
    if unpacked > 20_000_000:
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        answer = app.post("/search_similar", content=gzip.compress(part) + bomb, headers=upload)
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "coding", "status", "code"),
    [
        (ASKED, "gzip", 400, "malformed_gzip"),
        (b"", "gzip", 400, "malformed_gzip"),
        (gzip.compress(ASKED)[:-3], "gzip", 400, "malformed_gzip"),
        (gzip.compress(ASKED) + b"x", "gzip", 400, "malformed_gzip"),
        (gzip.compress(b"") * 1000 + gzip.compress(ASKED), "gzip", 400, "malformed_gzip"),
        (zlib.compress(ASKED), "deflate", 415, "unsupported_media_type"),
        (ASKED, "br", 415, "unsupported_media_type"),
        (gzip.compress(gzip.compress(ASKED)), "gzip, gzip", 415, "unsupported_media_type"),
        (gzip.compress(b'{"query": '), "gzip", 400, "malformed_json"),
    ],
    # a packed body holds the time, which each process of the run would name its tests by
    ids=["plain", "empty", "cut", "more behind", "empty blocks", "deflate", "br", "twice", "cut JSON"],
)
def test_what_is_wrong_with_a_coding_is_told(
    app: HttpApp, body: bytes, coding: str, status: int, code: str
) -> None:
    answer = app.post("/v1/search", content=body, headers={**JSON, "content-encoding": coding})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_pieces_are_small_whatever_they_unpack_to() -> None:
    body = np.random.default_rng(1).bytes(1000) * 3000
    unpacker = GzipUnpacker()
    pieces = list(unpacker.pieces(gzip.compress(body)))
    unpacker.finish()
    assert b"".join(pieces) == body and max(map(len, pieces)) <= 128 << 10


def test_large_answers_are_packed_for_who_takes_it(app: HttpApp) -> None:
    asked = {"query": "갈비탕", "top_k": 50, "include": ["metadata"]}
    packed = app.post("/v1/search", asked, headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip" and "Accept-Encoding" in packed.headers["vary"]
    plain = app.post("/v1/search", asked, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert packed.json()["results"] == plain.json()["results"]
    assert int(packed.headers["content-length"]) < len(plain.content) / 3
    small = app.post("/v1/search", {"query": "갈비탕", "top_k": 2}, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in small.headers
    listed = app.get("/v1/items", headers={"accept-encoding": "gzip"})
    assert listed.headers["content-encoding"] == "gzip" and len(listed.json()["items"]) == 59
    head = app.request("HEAD", "/v1/items", headers={"accept-encoding": "gzip"})
    assert head.headers["content-encoding"] == "gzip" and head.content == b""


@pytest.mark.parametrize(
    ("field", "taken"),
    [
        ("gzip", True), ("GZIP;q=0.5", True), ("br, gzip", True), ("*", True), ("x-gzip", True),
        ("gzip ; q=1", True), ("gzip;q=0", False), ("*;q=0", False), ("br", False), ("", False),
        ("gzip;q=0, *", False), ("gzip;q=x", False),
    ],
)  # fmt: skip
def test_accept_encoding_is_read_as_rfc_9110_says(field: str, taken: bool) -> None:
    assert accepts_gzip({b"accept-encoding": field.encode()} if field else {}) is taken


def test_listed_origins_may_call_and_no_other(app: HttpApp) -> None:
    for origin in (SHOP, "http://localhost:3000"):
        answer = app.post("/v1/search", content=ASKED, headers={**JSON, "origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin and answer.headers["vary"] == "Origin"
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
    refused = app.post("/v1/search", {"top_k": 0}, headers={"origin": SHOP})
    assert refused.status_code == 422 and refused.headers["access-control-allow-origin"] == SHOP
    for origin in ("https://evil.example", "null", "https://shop.example.evil.example"):
        answer = app.post("/v1/search", content=ASKED, headers={**JSON, "origin": origin})
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


def test_a_preflight_needs_no_key(tmp_path: Path) -> None:
    ask = {"origin": SHOP, "access-control-request-method": "POST"}
    with running_app(
        tmp_path, {"CORS_ORIGINS": SHOP, "SEARCH_API_KEY": "secret-1", "KEYLESS_WRITES": "off"}
    ) as app:
        answer = app.request("OPTIONS", "/api/v1/search", headers=ask)
        assert answer.status_code == 204 and answer.content == b""
        assert answer.headers["access-control-allow-origin"] == SHOP
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "X-API-Key" in answer.headers["access-control-allow-headers"]
        other = app.request("OPTIONS", "/v1/search", headers={**ask, "origin": "https://evil.example"})
        assert other.status_code == 405 and "access-control-allow-origin" not in other.headers
        unasked = app.request("OPTIONS", "/v1/search", headers={"origin": SHOP})
        assert unasked.status_code == 405
        assert app.post("/v1/search", content=ASKED, headers={**JSON, "origin": SHOP}).status_code == 401


def test_by_default_no_page_of_another_origin_may_call(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        ask = {"origin": SHOP, "access-control-request-method": "POST"}
        answer = app.request("OPTIONS", "/v1/search", headers=ask)
        assert answer.status_code == 405 and not any(
            name.startswith("access-control") for name in answer.headers
        )
        assert "vary" not in app.post("/v1/search", content=ASKED, headers={**JSON, "origin": SHOP}).headers


def test_any_origin_is_a_star_and_never_with_keyless_writes() -> None:
    assert Settings.from_environ({"CORS_ORIGINS": "*"}).cors_origins == ("*",)
    with pytest.raises(BadConfiguration, match="KEYLESS_WRITES"):
        Settings.from_environ({"CORS_ORIGINS": "*", "KEYLESS_WRITES": "loopback"})
    for wrong in (
        "shop.example",
        "https://shop.example/",
        SHOP.replace("shop.", "*."),
        "HTTPS://SHOP.EXAMPLE",
    ):
        with pytest.raises(BadConfiguration, match="CORS_ORIGINS"):
            Settings.from_environ({"CORS_ORIGINS": wrong})


@pytest.mark.long
def test_the_short_way_of_searches_knows_both(tmp_path: Path) -> None:
    with served(tmp_path, LIMITS) as wire:
        vector = as_base64(unit(np.random.default_rng(3), 384))
        items = [{"recipe_id": n, "vector": vector} for n in range(200)]
        wire.app.post("/v1/upsert", {"items": items})
        small = json.dumps({"vector": vector, "top_k": 3}).encode()
        large = json.dumps({"vector": vector, "top_k": 200}).encode()
        taken = wire.shortcut.taken
        answer = wire.ask(post(small, origin=SHOP, accept_encoding="gzip"))
        assert answer.headers["access-control-allow-origin"] == SHOP and wire.shortcut.taken == taken + 1
        assert "content-encoding" not in answer.headers
        packed = wire.ask(post(large, accept_encoding="gzip"))
        assert packed.headers["content-encoding"] == "gzip"
        assert len(json.loads(gzip.decompress(packed.body))["results"]) == 200
        taken = wire.shortcut.taken
        assert (
            len(json.loads(wire.ask(post(large)).body)["results"]) == 200 and wire.shortcut.taken == taken + 1
        )
        unpacked = wire.ask(post(gzip.compress(small), content_encoding="gzip"))
        assert len(json.loads(unpacked.body)["results"]) == 3
        described = [{"recipe_id": n, "metadata": {"text": "국" * 3000}} for n in range(20)]
        assert wire.app.post("/v1/upsert", {"items": described}).json()["upserted"] == 20
        asked = post(json.dumps({"vector": vector, "include": ["metadata"]}).encode(), accept_encoding="gzip")
        taken = wire.shortcut.taken
        with wire.connected() as sock, sock.makefile("rb") as stream:
            sock.sendall(asked + post(small) + asked)
            packed, following, again = (read_answer(stream) for _ in range(3))
        assert wire.shortcut.taken > taken, "its size is known late"
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Origin, Accept-Encoding"
        assert len(json.loads(following.body)["results"]) == 3
        assert json.loads(gzip.decompress(again.body))["results"]
        assert len(json.loads(gzip.decompress(packed.body))["results"]) == 25
