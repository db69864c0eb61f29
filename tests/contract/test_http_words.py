"""Searches by words: alone, and weighed with the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract.openapi_document import check_schema
from tests.contract.searches import ids, search
from tests.http_app import DISHES, HttpApp, running_app, with_collections

TITLES = {number: f"{DISHES[number % len(DISHES)]} {number}호" for number in range(1, 31)}
COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
lexical = ["title", "ingredients"]
synonyms = "builtin:korean-kitchen"
[collections.soups]
lexical = ["title"]
mode = "hybrid"
[collections.plain]
"""


def environ(folder: Path, **more: str) -> dict[str, str]:
    return {**with_collections(folder, COLLECTIONS), **more}


def fill(app: HttpApp, titles: dict[int, str], **more: Any) -> None:
    items = [
        {"recipe_id": number, "text": title, "metadata": {"title": title, "ingredients": ["두부", "파"]}}
        for number, title in titles.items()
    ]
    assert app.post("/v1/upsert", {"items": items, **more}).status_code == 200


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder = tmp_path_factory.mktemp("words")
    with running_app(folder / "data", environ(folder)) as app:
        fill(app, TITLES)
        yield app


def found(app: HttpApp, query: str, mode: str = "lexical", **more: Any) -> dict[str, Any]:
    return search(app, query=query, mode=mode, **more)


@pytest.mark.parametrize(
    "query", ["김치찌개", "김치 찌개", "김치찌게", "kimchi jjigae", "gimchi jigae", "ＫＩＭＣＨＩ jjigae"]
)
@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_dish_is_found_however_its_name_is_written(app: HttpApp, query: str, mode: str) -> None:
    assert set(ids(found(app, query, mode, top_k=3))) == {1, 11, 21}


def test_words_alone_have_scores_and_no_distances(app: HttpApp) -> None:
    document = found(app, "김치찌개", top_k=30, include=["why", "rank", "metadata"])
    assert document["mode"] == "lexical" and "truncated" not in document
    scores = [hit["score"] for hit in document["results"]]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
    first = document["results"][0]
    matched = [{"word": "김치찌개", "by": "letters", "share": 1.0}]
    assert first["why"] == {"lexical": first["score"], "matched": matched}
    assert "distance" not in first and first["rank"] == 1
    assert first["metadata"]["title"].startswith("김치찌개")


def test_a_word_that_nothing_holds_finds_nothing(app: HttpApp) -> None:
    document = found(app, "휴대폰")
    assert document["results"] == [] and document["exhausted"]


def test_the_parts_of_a_weighed_score_add_up(app: HttpApp) -> None:
    document = found(app, "김치찌개", "hybrid", include=["why", "score"], top_k=30)
    plain = {
        hit["recipe_id"]: hit["distance"] for hit in found(app, "김치찌개", "dense", top_k=30)["results"]
    }
    assert document["mode"] == "hybrid" and len(document["results"]) == 30
    for hit in document["results"]:
        why = hit["why"]
        assert hit["score"] == pytest.approx(why["dense"] + why["weight"] * why["lexical"])
        assert hit["distance"] == plain[hit["recipe_id"]]
        assert why["dense"] == pytest.approx(1 - hit["distance"] ** 2 / 2)  # l2 of unit vectors


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_hit_tells_which_words_of_the_query_it_holds(app: HttpApp, mode: str) -> None:
    def words(query: str, **more: Any) -> dict[int, list[tuple[str, str]]]:
        hits = found(app, query, mode, top_k=30, include=["why"], **more)["results"]
        return {hit["recipe_id"]: [(e["word"], e["by"]) for e in hit["why"]["matched"]] for hit in hits}

    assert words("두부  김치! 치즈")[1] == [("두부", "letters"), ("김치", "letters")]
    assert words("kimchi JJIGAE")[1] == [("kimchi", "sounds"), ("jjigae", "sounds")]
    assert words("rlaclWlro")[1] == [("김치찌개", "letters")], "as it was read"
    by_rank = words("두부 김치", boost=[{"weight": 0.1, "if": {"title": {"$exists": True}}}])
    assert by_rank[1] == [("두부", "letters"), ("김치", "letters")]
    if mode == "hybrid":
        assert words("휴대폰")[1] == []
    assert "why" not in found(app, "김치", mode)["results"][0]


def test_alpha_0_is_the_order_of_the_vectors(app: HttpApp) -> None:
    weighed = found(app, "김치찌개", "hybrid", hybrid={"alpha": 0}, top_k=30)
    assert ids(weighed) == ids(found(app, "김치찌개", "dense", top_k=30))


