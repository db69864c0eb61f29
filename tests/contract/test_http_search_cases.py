"""One table of search requests; the front door and a pydantic reference answer each alike."""

from __future__ import annotations

import base64
import json
import time
import unicodedata
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tests.contract.pydantic_reference import reference_app
from tests.http_app import HttpApp, application_of, as_base64, picture, unit

UNIT384 = unit(np.random.default_rng(20261122), 384)
UNIT512 = unit(np.random.default_rng(7), 512)
NFD = unicodedata.normalize("NFD", "갈비탕")
JSON = "application/json"


@dataclass(frozen=True)
class Case:
    """named: the field that the problem names, below the body."""

    name: str
    body: Any
    status: int = 200
    code: str = ""
    named: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    path: str = "/v1/search"

    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def bad(name: str, body: Any, named: str, code: str = "invalid_request", status: int = 422) -> Case:
    return Case(name, body, status, code, named)


def query(**more: Any) -> dict[str, Any]:
    return {"query": "갈비탕", **more}


CASES = [
    Case("deployed backend", query(top_k=25, exclude_ids=[])),
    Case("other prefix", query(top_k=25), path="/api/v1/search"),
    Case("trailing slash", query(top_k=25), path="/api/v1/search/"),
    Case("content type with charset", query(), headers={"content-type": "application/json; charset=utf-8"}),
    Case("unknown fields are ignored", query(page=2, locale={"a": [1]})),
    Case("nulls are absent", query(top_k=None, exclude_ids=None, filter=None, include=None, offset=None)),
    Case("surrounding white space", {"query": "  갈비탕\n"}),
    Case("decomposed Hangul", {"query": NFD}),
    Case("1000 characters", {"query": "가" * 1000}),
    Case("1000 after trimming", {"query": " " * 500 + "가" * 1000 + "\t"}),
    Case("top_k at the top", query(top_k=10_000)),
    Case("offset past the end", query(offset=1000)),
    Case("exclude everything", query(exclude_ids=list(range(1, 31)))),
    Case("exclude unknown ids", query(exclude_ids=[-5, 0, 2**63 - 1, -(2**63)])),
    Case("exclude 70,000 ids", query(exclude_ids=list(range(10, 70_010)))),
    Case("exact", query(exact=True)),
    Case("max_distance", query(max_distance=1.1)),
    Case("max_distance zero", query(max_distance=0)),
    Case("filter", query(filter={"category": "국"})),
    Case("filter with operators", query(filter={"$or": [{"price": {"$lt": 3000}}, {"category": {"$in": ["밥"]}}]})),  # noqa: E501
    Case("empty filter", query(filter={})),
    Case("vector of numbers", {"vector": UNIT384.tolist()}),
    Case("vector of integers", {"vector": [1] * 384}),
    Case("vector in base64", {"vector": as_base64(UNIT384)}),
    Case("vector to pictures", {"vector": as_base64(UNIT512), "collection": "products"}),
    Case("picture", {"image": picture(3)}),
    Case("like", {"like_ids": [3, 4], "unlike_ids": [5]}),
    Case("like one product", {"like_ids": ["007"], "collection": "products"}),
    Case("batch", {"searches": [query(top_k=2), {"vector": as_base64(UNIT384)}]}, path="/v1/search-batch"),
    # Not JSON.
    bad("nothing", b"", "", "malformed_json", 400),
    bad("half", b'{"query": "a', "", "malformed_json", 400),
    bad("two documents", b'{"query": "a"} {}', "", "malformed_json", 400),
    bad("NaN", b'{"query": "a", "max_distance": NaN}', "", "malformed_json", 400),
    bad("not UTF-8", b'{"query": "\xff\xfe"}', "", "malformed_json", 400),
    bad("lone surrogate", b'{"query": "\\ud800"}', "", "malformed_json", 400),
    bad("a million brackets", b"[" * 1_000_000, "", "malformed_json", 400),
    bad("a million brackets in a filter", b'{"query":"a","filter":{"a":' + b"[" * 1_000_000, "", "malformed_json", 400),  # noqa: E501
    bad("a million objects", b'{"x":' * 1_000_000, "", "malformed_json", 400),
    bad("wrong type, then broken", b'{"top_k": "x", "query": ', "", "malformed_json", 400),
    Case("form", b"query=a", 415, "unsupported_media_type", headers={"content-type": "application/x-www-form-urlencoded"}),  # noqa: E501
    Case("no content type", b'{"query": "a"}', 415, "unsupported_media_type", headers={}),
    # JSON of another shape.
    bad("an array", [query()], ""),
    bad("query missing", {"top_k": 5}, "query"),
    bad("two contents", query(vector=UNIT384.tolist()), "query"),
    bad("empty query", {"query": ""}, "query"),
    bad("blank query", {"query": " \n\t "}, "query"),
    bad("1001 characters", {"query": "가" * 1001}, "query"),
    bad("query is a number", {"query": 5}, "query"),
    bad("NUL", {"query": "a\x00b"}, "query"),
    bad("top_k 0", query(top_k=0), "top_k"),
    bad("top_k -1", query(top_k=-1), "top_k"),
    bad("top_k 10,001", query(top_k=10_001), "top_k"),
    bad("top_k 10^18", query(top_k=10**18), "top_k"),
    bad("top_k 10^30", query(top_k=10**30), "top_k"),
    bad("top_k 1.5", query(top_k=1.5), "top_k"),
    bad("top_k as text", query(top_k="5"), "top_k"),
    bad("top_k true", query(top_k=True), "top_k"),
    bad("offset -1", query(offset=-1), "offset"),
    bad("exclude_ids of text", query(exclude_ids=["7"]), "exclude_ids", "invalid_id"),
    bad("exclude_ids mixed", query(exclude_ids=[1, "7"]), "exclude_ids", "invalid_id"),
    bad("exclude_ids too large", query(exclude_ids=[2**63]), "exclude_ids", "invalid_id"),
    bad("exclude_ids with null", query(exclude_ids=[1, None]), "exclude_ids"),
    bad("exclude_ids with true", query(exclude_ids=[True]), "exclude_ids"),
    bad("exclude_ids as object", query(exclude_ids={"a": 1}), "exclude_ids"),
    bad("exclude_ids of numbers", {"image": picture(1), "exclude_ids": [7]}, "exclude_ids", "invalid_id"),
    bad("max_distance 1e400", b'{"query": "a", "max_distance": 1e400}', "max_distance"),
    bad("max_distance as text", query(max_distance="1"), "max_distance"),
    bad("include something else", query(include=["everything"]), "include"),
    bad("filter with unknown operator", query(filter={"price": {"$near": 5}}), "filter", "invalid_filter"),
    bad("filter as list", query(filter=[1]), "filter"),
    bad("vector too short", {"vector": [0.1, 0.2]}, "vector", "invalid_dimension"),
    bad("vector empty", {"vector": []}, "vector", "invalid_dimension"),
    bad("vector of a picture", {"vector": as_base64(UNIT512)}, "vector", "invalid_dimension"),
    bad("vector zero", {"vector": [0.0] * 384}, "vector", "invalid_vector"),
    bad("vector too large for float32", {"vector": [1e39] * 384}, "vector", "invalid_vector"),
    bad("vector with NaN in base64", {"vector": as_base64(UNIT384 * np.float32("nan"))}, "vector", "invalid_vector"),  # noqa: E501
    bad("vector of text", {"vector": ["a"] * 384}, "vector"),
    bad("vector no base64", {"vector": "???"}, "vector"),
    bad("vector cut short", {"vector": base64.b64encode(b"\0\0\0").decode()}, "vector", "invalid_vector"),
    bad("image no base64", {"image": "???"}, "image"),
    bad("image no picture", {"image": base64.b64encode(b"hello, I am a text").decode()}, "image", "invalid_image"),  # noqa: E501
    bad("batch of none", {"searches": []}, "searches"),
    Case("unknown collection", query(collection="nowhere"), 404, "unknown_collection"),
    Case("like an unknown id", {"like_ids": [999]}, 404, "unknown_item"),
    Case("vector of another version", {"vector": UNIT384.tolist(), "embedding_version": "x"}, 409, "embedding_version_mismatch"),  # noqa: E501
    Case("text under another version", query(embedding_version="x"), 409, "embedding_version_mismatch"),
]  # fmt: skip


