"""Confidence of hits over the wire: told, cut by, said where none has enough, refused where unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.contract.searches import search
from tests.fixtures.calibration import write_calibration
from tests.http_app import HttpApp, picture, running_app, with_collections

GOODS = (
    "한우 갈비",
    "포기김치",
    "국산 두부",
    "부사 사과",
    "원두 커피",
    "고등어",
    "꽃게",
    "떡볶이",
    "참기름",
    "현미",
)
COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
lexical = ["title"]
confidence = "shop.json"
[collections.strict]
lexical = ["title"]
confidence = "shop.json"
good_match_min = 1.0
mode = "hybrid"
[collections.plain]
lexical = ["title"]
[collections.products]
lexical = ["title"]
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("confidence")
    write_calibration(folder / "shop.json")
    with running_app(folder / "data", with_collections(folder, COLLECTIONS)) as app:
        for collection, field in (("recipes", "recipe_id"), ("strict", "id"), ("plain", "id")):
            items = [
                {field: number, "text": title, "metadata": {"title": title}}
                for number, title in enumerate(GOODS, 1)
            ]
            assert app.post("/v1/upsert", {"collection": collection, "items": items}).status_code == 200
        yield app


def found(app: HttpApp, query: str, **more: Any) -> dict[str, Any]:
    return search(app, query=query, **more)


def values(document: dict[str, Any]) -> list[float]:
    return [hit["confidence"] for hit in document["results"]]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_what_is_there_is_told_from_what_is_not(app: HttpApp, mode: str) -> None:
    there = found(app, "한우 갈비", mode=mode, include=["confidence", "why", "rank"])
    assert there["results"][0]["recipe_id"] == 1 and "no_good_match" not in there
    assert values(there) == sorted(values(there), reverse=True)
    assert 0 <= values(there)[-1] < 0.5 < values(there)[0] <= 1
    absent = found(app, "아이폰", mode=mode, include=["confidence"])
    assert (
        len(absent["results"]) == len(GOODS) and max(values(absent)) < 0.5 and absent["no_good_match"] is True
    )


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_minimum_leaves_out_what_is_below(app: HttpApp, mode: str) -> None:
    whole = found(app, "한우 갈비", mode=mode, include=["confidence"])
    some = found(app, "한우 갈비", mode=mode, min_confidence=values(whole)[2], include=["confidence"])
    assert some["results"] == whole["results"][:3] and some["exhausted"] and "next_cursor" not in some
    bare = found(app, "한우 갈비", mode=mode, min_confidence=values(whole)[2])
    assert "confidence" not in bare["results"][0] and "no_good_match" not in bare
    nothing = found(app, "아이폰", mode=mode, min_confidence=0.5)
    assert nothing["results"] == [] and nothing["exhausted"] and nothing["no_good_match"] is True


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_pages_agree_and_only_the_first_says_that_nothing_fits(app: HttpApp, mode: str) -> None:
    whole = values(found(app, "두부", mode=mode, include=["confidence"]))
    page = found(app, "두부", mode=mode, include=["confidence"], top_k=4, min_confidence=whole[6])
    later = found(
        app,
        "두부",
        mode=mode,
        include=["confidence"],
        top_k=4,
        min_confidence=whole[6],
        cursor=page["next_cursor"],
    )
    assert values(page) + values(later) == [each for each in whole if each >= whole[6]]
    assert later["exhausted"] and "no_good_match" not in later
    assert "no_good_match" not in found(app, "아이폰", mode=mode, include=["confidence"], offset=4)
    other = {"query": "두부", "mode": mode, "min_confidence": 0.1, "cursor": page["next_cursor"]}
    assert app.post("/v1/search", other).json()["code"] == "invalid_cursor"
    told_later = found(app, "두부", mode=mode, top_k=4)
    with_it = found(app, "두부", mode=mode, top_k=4, include=["confidence"], cursor=told_later["next_cursor"])
    assert values(with_it) == whole[4:8]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_boost_lifts_an_item_and_not_its_confidence(app: HttpApp, mode: str) -> None:
    plain = {
        hit["recipe_id"]: hit["confidence"]
        for hit in found(app, "두부", mode=mode, include=["confidence"])["results"]
    }
    boost = [{"if": {"title": "꽃게"}, "weight": 5}]
    lifted = found(app, "두부", mode=mode, include=["confidence"], boost=boost)
    assert lifted["results"][0]["recipe_id"] == 7 and "no_good_match" not in lifted
    assert {hit["recipe_id"]: hit["confidence"] for hit in lifted["results"]} == pytest.approx(plain)
    likely = found(app, "두부", mode=mode, boost=boost, min_confidence=0.5)
    assert [hit["recipe_id"] for hit in likely["results"]] == [3]
    assert found(app, "아이폰", mode=mode, boost=boost, include=["confidence"])["no_good_match"] is True


def test_a_named_generation_tells_the_same(app: HttpApp) -> None:
    for mode in ("dense", "hybrid"):
        asked = {"query": "두부", "mode": mode, "include": ["confidence"], "min_confidence": 0.01}
        answer = app.post("/v1/collections/recipes/generations/current/search", asked)
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"] == found(app, **asked)["results"]


def test_a_minimum_is_not_explained(app: HttpApp) -> None:
    """Else an item below it would be missed by the graph, which it is not."""
    asked = {"query": "한우 갈비", "id": 2, "include": ["confidence"]}
    assert app.post("/v1/explain", asked).json()["reason"] == "in_answer"
    answer = app.post("/v1/explain", asked | {"min_confidence": 0.9})
    assert answer.status_code == 422 and answer.json()["errors"][0]["loc"] == ["body", "min_confidence"]


def test_the_collection_says_what_a_good_match_is(app: HttpApp) -> None:
    document = found(app, "한우 갈비", collection="strict", include=["confidence"])
    assert (
        document["mode"] == "hybrid" and 0.5 < values(document)[0] < 1 and document["no_good_match"] is True
    )


def test_a_good_match_that_was_shown_is_one_on_the_next_page_too(app: HttpApp) -> None:
    def next_page(query: str, key: str, **more: Any) -> dict[str, Any]:
        return found(app, query, include=["confidence"], top_k=3, seen_key=key, **more)

    assert next_page("한우 갈비", "a")["results"][0]["recipe_id"] == 1
    later = next_page("한우 갈비", "a")
    assert len(later["results"]) == 3 and max(values(later)) < 0.5 and "no_good_match" not in later
    boosted = next_page("한우 갈비", "a", boost=[{"weight": 9, "if": {"title": "참기름"}}])
    assert "no_good_match" not in boosted, "whatever is ordered first"
    hidden = next_page("한우 갈비", "a", exclude_ids=[1])
    assert hidden["no_good_match"] is True, "who excludes it does not want it"
    for _ in range(2):
        assert next_page("아이폰", "a")["no_good_match"] is True
    assert next_page("아이폰", "b")["no_good_match"] is True


def test_a_batch_tells_each_answer_its_own(app: HttpApp) -> None:
    searches = [{"query": text, "include": ["confidence"], "top_k": 1} for text in ("한우 갈비", "아이폰")]
    first, second = app.post("/v1/search-batch", {"searches": searches}).json()["responses"]
    assert "no_good_match" not in first and second["no_good_match"] is True


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"query": "두부", "mode": "lexical"}, "words alone"),
        ({"query": "두부", "mode": "hybrid", "degrade": "lexical"}, "words alone"),
        ({"query": "두부", "mode": "hybrid", "hybrid": {"alpha": 2.0}}, "alpha"),
        ({"query": "두부", "mode": "hybrid", "vector": np.ones(384).tolist()}, "texts only"),
        ({"vector": np.ones(384).tolist()}, "texts only"),
        ({"like_ids": [1]}, "texts only"),
        ({"image": picture(1)}, "texts only"),
        ({"query": "두부", "collection": "plain"}, "calibrated"),
        ({"query": "두부", "collection": "plain", "mode": "hybrid"}, "calibrated"),
    ],
)
@pytest.mark.parametrize("asked", [{"include": ["confidence"]}, {"min_confidence": 0.5}])
def test_what_nobody_calibrated_is_refused_by_name(
    app: HttpApp, more: dict[str, Any], word: str, asked: dict[str, Any]
) -> None:
    answer = app.post("/v1/search", more | asked)
    assert answer.status_code == 422, answer.text
    errors = answer.json()["errors"]
    assert [each["loc"] for each in errors] == [["body", *asked]] and word in errors[0]["msg"]


@pytest.mark.parametrize("value", [-0.01, 1.01, "high"])
def test_a_minimum_is_a_probability(app: HttpApp, value: object) -> None:
    answer = app.post("/v1/search", {"query": "두부", "min_confidence": value})
    assert answer.status_code == 422 and answer.json()["errors"][0]["loc"] == ["body", "min_confidence"]


def test_model_info_says_which_modes_can_be_asked_and_which_tell_confidence(app: HttpApp) -> None:
    told = app.get("/v1/model-info").json()["collections"]
    assert {name: (each["modes"], each["confidence"]) for name, each in told.items()} == {
        "recipes": (["dense", "lexical", "hybrid"], ["dense", "hybrid"]),
        "strict": (["hybrid", "dense", "lexical"], ["dense", "hybrid"]),
        "plain": (["dense", "lexical", "hybrid"], []),
        "products": (["lexical"], []),
    }
    for name, each in told.items():
        for mode in ("dense", "lexical", "hybrid"):
            body = {"query": "두부", "collection": name, "mode": mode}
            if mode != "hybrid" or name != "products":  # words answer there, and say so
                assert (app.post("/v1/search", body).status_code == 200) == (mode in each["modes"])
            body["include"] = ["confidence"]
            assert (app.post("/v1/search", body).status_code == 200) == (mode in each["confidence"])
        answered = app.post("/v1/search", {"query": "두부", "collection": name}).json()
        assert answered.get("mode", "dense") == each["modes"][0]
