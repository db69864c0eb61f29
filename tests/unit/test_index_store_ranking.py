"""Boosts, groups and near-duplicates of the engine, where the state machine does not look."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.errors import InvalidFilter, InvalidRequest
from index_store.filter.columns import MetadataColumns
from index_store.query.ranking.diversity import diverse_order
from index_store.query.ranking.formula import compiled_boosts, duration_of
from index_store.request.ranking import COLLAPSED_MAX, Boost, Decay, GroupBy, Linear, Ranking
from index_store.types import ItemWrite, SearchRequest, WriteBatch
from item_rules.moments import seconds_of
from tests.unit.test_index_store_words import SPEC, opened, sealed


def added(texts: Sequence[str], *terms: Any, now: float = 0.0) -> list[list[float]]:
    formula = compiled_boosts(Ranking([Boost(1.0, term) for term in terms], now=now))
    columns = MetadataColumns()
    columns.add_texts(0, texts, {key for text in texts for key in json.loads(text)})
    found: list[list[float]] = formula.added(columns, np.arange(len(texts))).tolist()
    return found


def test_a_value_that_is_no_number_counts_nothing() -> None:
    texts = [f'{{"a":{value}}}' for value in ("true", '"7"', "null", "[7]", '{"b":7}', "1" + "0" * 400, "7")]
    found = added([*texts, "{}"], Linear("a", 0, 14), Decay("a", 1.0, 7.0), Decay("a", "1d"))
    assert [row[0] for row in found] == [0, 0, 0, 0, 0, 0, 0.5, 0]
    assert [row[1] for row in found] == [0, 0, 0, 0, 0, 0, 1, 0]
    assert [row[2] > 0.99 for row in found] == [False] * 6 + [True, False]


def test_terms_stay_between_0_and_1_whatever_the_numbers() -> None:
    huge = ['{"a":1e308}', '{"a":-1e308}', '{"a":0}', '{"a":5e-324}']
    terms = [Linear("a", -1e308, 1e308), Linear("a", 1, -1)]
    terms += [Decay("a", 5e-324, 1e308, shape) for shape in ("exp", "gauss", "linear")]
    assert all(0 <= each <= 1 for row in added(huge, *terms) for each in row)


def test_a_key_along_a_path_and_each_shape_at_one_scale() -> None:
    texts = ['{"n":{"a":3}}', '{"n.a":3,"n":{"a":900}}', '{"n":[{"a":3},{"a":4}]}']
    found = added(texts, *(Decay("n.a", 2.0, 1.0, shape) for shape in ("exp", "gauss", "linear")))
    assert found == [[0.5] * 3, [0.5] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (86_400, 86_400.0),
        (1.7e12, 1.7e9),
        (-1.7e12, -1.7e9),
        ("1970-01-02", 86_400.0),
        ("1970-01-02T09:00:00+09:00", 86_400.0),
        ("1970-01-02T00:00:00.5Z", 86_400.5),
        *((value, math.nan) for value in ("yesterday", "", None, True, [1], 10**400, "1970-13-01")),
    ],
)
def test_dates_as_metadata_hold_them(value: Any, seconds: float) -> None:
    assert seconds_of(value) == pytest.approx(seconds, nan_ok=True)


def test_durations() -> None:
    assert [duration_of(text) for text in ("90s", "1.5m", "2h", "7d", "2w")] == [
        90,
        90,
        7200,
        604_800,
        1_209_600,
    ]
    assert all(math.isnan(duration_of(text)) for text in ("7", "d", "7 d", "-7d", "7D", "٧d", "1e3s"))


def test_what_cannot_be_compiled_is_named() -> None:
    for term, field in (
        (Linear("a", math.inf, 1), "boost[0].linear.from"),
        (Decay("a", math.nan, 1.0), "boost[0].decay.scale"),
        (Decay("a", 1.0, math.inf), "boost[0].decay.origin"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            compiled_boosts(Ranking([Boost(1.0, term)]))
        assert caught.value.field == field
    with pytest.raises(InvalidFilter) as refused:
        compiled_boosts(Ranking([Boost(1.0, {"a": {"$x": 1}})]))
    assert refused.value.field == "boost[0].if.a.$x"
    for ranking, field in (
        (Ranking([Boost(math.nan, {})]), "boost[0].weight"),
        (Ranking([Boost(1.0, {})] * 9), "boost"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            compiled_boosts(ranking)
        assert caught.value.field == field


@pytest.mark.long
def test_groups_reach_behind_hundreds_of_one_seller(tmp_path: Path) -> None:
    """In a segment and in memory: the rows of a full group are no longer fetched."""
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    random = np.random.default_rng(5)
    direction = np.ones(SPEC.dim, np.float32)

    def write(numbers: range, seller: Any, spread: float) -> None:
        noise = random.standard_normal((len(numbers), SPEC.dim)).astype(np.float32)
        items = [
            ItemWrite(number, direction + spread * row, metadata={"seller": seller})
            for number, row in zip(numbers, noise, strict=True)
        ]
        index.write("numbers", WriteBatch(items, embedding_version="v1"))

    write(range(900), "가온", 0.01)
    write(range(3000, 3010), 1, 0.3)
    sealed(tmp_path, index)
    write(range(4000, 4500), "가온", 0.01)
    write(range(6000, 6010), 1.0, 0.3)
    write(range(7000, 7003), None, 0.5)
    ranking = Ranking(group=GroupBy("seller", 3))
    request = SearchRequest(direction, 20, ranking=ranking, steps=[])
    (found,) = index.search("numbers", [request])
    groups = ["가온" if hit.id < 3000 or 4000 <= hit.id < 6000 else hit.id // 1000 for hit in found.hits]  # type: ignore[operator]
    assert groups.count("가온") == 3 and groups.count(7) == 3 and len(groups) == 9 and found.exhausted
    assert sum(group in (3, 6) for group in groups) == 3, "1 and 1.0 are the same"
    assert len(request.steps or ()) < 12
    index.close()


@pytest.mark.long
def test_hundreds_of_the_same_are_gone_through_in_few_steps(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    direction = np.ones(SPEC.dim, np.float32)
    items = [ItemWrite(number, direction, metadata={"price": number}) for number in range(1000)]
    items += [
        ItemWrite(number, np.roll(direction * [9, *[1] * 7], number).astype("f4"))
        for number in range(1000, 1004)
    ]
    index.write("numbers", WriteBatch(items, embedding_version="v1"))
    sealed(tmp_path, index)
    ranking = Ranking([Boost(0.01, Linear("price", 0, 1000))], collapse=0.1, pool=20)
    request = SearchRequest(direction, 3, ranking=ranking, steps=[])
    (found,) = index.search("numbers", [request])
    assert [hit.id for hit in found.hits] == [19, 1000, 1001] and len(request.steps or ()) < 8
    (page,) = index.search("numbers", [replace(request, after=found.next_page)])
    assert [hit.id for hit in page.hits] == [1002, 1003] and page.exhausted
    index.close()


@pytest.mark.long
def test_a_distance_that_leaves_out_everything_is_refused_in_time(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    direction = np.ones(SPEC.dim, np.float32)
    items = [ItemWrite(number, direction) for number in range(COLLAPSED_MAX + 2)]
    index.write("numbers", WriteBatch(items, embedding_version="v1"))
    request = SearchRequest(direction, 2, ranking=Ranking(collapse=0.5, pool=2000))
    with pytest.raises(InvalidRequest) as refused:
        index.search("numbers", [request])
    assert refused.value.field == "collapse.distance"
    index.close()


def test_equal_vectors_are_one_direction_whatever_their_length() -> None:
    vectors = np.array([[1, 0], [3, 0], [0, 2], [0.5, 0.1]], np.float32)
    order = diverse_order(vectors, np.array([1.0, 0.9, 0.5, 0.4]), 0.9, 4).tolist()
    assert order[:2] == [0, 2], "1 is 0 again"
    same = diverse_order(np.ones((5, 3), np.float32), np.arange(5.0)[::-1].copy(), 0.9, 5)
    assert same.tolist() == [0, 1, 2, 3, 4], "where all are alike, likeness says nothing"


def test_an_exact_search_finds_the_best_score_however_far_it_is(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    steps = np.linspace(0, 0.1, 60)
    items = [
        ItemWrite(number, np.array([1, step, *[0] * 6], np.float32), metadata={"size": number % 59})
        for number, step in enumerate(steps)
    ]
    index.write("numbers", WriteBatch(items, embedding_version="v1"))
    ranking = Ranking([Boost(1.0, Linear("size", 0, 58))], pool=3)
    request = SearchRequest(np.array([1, *[0] * 7], np.float32), 4, ranking=ranking)
    (near,) = index.search("numbers", [request])
    (best,) = index.search("numbers", [replace(request, exact=True)])
    assert [hit.id for hit in near.hits] == [2, 1, 0, 5]
    assert [hit.id for hit in best.hits] == [58, 57, 56, 55]
    index.close()