@pytest.fixture(scope="module")
def reference(app: HttpApp) -> HttpApp:
    return HttpApp(reference_app(application_of(app).searcher, application_of(app).catalogue), app.loop)


def path_of(case: Case) -> str:
    return "/v1/search-batch" if case.name == "batch of none" else case.path


def processor_seconds(app: HttpApp, case: Case) -> float:
    """What an answer takes of this process: how busy the machine is does not count, but a collection of
    garbage, which many tests leave behind, does. What the body costs comes every time."""
    started = time.process_time()
    app.post(path_of(case), content=case.content(), headers=case.headers)
    return time.process_time() - started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_front_door_answers_as_the_table_says(app: HttpApp, case: Case) -> None:
    answer = app.post(path_of(case), content=case.content(), headers=case.headers)
    assert answer.status_code == case.status, answer.text
    assert len(answer.headers["x-request-id"]) >= 8
    if case.status == 200:
        return
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"]) == (case.status, case.code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert set(problem) == {"type", "title", "status", "detail", "instance", "code", "errors", "request_id"}
    if case.named:
        assert problem["errors"][0]["loc"][:2] == ["body", case.named]
        assert case.named in problem["detail"] or case.code.startswith("invalid_")
    if case.code == "malformed_json":
        assert min(processor_seconds(app, case) for _ in range(3)) < 0.1


