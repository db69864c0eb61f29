"""Boosts, groups, collapsing and diversity over the wire."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.openapi_document import check_schema
from tests.contract.searches import explained, ids, search
from tests.contract.test_http_words import environ
from tests.http_app import DISHES, HttpApp, as_base64, picture, running_app, unit

SELLERS = ["가온", "나래", "다솜"]
START = 1.7e9
PRICE = {"weight": 0.5, "decay": {"key": "price", "origin": 10_000, "scale": 4000, "shape": "gauss"}}
IN_STOCK = {"weight": 0.25, "if": {"stock": {"$gt": 0}}}
RATING = {"weight": -0.1, "linear": {"key": "rating.mean", "from": 5, "to": 1}}
SHOP = {"boost": [PRICE, IN_STOCK, RATING], "group_by": {"key": "seller", "max": 2}, "diversity": 0.3}


def product(number: int) -> dict[str, Any]:
    metadata = {
        "title": f"{DISHES[number % len(DISHES)]} {number}호",
        "price": number * 700 if number % 7 else "문의",
        "stock": number % 3,
        "rating": {"mean": 1 + number % 5},
        "seller": SELLERS[number % 4] if number % 4 < 3 else None,
        "made": START + number if number % 2 else f"2023-11-{number % 28 + 1:02}T00:00:00Z",
    }
    vector = unit(np.random.default_rng(number % 36), 384)  # 37 to 48 have the vectors of 1 to 12
    return {"recipe_id": number, "vector": as_base64(vector), "metadata": metadata}


PRODUCTS = {number: product(number) for number in range(1, 49)}
QUERY = as_base64(unit(np.random.default_rng(1234), 384))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("ranking")
    with running_app(folder / "data", environ(folder)) as app:
        version = app.get("/v1/model-info").json()["collections"]["recipes"]["version"]
        body = {"items": list(PRODUCTS.values()), "embedding_version": version}
        assert app.post("/v1/upsert", body).status_code == 200
        yield app


def found(app: HttpApp, **body: Any) -> dict[str, Any]:
    if not {"query", "like_ids", "image"} & set(body):
        body["vector"] = QUERY
    document = search(app, **body)
    check_schema(document, {"$ref": "#/components/schemas/SearchResponse"})
    return document


def terms_of(number: int) -> list[float]:
    metadata = PRODUCTS[number]["metadata"]
    price, rating = metadata["price"], metadata["rating"]["mean"]
    near = 0.0 if isinstance(price, str) else 0.5 ** (((price - 10_000) / 4000) ** 2)
    return [0.5 * near, 0.25 * (metadata["stock"] > 0), -0.1 * (5 - rating) / 4]


def test_a_score_is_similarity_and_each_boost_and_distances_stay(app: HttpApp) -> None:
    plain = {hit["recipe_id"]: hit["distance"] for hit in found(app, top_k=48)["results"]}
    document = found(app, boost=SHOP["boost"], top_k=48, include=["why", "metadata"])
    scores = {}
    for hit in document["results"]:
        number, why = hit["recipe_id"], hit["why"]
        assert hit["distance"] == plain[number] and why["boost"] == pytest.approx(terms_of(number))
        assert why["dense"] == pytest.approx(1 - plain[number] ** 2 / 2)
        assert hit["score"] == pytest.approx(why["dense"] + sum(why["boost"]))
        scores[number] = hit["score"]
    assert list(scores) == sorted(scores, key=lambda number: (-scores[number], number))
    assert len(scores) == 48 and ids(found(app, boost=SHOP["boost"], exact=True, pool=10, top_k=48)) == list(
        scores
    )


def test_pools_are_weighed_one_after_another(app: HttpApp) -> None:
    near = ids(found(app, top_k=48))
    order = ids(found(app, boost=[PRICE], top_k=48, pool=10))
    for start in range(0, 48, 10):
        assert set(order[start : start + 10]) == set(near[start : start + 10])
    assert order != near


@pytest.mark.parametrize("content", ["vector", "lexical", "hybrid", "like_ids"])
def test_all_of_it_with_every_content(app: HttpApp, content: str) -> None:
    asked: dict[str, Any] = {"query": "김치찌개 호", "mode": content}
    if content == "vector":
        asked = {}
    elif content == "like_ids":
        asked = {"like_ids": [3, 5]}
    elif content == "hybrid":
        asked["vector"] = QUERY
    more = {**asked, "exclude_ids": [1, 11, 21], "filter": {"stock": {"$lt": 2}}, **SHOP}
    whole = found(app, top_k=48, include=["why", "metadata"], **more)
    fitting = set(ids(found(app, top_k=48, **{key: more[key] for key in (*asked, "exclude_ids", "filter")})))
    sellers = Counter(hit["metadata"]["seller"] for hit in whole["results"])
    assert set(ids(whole)) <= fitting and whole["exhausted"]
    assert {sellers[seller] for seller in SELLERS} == {2}
    assert sellers[None] == sum(PRODUCTS[number]["metadata"]["seller"] is None for number in fitting)
    assert all(len(hit["why"]["boost"]) == 3 for hit in whole["results"])
    pages: list[int] = []
    cursor = None
    while cursor is not None or not pages:
        page = found(app, top_k=3, **more, **({"cursor": cursor} if cursor else {}))
        pages += ids(page)
        cursor = page.get("next_cursor")
    assert pages == ids(whole)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_pages_fit_together_while_writes_go_on(app: HttpApp, mode: str) -> None:
    version = app.get("/v1/model-info").json()["collections"]["soups"]["version"]

    def write(numbers: list[int], **changed: Any) -> None:
        items = [
            {"id" if key == "recipe_id" else key: each for key, each in product(n).items()} for n in numbers
        ]
        for item in items:
            item["metadata"] |= changed
        body = {"collection": "soups", "items": items, "embedding_version": version}
        assert app.post("/v1/upsert", body).status_code == 200

    write(list(range(1, 49)))
    asked = {"collection": "soups", "query": "김치찌개 호", "mode": mode, "exclude_ids": [1, 11], **SHOP}
    if mode == "hybrid":
        asked["vector"] = QUERY
    asked |= {"pool": 10, "collapse": {"distance": 0.01}}
    whole = [hit["id"] for hit in found(app, top_k=48, **asked)["results"]]
    pages: list[int] = []
    cursor: dict[str, str] = {}
    for turn in range(20):
        page = found(app, top_k=4, **asked, **cursor)
        pages += [hit["id"] for hit in page["results"]]
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
        write([100 + turn], price=10_000, stock=9, seller=f"새 {turn}")
        write([pages[-1], whole[-1]], price=turn, stock=0, seller="가온")
        if turn == 1:
            assert (
                app.post("/v1/delete", {"collection": "soups", "ids": [pages[0], whole[12]]}).status_code
                == 200
            )
    assert pages == [number for number in whole if number != whole[12]] and len(whole) > 12
    assert (
        app.post("/v1/delete", {"collection": "soups", "ids": [*range(1, 49), *range(100, 120)]}).status_code
        == 200
    )


@pytest.mark.long
def test_a_picture_search_is_ranked_too(tmp_path: Path) -> None:
    with running_app(tmp_path / "data") as app:
        items = [{"product_id": str(n), "image": picture(n), "metadata": {"brand": n % 2}} for n in range(4)]
        assert app.post("/v1/upsert", {"collection": "products", "items": items}).status_code == 200
        body = {"image": picture(3), "collection": "products", "group_by": {"key": "brand"}}
        hits = app.post("/v1/search", body).json()["results"]
        assert [hit["product_id"] for hit in hits][:1] == ["3"] and len(hits) == 2


def test_a_group_gives_way_however_near_it_is(app: HttpApp) -> None:
    document = found(
        app, group_by={"key": "seller"}, filter={"seller": {"$exists": True, "$ne": None}}, top_k=10
    )
    assert len(document["results"]) == 3 and document["exhausted"]
    assert len(ids(found(app, group_by={"key": "stock", "max": 5}, top_k=15))) == 15


def test_the_same_vector_is_shown_once(app: HttpApp) -> None:
    document = found(app, collapse={"distance": 0}, top_k=48)
    assert len(document["results"]) == 36 and set(range(1, 13)) <= set(ids(document))


def test_diversity_keeps_the_best_and_parts_the_same(app: HttpApp) -> None:
    near = ids(found(app, top_k=48))
    assert ids(found(app, top_k=48, diversity=0)) == near
    order = ids(found(app, top_k=48, diversity=0.6))
    assert order[0] == near[0] and sorted(order) == sorted(near)
    first = {number % 36 for number in order[:24]}
    assert len(first) == 24, "no vector comes twice while there are others"


def test_now_is_that_of_the_first_page(app: HttpApp) -> None:
    boost = [{"weight": 1, "decay": {"key": "made", "scale": "5000d"}}]
    began, nows, cursor = time.time(), set(), {}
    for _ in range(3):
        page = found(
            app, boost=boost, top_k=8, include=["why", "metadata"], filter={"made": {"$gt": 0}}, **cursor
        )
        for hit in page["results"]:
            days = -5000 * math.log2(hit["why"]["boost"][0])
            nows.add(round(hit["metadata"]["made"] + days * 86_400, 3))
        cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else cursor
    assert max(nows) - min(nows) < 0.002 and began - 1 < min(nows) < time.time() + 1


def test_keys_that_no_item_has_are_told(app: HttpApp) -> None:
    boost = [PRICE, {"weight": 1, "if": {"colour": "red", "stock": 1}}]
    document = found(app, boost=boost, group_by={"key": "rating.max"})
    assert document["warnings"] == [
        "boost[1]: no item of 'recipes' has the key 'colour'",
        "group_by: no item of 'recipes' has the key 'rating.max'",
    ]
    assert len(document["results"]) == 25


REFUSED = [
    ({"boost": {}}, ["boost"]),
    ({"boost": [PRICE] * 9}, ["boost"]),
    ({"boost": ["x"]}, ["boost", 0]),
    ({"boost": [{"weight": 1}]}, ["boost", 0]),
    ({"boost": [{**PRICE, **IN_STOCK}]}, ["boost", 0]),
    ({"boost": [{"if": {"stock": 1}}]}, ["boost", 0, "weight"]),
    ({"boost": [PRICE, {"weight": 10.5, "if": {"stock": 1}}]}, ["boost", 1, "weight"]),
    ({"boost": [{"weight": "1", "if": {"stock": 1}}]}, ["boost", 0, "weight"]),
    ({"boost": [{"weight": 1, "in": ["a"]}]}, ["boost", 0, "in"]),
    ({"boost": [{"weight": 1, "if": []}]}, ["boost", 0, "if"]),
    ({"boost": [{"weight": 1, "if": {"price": {"$near": 1}}}]}, ["boost", 0, "if", "price.$near"]),
    ({"boost": [{"weight": 1, "linear": {"key": "price", "from": 1}}]}, ["boost", 0, "linear", "to"]),
    (
        {"boost": [{"weight": 1, "linear": {"key": "price", "from": 1, "to": 1}}]},
        ["boost", 0, "linear", "to"],
    ),
    ({"boost": [{"weight": 1, "linear": {"key": 7, "from": 1, "to": 2}}]}, ["boost", 0, "linear", "key"]),
    ({"boost": [{"weight": 1, "decay": {"key": "price", "scale": 5}}]}, ["boost", 0, "decay", "origin"]),
    (
        {"boost": [PRICE, {"weight": 1, "decay": {"key": "a", "scale": 0, "origin": 1}}]},
        ["boost", 1, "decay", "scale"],
    ),
    ({"boost": [{"weight": 1, "decay": {"key": "made", "scale": "a week"}}]}, ["boost", 0, "decay", "scale"]),
    ({"boost": [{"weight": 1, "decay": {"key": "made", "scale": True}}]}, ["boost", 0, "decay", "scale"]),
    (
        {"boost": [{"weight": 1, "decay": {"key": "made", "scale": "7d", "origin": "soon"}}]},
        ["boost", 0, "decay", "origin"],
    ),
    (
        {"boost": [{"weight": 1, "decay": {"key": "a", "scale": 7, "origin": "2026-01-01"}}]},
        ["boost", 0, "decay", "origin"],
    ),
    (
        {"boost": [{"weight": 1, "decay": {"key": "a", "scale": "7d", "shape": "flat"}}]},
        ["boost", 0, "decay", "shape"],
    ),
    ({"group_by": "seller"}, ["group_by"]),
    ({"group_by": {"max": 2}}, ["group_by", "key"]),
    ({"group_by": {"key": "seller", "max": 0}}, ["group_by", "max"]),
    ({"group_by": {"key": "seller", "max": 1.5}}, ["group_by", "max"]),
    ({"group_by": {"key": "seller"}, "offset": 10_000}, ["top_k"]),
    ({"collapse": {"by": "seller"}}, ["collapse", "by"]),
    ({"collapse": {}}, ["collapse", "distance"]),
    ({"collapse": {"distance": -0.1}}, ["collapse", "distance"]),
    ({"diversity": 1.5}, ["diversity"]),
    ({"diversity": "much"}, ["diversity"]),
    ({"diversity": 0.5, "pool": 501}, ["pool"]),
    ({"boost": [PRICE], "pool": 9}, ["pool"]),
    ({"boost": [PRICE], "pool": 2001}, ["pool"]),
    ({"pool": 100}, ["pool"]),
    ({"group_by": {"key": "seller"}, "pool": 100}, ["pool"]),
]


@pytest.mark.parametrize(("more", "where"), REFUSED, ids=[str(n) for n in range(len(REFUSED))])
def test_what_is_wrong_is_named(app: HttpApp, more: dict[str, Any], where: list[Any]) -> None:
    answer = app.post("/v1/search", {"vector": QUERY, **more})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == ["body", *where], answer.text


def test_a_batch_names_the_search_too(app: HttpApp) -> None:
    fine, wrong = {"vector": QUERY, **SHOP}, {"vector": QUERY, "boost": [PRICE], "pool": 0}
    answers = app.post("/v1/search-batch", {"searches": [fine, {"vector": QUERY}]}).json()["responses"]
    assert ids(answers[0]) == ids(found(app, **SHOP)) and ids(answers[1]) == ids(found(app))
    answer = app.post("/v1/search-batch", {"searches": [fine, wrong]})
    assert answer.status_code == 422 and answer.json()["errors"][0]["loc"] == ["body", "searches", 1, "pool"]


def test_a_cursor_belongs_to_its_ranking(app: HttpApp) -> None:
    cursor = found(app, top_k=5, **SHOP)["next_cursor"]
    for other in ({}, {**SHOP, "diversity": 0.4}, {**SHOP, "boost": [PRICE]}, {**SHOP, "pool": 100}):
        answer = app.post("/v1/search", {"vector": QUERY, "cursor": cursor, **other})
        assert answer.status_code == 422 and answer.json()["code"] == "invalid_cursor", other


@pytest.mark.long
def test_ranks_of_a_ranking_are_explained(app: HttpApp) -> None:
    asked = {"vector": QUERY, **SHOP, "top_k": 6, "pool": 100}
    order = ids(found(app, **{**SHOP, "top_k": 50, "pool": 100}))
    told = {id: explained(app, {**asked, "id": id}) for id in sorted(PRODUCTS)}
    for rank, id in enumerate(order, 1):
        assert told[id]["reason"] == ("in_answer" if rank <= 6 else "beyond_top_k")
        assert told[id]["ranking"]["rank"] == rank
        assert told[id]["answer"]["rank"] == (rank if rank <= 6 else None)
    left = set(told) - set(order)
    assert left and {told[id]["reason"] for id in left} == {"grouped_out"}
    by_distance = ids(found(app, top_k=50))
    assert [told[id]["exact"]["rank"] for id in by_distance] == list(range(1, len(by_distance) + 1))
    plain = explained(app, {"vector": QUERY, "id": order[0]})
    assert plain["ranking"] is None


@pytest.mark.long
def test_what_collapse_leaves_out_is_explained(app: HttpApp) -> None:
    asked = {"collapse": {"distance": 2.0}, "top_k": 3}
    (only,) = ids(found(app, **asked))
    for id in sorted(PRODUCTS):
        reason = "in_answer" if id == only else "collapsed"
        assert explained(app, {"vector": QUERY, **asked, "id": id})["reason"] == reason