def test_dense_answers_are_what_they_were(app: HttpApp) -> None:
    asked = {"query": "김치찌개", "top_k": 5}
    document = app.post("/v1/search", asked).json()
    assert "mode" not in document and set(document["results"][0]) == {"recipe_id", "distance"}
    assert ids(document) == ids(found(app, "김치찌개", "dense", top_k=5))


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_filters_and_exclusions_are_exact(app: HttpApp, mode: str) -> None:
    condition = {"title": {"$ne": TITLES[11]}}
    document = found(app, "김치찌개", mode, top_k=30, exclude_ids=[1, 21, 3], filter=condition)
    assert not {1, 3, 11, 21} & set(ids(document))
    everything = set(ids(found(app, "김치찌개", mode, top_k=30)))
    assert set(ids(document)) == everything - {1, 3, 11, 21}


@pytest.mark.long
@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_pages_fit_together_while_writes_go_on(tmp_path: Path, mode: str) -> None:
    with running_app(tmp_path / "data", environ(tmp_path)) as app:
        fill(app, TITLES)
        whole = ids(found(app, "김치 두부", mode, top_k=30))
        page = found(app, "김치 두부", mode, top_k=7)
        seen = ids(page)
        for number in range(50, 54):
            fill(
                app,
                {number: f"김치 두부 {number}", seen[-1]: "다른 이름", whole[-number % 5 - 1]: "김치 두부"},
            )
            page = found(app, "김치 두부", mode, top_k=7, cursor=page["next_cursor"])
            seen += ids(page)
        assert seen == whole[: len(seen)] and len(seen) == len(whole)


def test_what_is_deleted_or_hidden_is_in_no_mode(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", environ(tmp_path)) as app:
        fill(app, TITLES)
        assert app.post("/v1/delete", {"ids": [1]}).status_code == 200
        assert app.post("/v1/deactivate", {"ids": [11]}).status_code == 200
        for mode in ("dense", "lexical", "hybrid"):
            assert 21 in ids(found(app, "김치찌개", mode)) and not {1, 11} & set(
                ids(found(app, "김치찌개", mode))
            )


def test_a_collection_may_search_by_both_unless_told_otherwise(app: HttpApp) -> None:
    item = {"id": 5, "text": "갈비탕", "metadata": {"title": "갈비탕"}}
    assert app.post("/v1/upsert", {"collection": "soups", "items": [item]}).status_code == 200
    asked = {"query": "갈비탕", "collection": "soups"}
    assert app.post("/v1/search", asked).json()["mode"] == "hybrid"
    assert "mode" not in app.post("/v1/search", {**asked, "mode": "dense"}).json()
    assert "mode" not in app.post("/v1/search", {"like_ids": [5], "collection": "soups"}).json()


def test_a_vector_of_the_caller_may_stand_for_the_models(app: HttpApp) -> None:
    vector = app.post("/v1/embed", {"text": "김치찌개", "collection": "recipes"}).json()["embedding"]
    own = found(app, "김치찌개", "hybrid", vector=vector, top_k=30)
    made = found(app, "김치찌개", "hybrid", top_k=30)
    assert ids(own) == ids(made) and own["mode"] == "hybrid"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"query": "국", "mode": "both"}, ["mode"]),
        ({"query": "국", "mode": "lexical", "collection": "plain"}, ["mode"]),
        ({"query": "국", "degrade": "lexical", "collection": "plain"}, ["degrade"]),
        ({"like_ids": [1], "mode": "hybrid"}, ["mode"]),
        ({"like_ids": [1], "degrade": "lexical"}, ["degrade"]),
        ({"query": "국", "hybrid": {"alpha": 1}}, ["hybrid"]),
        ({"query": "국", "mode": "hybrid", "hybrid": {"alpha": -1}}, ["hybrid", "alpha"]),
        ({"query": "국", "mode": "hybrid", "hybrid": {"alpha": "1"}}, ["hybrid", "alpha"]),
        ({"query": "국", "mode": "lexical", "max_distance": 1}, ["max_distance"]),
        ({"query": "국", "degrade": "lexical", "max_distance": 1}, ["max_distance"]),
        ({"query": "국", "mode": "lexical", "vector": [1.0] * 384}, ["query"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(app: HttpApp, body: dict[str, Any], named: list[str]) -> None:
    problem = app.post("/v1/search", body)
    assert problem.status_code == 422 and problem.json()["errors"][0]["loc"] == ["body", *named]


def test_a_cursor_belongs_to_its_mode(app: HttpApp) -> None:
    cursor = found(app, "김치찌개", "hybrid", top_k=1)["next_cursor"]
    for other in ({"mode": "lexical"}, {"mode": "dense"}, {"mode": "hybrid", "hybrid": {"alpha": 2}}):
        problem = app.post("/v1/search", {"query": "김치찌개", "cursor": cursor, **other})
        assert (problem.status_code, problem.json()["code"]) == (422, "invalid_cursor")


@pytest.mark.long
def test_words_answer_while_the_model_is_away(tmp_path: Path) -> None:
    """None that loads, and then another one than that of the vectors."""
    for model in ("nothing-here", "builtin:hashed-ngrams"):
        with running_app(tmp_path / "data", environ(tmp_path, TEXT_MODEL=model)) as app:
            if model == "nothing-here":
                fill_with_vectors(app)
            for mode in ("dense", "hybrid"):
                refused = app.post("/v1/search", {"query": "김치찌개", "mode": mode})
                assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
                first = found(app, "김치찌개", mode, degrade="lexical", top_k=2)
                assert first["degraded"] is True and first["mode"] == "lexical"
                second = found(app, "김치찌개", mode, degrade="lexical", top_k=2, cursor=first["next_cursor"])
                assert second["degraded"] is True
                assert [*ids(first), *ids(second)] == ids(found(app, "김치찌개", top_k=4))


def fill_with_vectors(app: HttpApp) -> None:
    vectors = np.eye(384)[: len(TITLES)].tolist()
    items = [
        {"recipe_id": number, "vector": vector, "metadata": {"title": title}}
        for vector, (number, title) in zip(vectors, TITLES.items(), strict=True)
    ]
    assert app.post("/v1/upsert", {"items": items, "embedding_version": "mine.1"}).status_code == 200


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("rlaclWlro", "김치찌개"),
        ("kimchi stew", "김치찌개"),
        ("Kimchi  Stew!", "김치찌개"),
        ("ㅏㅑㅡ초ㅑ ㄴㅅㄷㅈ", "김치찌개"),
    ],
)
@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_text_is_read_as_what_it_means(app: HttpApp, query: str, meant: str, mode: str) -> None:
    document = found(app, query, mode, top_k=3)
    assert document["interpreted_as"] == meant
    assert ids(document) == ids(found(app, meant, mode, top_k=3))
    second = found(app, query, mode, top_k=3, cursor=document["next_cursor"])
    assert second["interpreted_as"] == meant
    assert [*ids(document), *ids(second)] == ids(found(app, meant, mode, top_k=6))


