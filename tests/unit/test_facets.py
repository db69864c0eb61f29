"""Counts and facets of live items equal what a loop over dictionaries finds."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.delta.delta_columns import DeltaColumns
from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidFilter
from index_store.listings import Facet, FacetsRequest
from index_store.query.facets import number_ranges
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from tests.reference_filter import held, matches
from tests.sealing import opened, sealed, vectors

Items = dict[int, dict[str, Any] | None]


def described(number: int) -> dict[str, Any] | None:
    """Values of every kind, lists, nested ones, and keys that some items lack."""
    if number % 11 == 0:
        return None
    found: dict[str, Any] = {
        "price": number * 10,
        "shade": "red" if number % 3 else "파랑",
        "nest": {"x": number % 4},
    }
    found["tags"] = [["a", "b"], ["a"], [], "b", ["a", "a"]][number % 5]
    if number % 2:
        found["mixed"] = [1, "1", True, None, 1.5, 1.0][number // 2 % 6]
    if number % 7 == 0:
        found["nest.x"] = "own"
    return found


@pytest.fixture(scope="module")
def held_items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedIndex, Items]]:
    index, live = filled(tmp_path_factory.mktemp("facets"))
    yield index, live
    index.close()


def filled(tmp_path: Path) -> tuple[EmbeddedIndex, Items]:
    """A sealed part, one in memory, hidden and deleted items in both."""
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    live: Items = {}

    def put(numbers: range) -> None:
        for number in numbers:
            live[number] = described(number)
        items = [
            ItemWrite(n, v, metadata=live[n]) for n, v in zip(numbers, vectors(len(numbers)), strict=True)
        ]
        index.write("numbers", WriteBatch(items, (), "v1"))

    put(range(200))
    index.close()
    sealed(tmp_path)
    index = opened(tmp_path)
    put(range(150, 300))
    index.write(
        "numbers",
        WriteBatch([ItemWrite(n, active=False) for n in (3, 160, 290)], [ItemDelete(4), ItemDelete(291)]),
    )
    for number in (3, 160, 290, 4, 291):
        del live[number]
    return index, live


def kind(value: Any) -> Any:
    return (type(value) if not isinstance(value, int | float) or isinstance(value, bool) else float, value)


def expected(items: Items, key: str) -> tuple[int, Counter[Any]]:
    having, counts = 0, Counter[Any]()
    for metadata in items.values():
        values = held(key, metadata or {})
        having += bool(values)
        elements = [one for value in values for one in (value if isinstance(value, list) else [value])]
        counts.update({kind(one) for one in elements if not isinstance(one, dict)})
    return having, counts


@pytest.mark.long
@pytest.mark.parametrize(
    "condition", [None, {"shade": "red"}, {"price": {"$lt": 900}}, {"nest.x": 2}, {"nothing": 1}]
)
def test_counts_and_facets_equal_a_loop(
    held_items: tuple[EmbeddedIndex, Items], condition: dict[str, Any] | None
) -> None:
    index, live = held_items
    passing = {n: m for n, m in live.items() if condition is None or matches(condition, m or {})}
    source = index.item_source()
    counted = source.count_items("numbers", condition)
    assert (counted.live, counted.seq) == (len(passing), index.newest_seq("numbers"))
    assert list(counted.unknown_filter_keys) == [key for key in (condition or {}) if key == "nothing"]
    keys = ["shade", "tags", "mixed", "nest.x", "nest", "price", "absent"]
    found = source.count_values("numbers", FacetsRequest(condition, keys, values_max=1000))
    assert found.counted == counted and [each.key for each in found.facets] == keys
    for facet in found.facets:
        having, counts = expected(passing, facet.key)
        assert (facet.items, facet.distinct) == (having, len(counts)), facet.key
        assert {kind(value): items for value, items in facet.values} == counts, facet.key
        assert [items for _, items in facet.values] == sorted(counts.values(), reverse=True)


def test_without_keys_the_most_common_ones_are_told(held_items: tuple[EmbeddedIndex, Items]) -> None:
    index, live = held_items
    found = index.item_source().count_values("numbers", FacetsRequest(keys_max=3, values_max=2))
    having = Counter(key for metadata in live.values() for key in metadata or {})
    assert [(each.key, each.items) for each in found.facets] == sorted(
        having.items(), key=lambda e: (-e[1], e[0])
    )[:3]
    price = next(each for each in found.facets if each.key == "price")
    assert len(price.values) == 2 and price.distinct == having["price"]


def test_ranges_of_numbers_count_what_a_filter_finds(held_items: tuple[EmbeddedIndex, Items]) -> None:
    index, _ = held_items
    source = index.item_source()
    (price,) = source.count_values("numbers", FacetsRequest(keys=["price"])).facets
    assert sum(each.items for each in price.ranges) == price.items
    for each in price.ranges:
        within = {"price": {"$gte": each.low, "$lt": each.high}}
        assert source.count_items("numbers", within).live == each.items, each


def test_too_many_values_are_not_told_apart(held_items: tuple[EmbeddedIndex, Items]) -> None:
    index, live = held_items
    source = index.item_source()
    (price,) = source.count_values("numbers", FacetsRequest(keys=["price"], distinct_max=50)).facets
    having, _ = expected(live, "price")
    assert (price.items, price.distinct, price.values) == (having, None, [])
    assert sum(each.items for each in price.ranges) == having
    common = source.count_values("numbers", FacetsRequest(distinct_max=50)).facets
    assert Facet("price", having, None, (), ()) in common


def test_ranges_are_round_hold_everything_and_are_few() -> None:
    assert (
        number_ranges([], 10) == number_ranges([(5.0, 3)], 10) == number_ranges([(1.0, 1), (2.0, 1)], 0) == []
    )
    few = number_ranges([(1.0, 1), (3.0, 2), (4.0, 4)], 10)
    assert [(each.low, each.high, each.items) for each in few] == [(1, 2, 1), (2, 3, 0), (3, 4, 2), (4, 5, 4)]
    assert (
        number_ranges([(1e17, 1), (1e17 + 16, 1)], 10) == number_ranges([(-1e308, 1), (1.7e308, 1)], 5) == []
    )
    assert number_ranges([(-1e300, 1), (1.7e308, 1)], 10) == []  # the last edge is no number
    draw = random.Random(5)
    for _ in range(300):
        scale = 10.0 ** draw.randint(-8, 12)
        values = [round(draw.uniform(-1, 1) * scale, draw.randint(0, 9)) for _ in range(20)]
        ranges = number_ranges([(value, 1) for value in values], wanted := draw.randint(1, 20))
        if len(set(values)) == 1:
            continue
        assert len(ranges) <= wanted + 2 and sum(each.items for each in ranges) == 20, values
        assert all(one.high == two.low for one, two in itertools.pairwise(ranges))
        for each in ranges:
            assert each.items == sum(each.low <= value < each.high for value in values), values


def test_an_empty_collection_and_a_wrong_filter(tmp_path: Path) -> None:
    index = opened(tmp_path)
    source = index.item_source()
    assert source.count_items("numbers", {"a": 1}).live == 0
    with pytest.raises(InvalidFilter):
        source.count_items("numbers", {"a": {"$near": 1}})
    index.advance("numbers", "begin", "v1")
    assert source.count_values("numbers", FacetsRequest()).facets == []
    index.close()


def test_keys_are_counted_one_at_a_time_however_many_there_are() -> None:
    keys, rows = 200, 20_000
    texts = [json.dumps({f"k{n}": n, "all": n % 3}) for n in range(keys)]
    texts += ["{}"] * (rows - keys - 1) + ['{"all": 7}']
    columns = DeltaColumns(lambda start, stop: texts[start:stop])
    columns.append_texts(texts)
    mask = np.zeros(rows, dtype=np.bool_)
    mask[1:keys:2] = mask[-1] = True
    tracemalloc.start()
    used = columns.used_keys(mask)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used["all"] == (keys // 2 + 1, 4)
    assert {key: use.items for key, use in used.items() if key != "all"} == {
        f"k{n}": 1 for n in range(1, keys, 2)
    }
    assert peak < 10 * rows * 4, "of each key a whole column"
