"""What a body may look like: encodings, byte order marks, media types, pictures as data URIs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.http_app import HttpApp, as_base64, picture, running_app, unit

RNG = np.random.default_rng(5)
V = [unit(RNG, 384) for _ in range(12)]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HttpApp]:
    with running_app(tmp_path) as running:
        yield running


def ids(app: HttpApp, **more: Any) -> list[int]:
    answer = app.post("/v1/search", {"vector": as_base64(V[0]), "top_k": 100, **more})
    assert answer.status_code == 200, answer.text
    return [row["recipe_id"] for row in answer.json()["results"]]


@pytest.mark.parametrize("encoding", ["cp949", "utf-16", "latin-1"])
def test_a_body_in_another_encoding_is_no_json(app: HttpApp, encoding: str) -> None:
    headers = {"content-type": "application/json"}
    word = "caf\xe9" if encoding == "latin-1" else "갈비탕"
    bodies = [
        '{"items": [{"recipe_id": 1, "text": "%s"}]}',
        '{"items": [{"recipe_id": 1, "metadata": {"%s": 1}}]}',
        '{"collection": "recipes", "items": [{"recipe_id": 1, "unknown": "%s"}]}',
        '{"collection": "recipes", "items": [], "source": {"%s": "a"}}',
        '{"collection": "recipes", "items": [], "delete_ids": ["%s"]}',
        '{"items": [{"recipe_id": 1, "text": "' + "a" * 300_000 + '%s"}]}',
    ]
    for body in bodies:
        for query in ("", "?partial=true"):
            content = (body % word).encode(encoding)
            problem = app.post("/v1/upsert" + query, content=content, headers=headers)
            assert (problem.status_code, problem.json()["code"]) == (400, "malformed_json"), body[:60]
    assert ids(app) == []
    for path, text in (("/v1/search", '{"query": "%s"}'), ("/v1/embed", '{"text": "%s"}')):
        problem = app.post(path, content=(text % word).encode(encoding), headers=headers)
        assert (problem.status_code, problem.json()["code"]) == (400, "malformed_json"), path


def test_a_byte_order_mark_and_a_type_in_capitals_are_taken(app: HttpApp) -> None:
    headers = {"content-type": "Application/JSON; Charset=UTF-8", "content-encoding": "Identity"}
    bom = b"\xef\xbb\xbf"
    stored = app.post(
        "/v1/upsert", content=bom + b'{"items": [{"recipe_id": 1, "text": "a"}]}', headers=headers
    )
    assert stored.status_code == 200, stored.text
    found = app.post("/v1/search", content=bom + b'{"query": "a"}', headers=headers)
    assert [row["recipe_id"] for row in found.json()["results"]] == [1]
    wrong = app.post("/v1/search", content=bom + b'{"query": 1}', headers=headers)
    assert (wrong.status_code, wrong.json()["errors"][0]["loc"]) == (422, ["body", "query"])
    twice = app.post("/v1/search", content=bom + bom + b"{}x", headers=headers)
    assert (twice.status_code, twice.json()["code"]) == (400, "malformed_json")
    vector = unit(RNG, 384).tobytes()
    raw = app.post("/v1/search", content=vector, headers={"content-type": "Application/Octet-Stream; x=y"})
    assert raw.status_code == 200, raw.text
    packed = app.post("/search_similar", files={"file": b"x"}, headers={"content-encoding": "br"})
    assert (packed.status_code, packed.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.long
def test_pictures_come_as_data_uris_too(app: HttpApp) -> None:
    plain = picture(1)
    heads = ("data:image/png;base64,", "DATA:image/PNG;charset=utf-8;BASE64,", "data:;base64,")
    for place, head in enumerate(heads):
        items = [{"product_id": f"p{place}", "image": head + plain}]
        assert app.post("/v1/upsert", {"items": items}).json()["upserted"] == 1
    quoted = "data:image/png;base64," + plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
    for image in (plain, heads[0] + plain, quoted):
        found = app.post("/v1/search", {"image": image, "top_k": 3}).json()["results"]
        assert [row["product_id"] for row in found] == ["p0", "p1", "p2"]
        assert found[0]["distance"] < 1e-6
        assert app.post("/v1/embed", {"image": image}).status_code == 200
    for image in ("data:image/png,abc", "data:image/png;base64", "data:image/png;base64,!", "data:"):
        problem = app.post("/v1/search", {"image": image})
        assert (problem.status_code, problem.json()["errors"][0]["loc"]) == (422, ["body", "image"])