@pytest.mark.parametrize("query", ["김치찌개", "tofu", "gkgkgk", "kimchi jjigae", "ㅋㅋ 김치", "🍲"])
def test_what_means_nothing_else_is_left_alone(app: HttpApp, query: str) -> None:
    """새려 and 하하하, which tofu and gkgkgk are on the other keyboard, stand nowhere."""
    for mode in ("lexical", "hybrid"):
        document = found(app, query, mode, **({"collection": "soups"} if query == "tofu" else {}))
        assert "interpreted_as" not in document
    assert "interpreted_as" not in found(app, "rlaclWlro", "dense")


@pytest.mark.parametrize(
    "text",
    [
        "\u200b" * 900,
        "ㄱ" * 1000,
        "\u1100" * 999,
        "김" * 1000,
        "🍲" * 500,
        "\u202e치김",
        "e\u0301" * 400,
        ". ,",
    ],
)
def test_hostile_words_are_searched_like_others(app: HttpApp, text: str) -> None:
    for mode in ("lexical", "hybrid"):
        assert app.post("/v1/search", {"query": text, "mode": mode}).status_code in (200, 422)


@pytest.mark.long
def test_slow_searches_by_words_are_told_by_their_mode(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", environ(tmp_path)) as app:  # of the shared one they are no slow ones
        fill(app, TITLES)
        for mode in ("lexical", "hybrid"):
            app.post("/v1/search", {"query": "냉면", "mode": mode}, headers={"x-request-id": f"by-{mode}"})
        document = app.get("/v1/slow?limit=200").json()
    check_schema(document, {"$ref": "#/components/schemas/SlowSearches"})
    for mode in ("lexical", "hybrid"):
        told = [each["query"] for each in document["searches"] if each["request_id"] == f"by-{mode}"]
        assert told == [mode]
