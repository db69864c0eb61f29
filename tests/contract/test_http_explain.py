"""GET and POST /v1/explain over the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.searches import explained as told
from tests.http_app import HttpApp, picture


@pytest.fixture(scope="module")
def app(app: HttpApp) -> HttpApp:
    app.post("/v1/deactivate", {"ids": [28]})
    app.post("/v1/delete", {"ids": [29]})
    return app


def results(app: HttpApp, body: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = app.post("/v1/search", body).json()["results"]
    return found


@pytest.mark.long
def test_every_item_is_explained_as_the_search_answers(app: HttpApp) -> None:
    search = {"query": "갈비탕 3", "top_k": 5, "exclude_ids": [10], "filter": {"category": "찌개"}}
    answered = {each["recipe_id"]: each["distance"] for each in results(app, search)}
    reasons = {id: told(app, {**search, "id": id}) for id in range(1, 32)}
    for id, one in reasons.items():
        assert one["in_answer"] == (id in answered) == (one["reason"] == "in_answer")
        assert one["answer"]["distance"] == pytest.approx(answered.get(id))
    assert reasons[10]["reason"] == "excluded" and reasons[10]["excluded"]
    assert reasons[3]["reason"] == "filtered_out" and reasons[3]["passes_filter"] is False
    assert [reasons[id]["reason"] for id in (28, 29, 31)] == ["inactive", "deleted", "unknown"]
    assert reasons[29]["item"]["source_version"] == 5 and "deleted" in reasons[29]["detail"]
    assert {one["reason"] for one in reasons.values()} >= {"in_answer", "beyond_top_k"}


def test_distance_and_offset_are_reasons(app: HttpApp) -> None:
    search = {"query": "갈비탕 3", "top_k": 2, "offset": 2}
    second, far = results(app, {**search, "offset": 1})[0], results(app, {**search, "offset": 9})[0]
    assert told(app, {**search, "id": second["recipe_id"]})["reason"] == "before_offset"
    near = {**search, "offset": 0, "top_k": 30, "max_distance": second["distance"], "id": far["recipe_id"]}
    assert told(app, near)["reason"] == "too_far"
    assert told(app, near)["exact"]["rank"] == 10


def test_a_mode_that_cannot_be_explained_is_refused_by_name(app: HttpApp) -> None:
    assert app.get("/v1/explain?id=1&query=a&mode=dense").status_code == 200
    refused = app.get("/v1/explain?id=1&query=a&mode=lexical").json()
    assert (refused["status"], refused["errors"][0]["loc"][-1]) == (422, "mode")


def test_any_kind_of_query_can_be_explained(app: HttpApp) -> None:
    stored = app.get("/v1/items/4", params={"include": "vector"}).json()["vector"]
    by_vector = told(app, {"vector": stored, "id": 4})
    assert (by_vector["reason"], by_vector["exact"]["rank"], by_vector["answer"]["rank"]) == (
        "in_answer",
        1,
        1,
    )
    assert told(app, {"like_ids": [4], "id": 4})["reason"] == "excluded"
    by_picture = told(app, {"image": picture(3), "id": "p-4"})
    assert (by_picture["product_id"], by_picture["exact"]["rank"]) == ("p-4", 1)
    assert by_picture["answer"]["plan"] == [{"way": "delta", "ef": 0, "rows": 11}]


def test_get_says_the_same_as_post(app: HttpApp) -> None:
    filter = {"price": {"$lt": 20_000}}
    parameters = {
        "id": "3",
        "query": "갈비탕",
        "top_k": 4,
        "exclude_ids": ["1,2", "5"],
        "filter": json.dumps(filter),
    }
    body = {"id": 3, "query": "갈비탕", "top_k": 4, "exclude_ids": [1, 2, 5], "filter": filter}
    assert app.get("/v1/explain", params=parameters).json() == told(app, body)
    alike = app.get("/v1/explain", params={"collection": "products", "id": "7", "like_ids": "007"})
    assert alike.json() == told(app, {"collection": "products", "id": "7", "like_ids": ["007"]})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"query": "a"}, "id"),
        ({"id": "3", "query": "a"}, "id"),
        ({"id": 3}, "query"),
        ({"id": 3, "query": "a", "cursor": "x"}, "cursor"),
        ({"id": 3, "query": "a", "min_seq": 1}, "min_seq"),
        ({"id": 3, "query": "a", "topk": 1}, "topk"),
        ({"id": 3, "query": "a", "filter": {"$no": 1}}, "filter"),
    ],
)
def test_wrong_bodies_are_refused_by_field(app: HttpApp, body: dict[str, Any], field: str) -> None:
    answer = app.post("/v1/explain", body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"][1] == field


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"query": "a"}, "id"),
        ({"id": "x", "query": "a"}, "id"),
        ({"id": "3", "query": "a", "filter": "{"}, "filter"),
        ({"id": "3", "like_ids": "1,x"}, "like_ids"),
        ({"id": "3", "query": "a", "top_k": "0"}, "top_k"),
        ({"id": "3", "query": "a", "max_distance": "nan"}, "max_distance"),
    ],
)
def test_wrong_parameters_are_refused_by_field(app: HttpApp, parameters: dict[str, str], field: str) -> None:
    answer = app.get("/v1/explain", params=parameters)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"][1] == field
