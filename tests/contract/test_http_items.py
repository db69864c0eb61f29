"""Lists of stored items over HTTP: whole, in order, and indifferent to what is written in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.http_app import HttpApp, as_base64, running_app, unit

V = [unit(np.random.default_rng(7), 384) for _ in range(4)]


@pytest.fixture(scope="module")
def listed_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """Recipes 1 to 30 by tens: 5, 15 and 25 are hidden, 9 is deleted."""
    with running_app(tmp_path_factory.mktemp("listed")) as app:
        put(app, *range(1, 31))
        assert app.post("/v1/deactivate", {"ids": [5, 15, 25]}).status_code == 200
        assert app.post("/v1/delete", {"ids": [9]}).status_code == 200
        yield app


def put(app: HttpApp, *ids: int, **metadata: Any) -> None:
    items = [
        {
            "recipe_id": number,
            "vector": as_base64(V[number % 4]),
            "metadata": {"ten": number // 10, **metadata},
            "source_version": 3,
        }
        for number in ids
    ]
    answer = app.post("/v1/upsert", {"collection": "recipes", "items": items})
    assert answer.status_code == 200, answer.text


def page(app: HttpApp, **parameters: Any) -> dict[str, Any]:
    if "filter" in parameters:
        parameters["filter"] = json.dumps(parameters["filter"])
    answer = app.get("/v1/items", params={"collection": "recipes", **parameters})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(listed: dict[str, Any]) -> list[int]:
    return [item["recipe_id"] for item in listed["items"]]


def everything(app: HttpApp, **parameters: Any) -> list[int]:
    found: list[int] = []
    while True:
        listed = page(app, **parameters)
        found += ids(listed)
        if listed["next_cursor"] is None:
            return found
        parameters["cursor"] = listed["next_cursor"]


def test_pages_give_every_stored_item_once_and_in_order(listed_app: HttpApp) -> None:
    wanted = [number for number in range(1, 31) if number != 9]
    for limit in (1, 7, 29, 1000):
        assert everything(listed_app, live="any", limit=limit) == wanted
    for shown in ({}, {"live": "true"}):  # hidden items are told only to who asks for them
        assert everything(listed_app, **shown, limit=8) == [n for n in wanted if n not in (5, 15, 25)]
    assert everything(listed_app, live="false", limit=2) == [5, 15, 25]
    assert everything(listed_app, live="any", filter={"ten": {"$gte": 2}}, limit=4) == list(range(20, 31))


def test_an_item_is_told_as_by_its_own_route(listed_app: HttpApp) -> None:
    listed = page(listed_app, live="any", limit=5)
    assert "vector" not in listed["items"][0]
    for item in (listed["items"][0], listed["items"][4]):
        alone = listed_app.get(f"/v1/items/{item['recipe_id']}?collection=recipes").json()
        assert {**item, "embedding_version": listed["embedding_version"]} == alone
    told = page(listed_app, limit=1, include="vector")["items"][0]["vector"]
    assert np.allclose(told, V[1])
    assert listed["seq"] >= max(item["seq"] for item in listed["items"])


def test_a_cursor_belongs_to_its_question(listed_app: HttpApp) -> None:
    cursor = page(listed_app, filter={"ten": 1}, limit=2)["next_cursor"]
    assert ids(page(listed_app, filter={"ten": 1}, limit=1, cursor=cursor)) == [12]
    others = [
        {"filter": {"ten": 2}},
        {},
        {"filter": {"ten": 1}, "live": "any"},
        {"collection": "products", "filter": {"ten": 1}},
    ]
    for other in others:
        asked = {"collection": "recipes", **other, "cursor": cursor}
        if "filter" in asked:
            asked["filter"] = json.dumps(asked["filter"])
        answer = listed_app.get("/v1/items", params=asked)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor"), other
        assert answer.json()["errors"][0]["loc"] == ["query", "cursor"]


def test_pages_go_on_after_every_valid_id(listed_app: HttpApp) -> None:
    longest = [f"{letter}" * 255 for letter in ("\x01", "\x02", "\U0001f35c")]
    vector = as_base64(unit(np.random.default_rng(8), 512))
    items = [{"product_id": each, "vector": vector} for each in longest]
    assert listed_app.post("/v1/upsert", {"collection": "products", "items": items}).status_code == 200
    listed, cursor = [], None
    while cursor is not None or not listed:
        told = page(listed_app, collection="products", limit=1, **({"cursor": cursor} if cursor else {}))
        listed += [each["product_id"] for each in told["items"]]
        cursor = told["next_cursor"]
    assert listed == longest
    search = {"collection": "products", "vector": vector, "top_k": 1}
    found = listed_app.post("/v1/search", search).json()
    while "next_cursor" in found:
        listed.append(found["results"][0]["product_id"])
        found = listed_app.post("/v1/search", {**search, "cursor": found["next_cursor"]}).json()
        assert found["results"], found
    listed.append(found["results"][0]["product_id"])
    assert listed == longest * 2


@pytest.mark.parametrize(
    ("parameters", "code", "field"),
    [
        ({"limit": 0}, "invalid_request", "limit"),
        ({"limit": 1001}, "invalid_request", "limit"),
        ({"filter": "[1]"}, "invalid_filter", "filter"),
        ({"filter": '{"a":{"$near":1}}'}, "invalid_filter", "filter"),
        ({"filter": "{" * 40}, "invalid_filter", "filter"),
        ({"live": "perhaps"}, "invalid_request", "live"),
        ({"include": "score"}, "invalid_request", "include"),
        ({"cursor": "!"}, "invalid_cursor", "cursor"),
        ({"cursor": "a" * 5000}, "invalid_cursor", "cursor"),
    ],
)
def test_what_is_wrong_is_named(
    listed_app: HttpApp, parameters: dict[str, Any], code: str, field: str
) -> None:
    answer = listed_app.get("/v1/items", params=parameters)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert field in answer.json()["errors"][0]["loc"]


def test_no_write_in_between_repeats_or_loses_an_item(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        put(app, *range(10, 40, 2))
        first = page(app, live="any", limit=5)
        assert ids(first) == [10, 12, 14, 16, 18]
        put(app, 1, 13, 18, 21, changed=True)  # new ones before and behind, and the one where the page ended
        app.post("/v1/delete", {"ids": [18, 22]})
        app.post("/v1/deactivate", {"ids": [24]})
        rest = everything(app, live="any", limit=3, cursor=first["next_cursor"])
    assert rest == [20, 21, *range(24, 40, 2)]


def test_pages_are_bounded_in_bytes(tmp_path: Path) -> None:
    with running_app(tmp_path, {"ANSWER_BYTES_MAX": "65536"}) as app:
        put(app, *range(1, 21), text="설" * 2000)
        listed = page(app, limit=1000)
        assert 1 <= len(listed["items"]) < 20 and len(json.dumps(listed, ensure_ascii=False).encode()) < 65536
        assert everything(app, limit=1000) == list(range(1, 21))
        assert len(page(app, limit=1000, include="vector")["items"]) < 10


def test_an_empty_collection_has_an_empty_page(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        empty = page(app)
        assert (empty["items"], empty["next_cursor"], empty["seq"]) == ([], None, 0)
        assert app.get("/v1/items?collection=nothing").json()["code"] == "unknown_collection"


def test_counts_tell_what_a_search_could_return(listed_app: HttpApp) -> None:
    counted = listed_app.post(
        "/v1/count", {"collection": "recipes", "filter": {"ten": 1}, "hidden": True}
    ).json()
    assert (counted["count"], counted["hidden"]) == (9, 1) and "warnings" not in counted
    assert listed_app.post("/v1/count", {}).json()["count"] == 26
    misspelt = listed_app.post("/v1/count", {"filter": {"tan": 1}}).json()
    assert misspelt["count"] == 0 and "'tan'" in misspelt["warnings"][0]


def test_facets_tell_keys_and_values(listed_app: HttpApp) -> None:
    answer = listed_app.post("/v1/facets", {"filter": {"ten": {"$lt": 3}}, "top": 2, "ranges": 2}).json()
    assert answer["count"] == 25
    assert answer["facets"] == [
        {
            "key": "ten",
            "count": 25,
            "distinct": 3,
            "others": 1,
            "values": [{"value": 1, "count": 9}, {"value": 2, "count": 9}],
            "ranges": [
                {"from": 0, "to": 1, "count": 7},
                {"from": 1, "to": 2, "count": 9},
                {"from": 2, "to": 3, "count": 9},
            ],
        }
    ]
    nested = listed_app.post("/v1/facets", {"keys": ["no.such", "ten", "ten"], "ranges": 0}).json()["facets"]
    assert [(each["key"], each["count"], each["ranges"]) for each in nested] == [
        ("no.such", 0, []),
        ("ten", 26, []),
    ]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/count", {"filtr": {}}, "filtr"),
        ("/v1/count", {"filter": [1]}, "filter"),
        ("/v1/count", {"filter": {"a": {"$near": 1}}}, "filter"),
        ("/v1/facets", {"keys": []}, "keys"),
        ("/v1/facets", {"keys": [""]}, "keys"),
        ("/v1/facets", {"top": 0}, "top"),
        ("/v1/facets", {"ranges": 101}, "ranges"),
    ],
)
def test_what_is_wrong_with_a_count_is_named(listed_app: HttpApp, path: str, body: Any, field: str) -> None:
    answer = listed_app.post(path, body)
    assert answer.status_code == 422 and field in answer.json()["errors"][0]["loc"], answer.text
