"""Confidence of hits: the same whatever else is asked, on all pages, sealed or in memory; a minimum ends an
answer where it has to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.ann.background import SAMPLE_ROWS, sample_of
from index_store.ann.rerank import rescore, similarities
from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidRequest
from index_store.maintenance.worker import Maintenance
from index_store.request.confidence import Background, ConfidenceQuery, Curve
from index_store.request.ranking import Boost, Ranking
from index_store.request.recommendation import Recommendation
from index_store.types import (
    CollectionSpec,
    ItemWrite,
    Metric,
    SearchRequest,
    SearchResult,
    TextQuery,
    WriteBatch,
)

DIM = 8
WORDS = ("갈비", "김치", "두부", "사과", "커피")
SPEC = CollectionSpec("goods", "int64", DIM, "l2", ("title",))
QUERY = np.eye(DIM, dtype=np.float32)[0]


def curve_of(version: str, text: str, background: Background) -> Curve:
    """Half for what is as similar as rows usually are to this query."""
    if version == "unknown":
        raise InvalidRequest("nobody knows", "include")
    return Curve(4.0, -4.0 * background.of_query - 0.01 * len(text))


def test_a_curve_is_told_how_many_items_there_are_and_how_much_of_the_words(index: EmbeddedIndex) -> None:
    seen = backgrounds(index, ("갈비", None), ("갈비", TextQuery("갈비")), ("갈비", TextQuery("휴대폰")))
    assert [(each.rows, each.size, each.share) for each in seen] == [
        (200, 200, 1.0),
        (200, 200, 1.0),
        (200, 200, 0.0),
    ]


def test_without_words_nothing_is_known_of_them(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path, [replace(SPEC, lexical_fields=())])
    index.open()
    index.advance("goods", "begin", "v1")
    index.write("goods", batch(range(20)))
    (seen,) = backgrounds(index, ("갈비", None))
    assert (seen.rows, seen.size, seen.share) == (20, 20, None)
    index.close()


def test_words_that_wait_to_be_sealed_hold_no_dense_answer_up(tmp_path: Path) -> None:
    """The fields were declared after the segment was sealed."""
    index = EmbeddedIndex(tmp_path, [replace(SPEC, lexical_fields=())])
    index.open()
    index.advance("goods", "begin", "v1")
    index.write("goods", batch(range(20)))
    index.close()
    assert Maintenance(tmp_path).rebuild() is not None
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    (seen,) = backgrounds(index, ("갈비", None))
    assert seen.share is None
    index.close()


def backgrounds(index: EmbeddedIndex, *asked: tuple[str, TextQuery | None]) -> list[Background]:
    seen: list[Background] = []

    def note(version: str, text: str, background: Background) -> Curve:
        seen.append(background)
        return curve_of(version, text, background)

    for query, text in asked:
        index.search("goods", [SearchRequest(QUERY, 5, text=text, confidence=ConfidenceQuery(query, note))])
    return seen


def batch(numbers: range) -> WriteBatch:
    random = np.random.default_rng(numbers.start)
    vectors = random.standard_normal((len(numbers), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [
        ItemWrite(number, vector, metadata={"title": f"{WORDS[number % 5]} {number}"})
        for number, vector in zip(numbers, vectors, strict=True)
    ]
    return WriteBatch(items, embedding_version="v1")


@pytest.fixture(scope="module", params=["in memory", "sealed"])
def index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedIndex]:
    folder = tmp_path_factory.mktemp("goods")
    index = EmbeddedIndex(folder, [SPEC])
    index.open()
    index.advance("goods", "begin", "v1")
    index.write("goods", batch(range(200)))
    if request.param == "sealed":
        index.close()
        assert Maintenance(folder).rebuild() is not None
        index = EmbeddedIndex(folder, [SPEC])
        index.open()
    yield index
    index.close()


def find(index: EmbeddedIndex, mode: str = "dense", minimum: float = 0.0, **more: Any) -> SearchResult:
    text = TextQuery("갈비") if mode == "hybrid" else None
    asked = ConfidenceQuery("갈비", curve_of, minimum)
    fields = {"k": 300, "embedding_version": "v1", **more}
    return index.search("goods", [SearchRequest(QUERY, text=text, confidence=asked, **fields)])[0]


def told(result: SearchResult) -> dict[Any, float]:
    return {hit.id: hit.confidence for hit in result.hits if hit.confidence is not None}


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_it_falls_with_the_order_and_is_what_the_curve_says(index: EmbeddedIndex, mode: str) -> None:
    result = find(index, mode)
    vectors = np.stack(
        [item.vector for item in index.get("goods", range(200)) if item and item.vector is not None]
    )
    offset = -4.0 * float((vectors @ QUERY).mean()) - 0.02
    values = list(told(result).values())
    assert len(values) == 200 and values == sorted(values, reverse=True)
    for hit in result.hits:
        score = 1 - hit.distance**2 / 2 if hit.score is None else hit.score
        assert hit.confidence == pytest.approx(1 / (1 + np.exp(-(4.0 * score + offset))), abs=1e-6)


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_nothing_else_that_is_asked_changes_it(index: EmbeddedIndex, mode: str) -> None:
    whole = told(find(index, mode))
    few = told(
        find(index, mode, exclude_ids=list(range(0, 200, 3)), filter={"title": {"$ne": "김치 1"}}, k=20)
    )
    assert len(few) == 20 and few.items() <= whole.items()
    rich = find(index, mode, with_metadata=True, with_vectors=True, k=5, offset=7)
    assert told(rich).items() <= whole.items() and rich.hits[0].metadata is not None
    plain = index.search("goods", [SearchRequest(QUERY, 5)])[0]
    assert told(plain) == {}


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_a_minimum_leaves_out_what_is_below_and_says_that_nothing_follows(
    index: EmbeddedIndex, mode: str
) -> None:
    whole = find(index, mode)
    values = list(told(whole).values())
    minimum = (values[29] + values[30]) / 2
    wanted = [hit.id for hit in whole.hits[:30]]
    for k, offset in ((300, 0), (31, 0), (30, 0), (20, 10), (20, 20)):
        result = find(index, mode, minimum, k=k, offset=offset)
        assert [hit.id for hit in result.hits] == wanted[offset : offset + k]
        assert result.exhausted and result.next_page is None
    for k, offset in ((29, 0), (9, 20)):
        result = find(index, mode, minimum, k=k, offset=offset)
        assert len(result.hits) == k and not result.exhausted and result.next_page is not None
    assert find(index, mode, minimum, offset=40).hits == []
    assert [hit.id for hit in find(index, mode, values[29]).hits] == wanted  # what just reaches it stays
    nothing = find(index, mode, 1.0)
    assert nothing.hits == [] and nothing.exhausted and nothing.next_page is None


def test_the_nearer_of_two_limits_holds(index: EmbeddedIndex) -> None:
    whole = find(index)
    confidence, distance = whole.hits[50].confidence, whole.hits[20].distance
    assert confidence is not None
    assert len(find(index, minimum=confidence, max_distance=distance).hits) == 21
    assert len(find(index, minimum=confidence, max_distance=whole.hits[80].distance).hits) == 51


RANKINGS = {
    "boosts": Ranking([Boost(3.0, {"title": {"$in": ["사과 18", "김치 41"]}})]),
    "boosts, few at a time": Ranking([Boost(-0.2, {"title": {"$exists": True}})], pool=7),
    "diversity": Ranking(diversity=0.5),
    "near-duplicates": Ranking(collapse=1e-9, pool=50),
}


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=RANKINGS)
@pytest.mark.parametrize("exact", [False, True])
def test_what_ranks_an_answer_changes_no_confidence(
    index: EmbeddedIndex, mode: str, ranking: Ranking, exact: bool
) -> None:
    whole = find(index, mode, exact=exact)
    values = list(told(whole).values())
    ranked = find(index, mode, ranking=ranking, exact=exact)
    assert told(ranked) == pytest.approx(told(whole), abs=1e-12)
    minimum = (values[59] + values[60]) / 2
    page = some = find(index, mode, minimum, ranking=ranking, k=25, exact=exact)
    seen = told(page)
    while page.next_page is not None:
        page = find(index, mode, minimum, ranking=ranking, k=25, exact=exact, after=page.next_page)
        seen |= told(page)
    assert len(some.hits) == 25 and page.exhausted
    assert seen == pytest.approx(dict(list(told(whole).items())[:60]), abs=1e-12)
    nothing = find(index, mode, 1.0, ranking=ranking, exact=exact)
    assert nothing.hits == [] and nothing.exhausted


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_pages_have_one_scale_while_writes_go_on(tmp_path: Path, mode: str) -> None:
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    index.advance("goods", "begin", "v1")
    index.write("goods", batch(range(60)))
    whole = find(index, mode, k=60)
    minimum = list(told(whole).values())[44]
    page = find(index, mode, minimum, k=20)
    seen = told(page)
    index.write("goods", batch(range(100, 300)))  # another background
    while page.next_page is not None:
        page = find(index, mode, minimum, k=20, after=page.next_page)
        seen |= told(page)
    assert page.exhausted and seen == dict(list(told(whole).items())[:45])
    assert told(find(index, mode, k=60)) != told(whole)
    index.close()


def test_who_makes_the_curve_may_refuse(index: EmbeddedIndex) -> None:
    def nobody(_: str, text: str, background: Background) -> Curve:
        return curve_of("unknown", text, background)

    with pytest.raises(InvalidRequest, match="nobody knows"):
        index.search("goods", [SearchRequest(QUERY, 5, confidence=ConfidenceQuery("갈비", nobody))])


@pytest.mark.parametrize("minimum", [-0.1, 1.1, float("nan")])
def test_a_minimum_is_a_probability(index: EmbeddedIndex, minimum: float) -> None:
    with pytest.raises(InvalidRequest, match="a confidence is 0"):
        find(index, minimum=minimum)


def test_of_words_alone_and_of_recommendations_nothing_is_told(index: EmbeddedIndex) -> None:
    asked = ConfidenceQuery("갈비", curve_of)
    likes = Recommendation("best", QUERY[None, :], (1.0,), np.empty((0, DIM), np.float32))
    for more in ({"text": TextQuery("갈비", "lexical")}, {"recommendation": likes}):
        with pytest.raises(InvalidRequest, match="nobody knows"):
            index.search("goods", [SearchRequest(QUERY, 5, confidence=asked, **more)])


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_a_sample_is_of_some_rows_and_the_same_each_time(metric: Metric) -> None:
    random = np.random.default_rng(5)
    rows = (random.standard_normal((SAMPLE_ROWS, DIM)) * 2).astype(np.float32)
    query = random.standard_normal(DIM).astype(np.float32)
    background = sample_of(rows, metric).background(query)
    told = similarities(rescore(query, rows, metric), metric)
    assert background.rows == SAMPLE_ROWS and background.of_query == pytest.approx(
        float(told.mean()), abs=1e-5
    )
    pairs = np.concatenate(
        [similarities(rescore(row, rows[:n], metric), metric) for n, row in enumerate(rows) if n]
    )
    assert background.middle == pytest.approx(float(np.median(pairs)))
    assert background.middle + background.spread == pytest.approx(float(np.percentile(pairs, 99.9)))
    more = np.concatenate([rows, rows[::-1]])
    assert sample_of(more, metric).rows == SAMPLE_ROWS
    assert sample_of(more, metric).background(query) == sample_of(more.copy(), metric).background(query)


@pytest.mark.parametrize("rows", [0, 1])
def test_of_hardly_any_rows_there_is_a_background_too(rows: int) -> None:
    sample = sample_of(np.ones((rows, DIM), np.float32), "cosine")
    background = sample.background(QUERY)
    assert background[:3] == (rows, 0.0, 0.1) and background.of_query == pytest.approx(rows / np.sqrt(DIM))


def test_an_empty_collection_has_no_hits(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path, [replace(SPEC, name="goods")])
    index.open()
    index.advance("goods", "begin", "v1")
    assert find(index).hits == [] and find(index, "hybrid", 0.5).hits == []
    index.close()
