"""What bounds a search: a cursor by its question, an answer by its bytes; and what callers are warned of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.contract.searches import pages
from tests.http_app import HttpApp, as_base64, picture, running_app, unit, with_collections

RNG = np.random.default_rng(11)
UNIT = unit(RNG, 384)
OTHER = unit(RNG, 384)
OCTETS = {"content-type": "application/octet-stream"}
BARE = """
[collections.bare]
id_field = "id"
id_type = "int64"
modality = "text"
dim = 384
metric = "l2"
model = "none"
default = true
"""


def found(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [row.get("recipe_id") for row in answer.json()["results"]]


def refused(answer: httpx.Response) -> tuple[int, str, list[Any]]:
    problem = answer.json()
    return problem["status"], problem["code"], [each["loc"] for each in problem["errors"]]


BY_VECTOR = {"vector": as_base64(UNIT)}
BY_TEXT = {"query": "찌개"}
BY_LIKE = {"like_ids": [3, 4]}
BY_PICTURE = {"image": picture(3)}


@pytest.mark.parametrize(
    ("asked", "others"),
    [
        (BY_VECTOR, [{"vector": as_base64(OTHER)}, BY_TEXT, BY_LIKE]),
        (BY_TEXT, [{"query": "국"}, BY_VECTOR]),
        (BY_LIKE, [{"like_ids": [3, 5]}, {"like_ids": [3, 4], "unlike_ids": [9]}]),
        (BY_PICTURE, [{"image": picture(4)}, BY_TEXT]),
    ],
)
def test_a_cursor_belongs_to_its_question(
    app: HttpApp, asked: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    first = app.post("/v1/search", {**asked, "top_k": 3}).json()
    cursor = first["next_cursor"]
    again = app.post("/v1/search", {**asked, "top_k": 4, "include": ["score"], "cursor": cursor})
    assert again.status_code == 200, "how many and what of them may change"
    conditions: list[dict[str, Any]] = [
        {"filter": {"category": "국"}},
        {"exclude_ids": ["p-1"] if "image" in asked else [1]},
        {"max_distance": 9.0},
        {"exact": True},
    ]
    for other in (*others, *({**asked, **each} for each in conditions)):
        answer = app.post("/v1/search", {**other, "top_k": 3, "cursor": cursor})
        assert refused(answer) == (422, "invalid_cursor", [["body", "cursor"]]), other


def test_a_cursor_of_a_filtered_question_goes_on(app: HttpApp) -> None:
    body = {
        **BY_TEXT,
        "filter": {"price": {"$gt": 0}, "category": {"$in": ["국", "밥"]}},
        "exclude_ids": [3, 4],
    }
    whole = found(app.post("/v1/search", {**body, "top_k": 30}))
    page = app.post("/v1/search", {**body, "top_k": 7}).json()
    reordered = {**body, "filter": {"category": {"$in": ["국", "밥"]}, "price": {"$gt": 0}}}
    rest = app.post("/v1/search", {**reordered, "top_k": 30, "cursor": page["next_cursor"]})
    assert [row["recipe_id"] for row in page["results"]] + found(rest) == whole


def test_rank_goes_on_over_pages(app: HttpApp) -> None:
    shown = pages(app, **BY_TEXT, top_k=8, include=["rank"])
    assert [row["rank"] for page in shown for row in page["results"]] == list(range(1, 31))
    later = app.post("/v1/search", {**BY_TEXT, "top_k": 2, "offset": 5, "include": ["rank"]}).json()
    assert [row["rank"] for row in later["results"]] == [6, 7]
    after = app.post(
        "/v1/search", {**BY_TEXT, "top_k": 1, "cursor": later["next_cursor"], "include": ["rank"]}
    ).json()
    assert [row["rank"] for row in after["results"]] == [8]


def test_a_seq_beyond_the_pages_of_a_cursor_is_refused_at_once(app: HttpApp) -> None:
    page = app.post("/v1/search", {**BY_TEXT, "top_k": 3}).json()
    body = {**BY_TEXT, "top_k": 3, "cursor": page["next_cursor"]}
    assert app.post("/v1/search", {**body, "min_seq": page["seq"]}).status_code == 200
    answer = app.post("/v1/search", {**body, "min_seq": page["seq"] + 1})
    assert refused(answer) == (422, "invalid_request", [["body", "min_seq"]])


def test_offset_up_to_a_million(app: HttpApp) -> None:
    assert found(app.post("/v1/search", {**BY_TEXT, "offset": 1_000_000})) == []
    answer = app.post("/v1/search", {**BY_TEXT, "offset": 1_000_001})
    assert refused(answer) == (422, "invalid_request", [["body", "offset"]])


def test_bounds_of_a_filter_are_those_of_the_contract(app: HttpApp) -> None:
    many = {"price": {"$in": list(range(1000, 101_000))}}
    assert len(found(app.post("/v1/search", {**BY_TEXT, "filter": many}))) == 25
    answer = app.post("/v1/search", {**BY_TEXT, "filter": {"price": {"$in": list(range(100_001))}}})
    assert refused(answer)[:2] == (422, "invalid_filter")


def test_what_a_caller_may_have_meant_is_told(app: HttpApp) -> None:
    assert "warnings" not in app.post("/v1/search", BY_TEXT).json()
    body = {**BY_TEXT, "limit": 3, "k": 4, "min_score": 0.5, "filter": {"catgory": "국", "price": {"$gt": 0}}}
    warnings = app.post("/v1/search", body).json()["warnings"]
    assert [each.split()[0] for each in warnings] == ["limit", "k", "min_score", "filter:"]
    assert "top_k" in warnings[0] and "max_distance" in warnings[2] and "'catgory'" in warnings[3]
    batch = app.post(
        "/v1/search-batch", {"searches": [{**BY_TEXT, "size": [1]}, {**BY_TEXT, "n_results": 2}]}
    )
    assert [each["warnings"][0].split()[0] for each in batch.json()["responses"]] == ["size", "n_results"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("exclude_ids=5&exclude_ids=6,7", {"exclude_ids": [5, 6, 7]}),
        ('filter={"price":{"$lt":9000}}', {"filter": {"price": {"$lt": 9000}}}),
        ("max_distance=1.38", {"max_distance": 1.38}),
        (
            "offset=4&include=rank,score&include=metadata",
            {"offset": 4, "include": ["rank", "score", "metadata"]},
        ),
        ("exact=true", {"exact": True}),
        ("min_seq=1", {"min_seq": 1}),
        ("collection=recipes&top_k=30", {"collection": "recipes", "top_k": 30}),
    ],
)
def test_a_vector_body_means_the_same_as_json(app: HttpApp, query: str, fields: dict[str, Any]) -> None:
    content = UNIT.astype("<f4").tobytes()
    octets = app.post(f"/v1/search?{query}", content=content, headers=OCTETS)
    plain = app.post("/v1/search", {**BY_VECTOR, **fields})
    assert octets.status_code == plain.status_code == 200, octets.text
    assert octets.json()["results"] == plain.json()["results"] != []


def test_a_vector_body_never_shows_an_excluded_id(app: HttpApp) -> None:
    content = UNIT.astype("<f4").tobytes()
    nearest = found(app.post("/v1/search?top_k=3", content=content, headers=OCTETS))
    shown = found(app.post(f"/v1/search?top_k=30&exclude_ids={nearest[0]}", content=content, headers=OCTETS))
    assert len(shown) == 29 and nearest[0] not in shown
    ids = {"exclude_ids": ["007", "a,b"]}
    target = str(httpx.URL("/v1/search", params={"collection": "products", **ids}))
    answer = app.post(target, content=unit(RNG, 512).astype("<f4").tobytes(), headers=OCTETS).json()
    assert len(answer["results"]) == 10 and "007" not in str(answer["results"])


def test_pages_of_a_vector_body(app: HttpApp) -> None:
    content = UNIT.astype("<f4").tobytes()
    page = app.post("/v1/search?top_k=4", content=content, headers=OCTETS).json()
    cursor = page["next_cursor"]
    rest = found(app.post(f"/v1/search?top_k=30&cursor={cursor}", content=content, headers=OCTETS))
    assert len(rest) == 26
    other = app.post(f"/v1/search?cursor={cursor}", content=OTHER.astype("<f4").tobytes(), headers=OCTETS)
    assert refused(other) == (422, "invalid_cursor", [["query", "cursor"]])
    same = app.post("/v1/search", {**BY_VECTOR, "top_k": 30, "cursor": cursor})
    assert found(same) == rest, "the same question, however it is sent"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=3", "limit"),
        ("query=a", "query"),
        ("like_ids=1", "like_ids"),
        ("top_k=0", "top_k"),
        ("top_k=x", "top_k"),
        ("exclude_ids=a", "exclude_ids"),
        ("exclude_ids=1,", "exclude_ids"),
        ("filter=[1]", "filter"),
        ("filter={", "filter"),
        ("max_distance=nan", "max_distance"),
        ("exact=perhaps", "exact"),
        ("include=everything", "include"),
        ("cursor=x", "cursor"),
        ("min_seq=-1", "min_seq"),
    ],
)
def test_what_a_vector_body_refuses_names_the_parameter(app: HttpApp, query: str, named: str) -> None:
    answer = app.post(f"/v1/search?{query}", content=UNIT.astype("<f4").tobytes(), headers=OCTETS)
    status, _, (loc,) = refused(answer)
    assert status == 422 and loc[:2] == ["query", named], answer.text


@pytest.mark.long
def test_an_answer_that_would_be_too_large_is_refused_before_searching(seeded: Path) -> None:
    with running_app(seeded, {"ANSWER_BYTES_MAX": "1000000"}) as app:
        fine = app.post("/v1/search", {**BY_TEXT, "top_k": 200, "include": ["vector", "score"]})
        assert len(found(fine)) == 30
        vectors = app.post("/v1/search", {**BY_TEXT, "top_k": 300, "include": ["vector"]})
        assert refused(vectors) == (422, "answer_too_large", [["body", "top_k"]])
        searches = [{**BY_TEXT, "top_k": 1000}] * 20
        batch = app.post("/v1/search-batch", {"searches": searches})
        assert refused(batch) == (422, "answer_too_large", [["body", "searches"]])
        assert app.post("/v1/search-batch", {"searches": searches[:5]}).status_code == 200
        octets = app.post(
            "/v1/search?top_k=300&include=vector", content=UNIT.astype("<f4").tobytes(), headers=OCTETS
        )
        assert refused(octets)[:2] == (422, "answer_too_large")


def test_metadata_counts_once_it_is_found(tmp_path: Path) -> None:
    with running_app(tmp_path, {"ANSWER_BYTES_MAX": "65536"}) as app:
        items = [
            {"recipe_id": n, "text": f"국 {n}", "metadata": {"note": "x" * 10_000}} for n in range(1, 11)
        ]
        assert app.post("/v1/upsert", {"items": items}).status_code == 200
        body = {**BY_TEXT, "include": ["metadata"]}
        assert len(found(app.post("/v1/search", {**body, "top_k": 6}))) == 6
        answer = app.post("/v1/search", {**body, "top_k": 7})
        assert refused(answer) == (422, "answer_too_large", [["body", "top_k"]])
        batch = app.post("/v1/search-batch", {"searches": [{**body, "top_k": 4}] * 2})
        assert refused(batch) == (422, "answer_too_large", [["body", "searches"]])


def test_text_to_a_collection_without_a_model_can_never_succeed(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", with_collections(tmp_path, BARE)) as app:
        item = {"id": 1, "vector": as_base64(UNIT)}
        assert app.post("/v1/upsert", {"items": [item], "embedding_version": "v"}).status_code == 200
        assert app.post("/v1/search", BY_VECTOR).json()["results"] == [{"id": 1, "distance": 0.0}]
        for path, body in (
            ("/v1/search", BY_TEXT),
            ("/v1/search", {**BY_PICTURE, "collection": "bare"}),
            ("/v1/search-batch", {"searches": [BY_TEXT]}),
            ("/v1/embed", {"text": "국"}),
            ("/v1/embed-batch", {"texts": ["국"]}),
            ("/v1/upsert", {"items": [{"id": 2, "text": "국"}]}),
        ):
            answer = app.post(path, body)
            assert answer.status_code == 422, (path, answer.text)
            assert "no model" in json.dumps(answer.json()["errors"]), path


@pytest.mark.long
def test_a_batch_alone_is_never_too_much_for_the_line(seeded: Path) -> None:
    with running_app(seeded, {"QUEUE_MS_MAX": "10"}) as app:
        searches = [
            {"vector": as_base64(UNIT), "top_k": 30, "exact": True, "offset": n % 9} for n in range(100)
        ]
        answer = app.post("/v1/search-batch", {"searches": searches})
        assert answer.status_code == 200, answer.text
        sizes = [len(each["results"]) for each in answer.json()["responses"]]
        assert sizes == [30 - n % 9 for n in range(100)]


@pytest.mark.long
def test_nor_is_a_batch_of_many_liked_items(seeded: Path) -> None:
    with running_app(seeded, {"QUEUE_MS_MAX": "10"}) as app:
        likes = {"like_ids": list(range(1, 21)), "recommend": "best"}
        answer = app.post("/v1/search-batch", {"searches": [likes] * 40})
        assert answer.status_code == 200, answer.text
        assert [len(each["results"]) for each in answer.json()["responses"]] == [10] * 40


@pytest.mark.long
def test_what_the_index_refuses_in_a_batch_names_its_search(seeded: Path) -> None:
    with running_app(seeded) as app:
        bad = {"query": "국", "filter": {"price": {"$near": 3}}}
        answer = app.post("/v1/search-batch", {"searches": [{"query": "국"}, bad]})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_filter")
        assert answer.json()["errors"][0]["loc"][:4] == ["body", "searches", 1, "filter"]