REFERENCE_DIFFERS = {
    # The standard library's parser takes NaN and lone surrogates, and recurses.
    "NaN", "lone surrogate", "not UTF-8",
    "a million brackets", "a million brackets in a filter", "a million objects",
    # FastAPI calls these a missing or invalid body: 422.
    "nothing", "form", "no content type",
}  # fmt: skip


@pytest.mark.parametrize(
    "case", [each for each in CASES if each.name not in REFERENCE_DIFFERS], ids=lambda case: case.name
)
def test_pydantic_reference_agrees(app: HttpApp, reference: HttpApp, case: Case) -> None:
    expected = reference.post(path_of(case), content=case.content(), headers=case.headers)
    got = app.post(path_of(case), content=case.content(), headers=case.headers)
    assert got.status_code == expected.status_code == case.status, expected.text
    if case.status == 200:
        pairs = zip(_answers(got.json()), _answers(expected.json()), strict=True)
        assert all({key: left[key] for key in right} == right for left, right in pairs)


def _answers(document: dict[str, Any]) -> list[dict[str, Any]]:
    return list(document.get("responses", [document]))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"query": 5}, "query: Expected string or null, got integer."),
        ({"top_k": 2.5, "query": "a"}, "top_k: Expected integer or null, got number."),
        ({}, "query is missing: give one of query, image, vector, like_ids."),
        (
            {"query": "미역국", "like_ids": [3]},
            "query can't be combined with like_ids: give only one of query, image, vector, like_ids.",
        ),
    ],
)
def test_what_is_wrong_is_said_plainly(app: HttpApp, body: Any, said: str) -> None:
    assert app.post("/v1/search", body).json()["detail"] == said


OCTETS = {"content-type": "application/octet-stream"}


def test_a_vector_as_the_body_answers_like_the_same_vector_in_json(app: HttpApp) -> None:
    plain = app.post("/v1/search", {"vector": UNIT512.tolist(), "collection": "products", "top_k": 7})
    octets = app.post(
        "/v1/search?collection=products&top_k=7", content=UNIT512.astype("<f4").tobytes(), headers=OCTETS
    )
    assert octets.status_code == 200, octets.text
    assert octets.json()["results"] == plain.json()["results"] != []


@pytest.mark.parametrize(
    ("search", "body", "said"),
    [
        ("", b"123", "vector"),
        ("", b"", "vector"),
        ("", b"\0" * 512 * 4, "vector"),
        ("top_k=0", UNIT384.tobytes(), "top_k"),
        ("top_k=x", UNIT384.tobytes(), "top_k"),
        ("a=1" + "&" * 10_000, UNIT384.tobytes(), "10000 query parameters"),
    ],
)
def test_a_bad_vector_body_is_refused_by_name(app: HttpApp, search: str, body: bytes, said: str) -> None:
    answer = app.post(f"/v1/search?{search}", content=body, headers=OCTETS)
    assert answer.status_code == 422, answer.text
    assert said in answer.text
