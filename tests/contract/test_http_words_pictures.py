"""A `query` where the model reads no text: names are searched, alone or weighed with a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.searches import search
from tests.http_app import HttpApp, picture, running_app, with_collections

NAMES = {f"p{place}": f"{kind} {place}호" for place, kind in enumerate(["머그컵", "물병", "접시"] * 3)}
COLLECTIONS = """
[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
lexical = ["name"]
[collections.nameless]
modality = "image"
dim = 512
[collections.vectors]
model = "none"
dim = 2
lexical = ["name"]
"""
IN_PRODUCTS = {"collection": "products"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("names")
    with running_app(folder / "data", with_collections(folder, COLLECTIONS)) as app:
        items = [
            {"product_id": product_id, "image": picture(place), "metadata": {"name": name}}
            for place, (product_id, name) in enumerate(NAMES.items())
        ]
        assert app.post("/v1/upsert", {"items": items}).status_code == 200
        one = {"id": 1, "vector": [1.0, 0.0], "metadata": {"name": "머그컵"}}
        answer = app.post("/v1/upsert", {"collection": "vectors", "items": [one], "embedding_version": "v1"})
        assert answer.status_code == 200, answer.text
        yield app


def ids(document: dict[str, Any]) -> list[str]:
    return [hit["product_id"] for hit in document["results"]]


def test_a_text_is_answered_by_names_and_marked(app: HttpApp) -> None:
    document = search(app, query="머그", **IN_PRODUCTS)
    assert {"p0", "p3", "p6"} == set(ids(document))
    assert document["mode"] == "lexical"
    assert "degraded" not in document and "truncated" not in document, "no model was away, none read it"
    assert all("distance" not in hit and hit["score"] > 0 for hit in document["results"])
    for mode in ("lexical", "hybrid"):
        assert ids(search(app, query="머그", mode=mode, **IN_PRODUCTS)) == ids(document)


def test_pages_of_names_go_on(app: HttpApp) -> None:
    whole = ids(search(app, query="머그", **IN_PRODUCTS))
    first = search(app, query="머그", top_k=2, **IN_PRODUCTS)
    second = search(app, query="머그", top_k=2, cursor=first["next_cursor"], **IN_PRODUCTS)
    assert ids(first) + ids(second) == whole
    assert second["mode"] == "lexical" and "degraded" not in second


def test_several_at_once_are_answered_by_names(app: HttpApp) -> None:
    body = {"searches": [{"query": "접시", **IN_PRODUCTS}, {"query": "물병", **IN_PRODUCTS}]}
    answers = app.post("/v1/search-batch", body).json()["responses"]
    assert [set(ids(each)) for each in answers] == [{"p2", "p5", "p8"}, {"p1", "p4", "p7"}]


def test_words_are_weighed_beside_a_picture(app: HttpApp) -> None:
    alone = search(app, image=picture(4), top_k=9)
    both = search(app, image=picture(4), query="접시", mode="hybrid", top_k=9, include=["why"], **IN_PRODUCTS)
    assert ids(alone)[0] == "p4" and both["mode"] == "hybrid"
    assert sorted(ids(both)) == sorted(NAMES), "a picture has a distance to all"
    heavy = search(app, image=picture(4), query="접시", mode="hybrid", hybrid={"alpha": 100}, **IN_PRODUCTS)
    assert set(ids(heavy)[:3]) == {"p2", "p5", "p8"}
    light = search(app, image=picture(4), query="접시", mode="hybrid", hybrid={"alpha": 0}, **IN_PRODUCTS)
    assert ids(light) == ids(alone)
    for hit in both["results"]:
        why = hit["why"]
        assert hit["score"] == pytest.approx(why["dense"] + why["weight"] * why["lexical"])


def test_a_collection_without_a_model_is_searched_by_its_names(app: HttpApp) -> None:
    document = search(app, query="머그", collection="vectors")
    assert [hit["id"] for hit in document["results"]] == [1] and document["mode"] == "lexical"


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"query": "머그", "mode": "dense", **IN_PRODUCTS}, "collection"),
        ({"query": "머그", "max_distance": 1.0, **IN_PRODUCTS}, "collection"),
        ({"query": "머그", "collection": "nameless"}, "collection"),
        ({"query": "머그", "image": "AAAA", "mode": "lexical", **IN_PRODUCTS}, "query"),
        ({"query": "머그", "image": "AAAA", **IN_PRODUCTS}, "query"),
        ({"image": "AAAA", "mode": "hybrid", **IN_PRODUCTS}, "mode"),
        ({"query": "머그", "image": "AAAA", "mode": "hybrid", "collection": "nameless"}, "mode"),
        (
            {"query": "머그", "image": "AAAA", "vector": [1.0] * 512, "mode": "hybrid", **IN_PRODUCTS},
            "query",
        ),
    ],
)
def test_what_names_can_not_answer_is_refused(app: HttpApp, body: dict[str, Any], loc: str) -> None:
    answer = app.post("/v1/search", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", loc], answer.text
