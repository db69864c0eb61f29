"""seen_key over the wire: what was answered under it is left out of what follows, and nothing else is."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.searches import search
from tests.http_app import HttpApp, picture


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def ids(document: dict[str, Any]) -> list[Any]:
    return [row.get("recipe_id", row.get("product_id")) for row in document["results"]]


QUESTIONS: list[dict[str, Any]] = [
    {"query": "찌개"},
    {"like_ids": [1, 2]},
    {"like_ids": [1, 2, 3], "recommend": "each", "unlike_ids": [9]},
    {"image": picture(3)},
    {"query": "찌개", "filter": {"category": "국"}, "exclude_ids": [3, 6]},
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_scrolling_shows_everything_once(app: HttpApp, key: str, question: dict[str, Any]) -> None:
    whole = ids(search(app, **question, top_k=100))
    shown: list[Any] = []
    while True:
        page = search(app, **question, top_k=4, seen_key=key)
        assert "next_cursor" not in page
        shown += ids(page)
        if page["exhausted"]:
            break
        assert len(page["results"]) == 4
    assert sorted(shown) == sorted(whole) and len(set(shown)) == len(shown)
    is_in_turns = question.get("recommend") == "each"  # which begin again on every page
    assert is_in_turns or shown == whole
    assert ids(search(app, **question, top_k=4, seen_key=key)) == []
    again = search(app, **question, top_k=4, seen_key=key, seen_reset=True)
    assert ids(again) == whole[:4]
    following = ids(search(app, **question, top_k=2, seen_key=key))
    assert len(following) == 2 and not set(following) & set(whole[:4])
    assert is_in_turns or following == whole[4:6]


def test_a_key_is_of_one_collection_and_of_one_caller(app: HttpApp, key: str) -> None:
    first = ids(search(app, query="국", top_k=3, seen_key=key))
    assert ids(search(app, query="국", top_k=3)) == first, "a search without the key"
    assert ids(search(app, query="국", top_k=3, seen_key=f"{key}2")) == first
    assert not set(first) & set(ids(search(app, query="밥", top_k=30, seen_key=key))), "another question"
    assert len(search(app, image=picture(1), top_k=30, seen_key=key)["results"]) == 11


def test_only_what_was_answered_is_remembered(app: HttpApp, key: str) -> None:
    assert ids(search(app, query="국", top_k=3, max_distance=0.0, seen_key=key)) == []
    assert app.post("/v1/search", {"query": "국", "top_k": 0, "seen_key": key}).status_code == 422
    failed = {"like_ids": [999], "seen_key": key}
    assert app.post("/v1/search", failed).status_code == 404
    assert ids(search(app, query="국", top_k=3, seen_key=key)) == ids(search(app, query="국", top_k=3))


def test_a_batch_remembers_each_of_its_answers(app: HttpApp, key: str) -> None:
    searches = [{"query": "국", "top_k": 3, "seen_key": key}, {"query": "밥", "top_k": 3}]
    answers = app.post("/v1/search-batch", {"searches": searches}).json()["responses"]
    after = ids(search(app, query="국", top_k=27, seen_key=key))
    assert not set(ids(answers[0])) & set(after) and len(after) == 27


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"seen_key": ""}, "seen_key"),
        ({"seen_key": "x" * 257}, "seen_key"),
        ({"seen_key": 5}, "seen_key"),
        ({"seen_reset": True}, "seen_reset"),
        ({"seen_key": "x", "cursor": "abc"}, "cursor"),
    ],
)
def test_what_is_refused_names_its_field(app: HttpApp, body: dict[str, Any], field: str) -> None:
    answer = app.post("/v1/search", {"query": "국", **body})
    assert answer.status_code == 422 and answer.json()["errors"][0]["loc"] == ["body", field]


def test_it_is_told_in_metrics_and_explain_takes_none(app: HttpApp, key: str) -> None:
    search(app, query="국", seen_key=key)
    text = app.get("/metrics").text
    (keys,) = [line.split()[1] for line in text.splitlines() if line.startswith("uhok_seen_keys ")]
    assert float(keys) >= 1 and key not in text
    assert key not in app.get("/v1/slow").text
    answer = app.post("/v1/explain", {"query": "국", "seen_key": key, "id": 3})
    assert answer.status_code == 422 and answer.json()["errors"][0]["loc"] == ["body", "seen_key"]
