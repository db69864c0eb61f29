"""Recommending from ids over the wire: each liked one for itself, weights, a veto, pages, refusals."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.contract.searches import explained, ids, pages, search
from tests.http_app import HttpApp

LIKES = [1, 11, 2, 12]
"""Two of 김치찌개, two of 된장찌개."""


def asked(app: HttpApp, **more: Any) -> httpx.Response:
    return app.post("/v1/search", {"like_ids": LIKES, **more})


def found(app: HttpApp, **more: Any) -> dict[str, Any]:
    return search(app, **{"like_ids": LIKES, **more})


@pytest.mark.parametrize("mode", ["best", "each"])
def test_each_liked_one_counts_for_itself(app: HttpApp, mode: str) -> None:
    document = found(app, recommend=mode, top_k=26, include=["why", "score", "metadata"])
    assert sorted(ids(document)) == sorted(set(range(1, 31)) - set(LIKES)) and document["exhausted"]
    first = 2 if mode == "best" else len(LIKES)
    assert {21, 22} <= set(ids(document)[:first]), "the third of each dish"
    for row in document["results"]:
        alone = app.post(
            "/v1/search", {"like_ids": [row["why"]["like_id"]], "top_k": 30, "include": ["score"]}
        )
        (same,) = [each for each in alone.json()["results"] if each["recipe_id"] == row["recipe_id"]]
        assert row["distance"] == pytest.approx(same["distance"], abs=1e-6)
        assert row["score"] == pytest.approx(same["score"], abs=1e-6)
        assert row["metadata"]


def test_weights_say_who_begins_and_how_far_one_reaches(app: HttpApp) -> None:
    of_each = found(app, recommend="each", like_weights=[1, 1, 5, 2], top_k=2, include=["why"])
    assert [row["why"]["like_id"] for row in of_each["results"]] == [2, 12]
    of_best = found(app, recommend="best", like_weights=[1, 1, 1000, 1], top_k=20, include=["why"])
    assert {row["why"]["like_id"] for row in of_best["results"]} == {2}
    assert ids(found(app, like_weights=[1, 1, 1, 1])) == ids(found(app))
    heavy = found(app, like_weights=[1, 1, 900, 900], top_k=1)
    assert ids(heavy) == [22], "the mean leans to the heavier ones"


def test_a_disliked_one_is_a_veto(app: HttpApp) -> None:
    for mode in ("best", "each"):
        document = found(app, recommend=mode, unlike_ids=[22], top_k=30)
        assert 22 not in ids(document) and 21 in ids(document)
        assert document["exhausted"] and len(ids(document)) < 25


@pytest.mark.parametrize("mode", ["best", "each"])
def test_pages_are_the_whole_answer(app: HttpApp, mode: str) -> None:
    conditions: dict[str, Any] = {
        "recommend": mode,
        "exclude_ids": [5],
        "unlike_ids": [13],
        "filter": {"price": {"$gt": 4000}},
    }
    whole = found(app, **conditions, top_k=30)
    shown = pages(app, like_ids=LIKES, **conditions, top_k=4, include=["rank"])
    rows = [row for page in shown for row in page["results"]]
    assert [row["recipe_id"] for row in rows] == ids(whole)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["distance"] for row in rows] == [row["distance"] for row in whole["results"]]


@pytest.mark.parametrize("mode", ["mean", "best", "each"])
def test_a_page_is_refused_once_a_liked_item_was_written(app: HttpApp, mode: str) -> None:
    text = {"mean": "잡채", "best": "불고기", "each": "냉면"}[mode]
    page = found(app, like_ids=[7, 8], recommend=mode, top_k=3)
    app.post("/v1/deactivate", {"collection": "recipes", "ids": [30]})
    again = {"like_ids": [7, 8], "recommend": mode, "top_k": 3, "cursor": page["next_cursor"]}
    assert found(app, **again)["results"], "other writes change nothing"
    app.post("/v1/upsert", {"items": [{"recipe_id": 8, "text": f"{text} 새로"}]})
    refused = asked(app, **again)
    assert (refused.status_code, refused.json()["code"]) == (422, "cursor_expired")


def test_a_cursor_belongs_to_its_recommendation(app: HttpApp) -> None:
    for mode in ("mean", "best", "each"):
        cursor = found(app, recommend=mode, top_k=3)["next_cursor"]
        for other in ("mean", "best", "each"):
            answer = asked(app, recommend=other, top_k=3, cursor=cursor)
            assert answer.status_code == (200 if other == mode else 422)
        weighed = asked(app, recommend=mode, like_weights=[1, 2, 1, 1], top_k=3, cursor=cursor)
        assert weighed.json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"like_ids": [1], "recommend": "worst"}, "recommend"),
        ({"like_ids": [1], "like_weights": [1, 2]}, "like_weights"),
        ({"like_ids": [1], "like_weights": [0]}, "like_weights"),
        ({"like_ids": [1], "like_weights": [-1]}, "like_weights"),
        ({"like_ids": [1], "like_weights": ["1"]}, "like_weights"),
        ({"like_ids": list(range(1, 102)), "recommend": "each"}, "like_ids"),
        ({"like_ids": [1], "unlike_ids": list(range(1, 102)), "recommend": "best"}, "unlike_ids"),
        ({"query": "국", "recommend": "each"}, "recommend"),
        ({"query": "국", "like_weights": [1]}, "like_weights"),
    ],
)
def test_what_is_refused_names_its_field(app: HttpApp, body: dict[str, Any], field: str) -> None:
    answer = app.post("/v1/search", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][1] == field


@pytest.mark.parametrize("mode", ["best", "each"])
def test_its_answers_are_explained(app: HttpApp, mode: str) -> None:
    asked = {"like_ids": LIKES, "unlike_ids": [22], "recommend": mode, "top_k": 6}
    shown = found(app, **asked)["results"]
    for rank, row in enumerate(shown, 1):
        told = explained(app, {**asked, "id": row["recipe_id"]})
        assert (told["reason"], told["exact"]["rank"], told["answer"]["rank"]) == ("in_answer", rank, rank)
        assert told["answer"]["distance"] == told["exact"]["distance"] == row["distance"]
    unlike = explained(app, {**asked, "id": 22})
    assert unlike["reason"] == "excluded" and "unlike_ids" in unlike["detail"]
    every = ids(found(app, **{**asked, "top_k": 30}))
    vetoed = set(range(1, 30)) - set(every) - set(LIKES) - {22}
    assert vetoed and all(explained(app, {**asked, "id": id})["reason"] == "vetoed" for id in vetoed)
    last = explained(app, {**asked, "id": every[-1]})
    assert (last["reason"], last["exact"]["rank"]) == ("beyond_top_k", len(every))
    assert explained(app, {**asked, "offset": 6, "id": every[0]})["reason"] == "before_offset"


def test_an_unknown_liked_one_is_named(app: HttpApp) -> None:
    assert app.post("/v1/search", {"like_ids": [999], "recommend": "each"}).json()["code"] == "unknown_item"
