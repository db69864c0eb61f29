"""Which values the live items of a view have under a key, and how many items each.

Metadata stands in columns of codes: items are counted by code, so Python looks at distinct values, not at
rows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.filter.cache import CompiledFilter
from index_store.filter.columns import ColumnSource, counts_by_code
from index_store.filter.compile import Mask, kind_of
from index_store.filter.key_paths import composed, locations_of
from index_store.listings import Facet, FacetsRequest, NumberRange
from index_store.query.allowed import passing_bits, passing_mask
from index_store.query.view import View
from item_rules.lifetime import ShownSpan

TEXT_CHARS_MAX = 1024
"""Longer texts are not counted as values."""
_STEPS = (1.0, 2.0, 5.0, 10.0)

Named: TypeAlias = tuple[str, Any]
"""A value by its kind: 1 is not true."""


class LiveRows(NamedTuple):
    """The rows of one segment, or of the delta. mask: (rows,), those that are live and pass the filter."""

    columns: ColumnSource
    mask: Mask


def live_rows(view: View, condition: CompiledFilter | None, span: ShownSpan | None = None) -> list[LiveRows]:
    """Return the live rows that pass, of each part of the view. span: and that are shown then."""
    found = []
    for one in view.segments:
        bits = passing_bits(one, one.live, condition, span)
        assert bits is not None, "some were given"
        mask = np.unpackbits(bits, count=one.segment.reader.rows, bitorder="little").view(np.bool_)
        found.append(LiveRows(one.segment.metadata, mask))
    live = passing_mask(view, view.live[: view.count], condition, span)
    return [*found, LiveRows(view.delta.columns, live)]


def facets_of(sources: Sequence[LiveRows], request: FacetsRequest) -> list[Facet]:
    """Return the facets of the keys that are wanted, in their order."""
    if request.keys is not None:
        return [_facet(key, sources, request) for key in request.keys]
    items, distinct = Counter[str](), Counter[str]()
    for source in sources:
        for key, use in source.columns.used_keys(source.mask).items():
            items[key] += use.items
            distinct[key] = max(distinct[key], use.distinct)
    common = heapq.nsmallest(request.keys_max, items, key=lambda key: (-items[key], key))
    return [
        Facet(key, items[key], None, (), ())  # its values are not even read
        if distinct[key] > request.distinct_max
        else _facet(key, sources, request)
        for key in common
    ]


@dataclass(slots=True)
class FacetBuilder:
    """What was counted of one key so far. numbers: values with their items."""

    distinct_max: int
    items: int = 0
    is_told_apart: bool = True
    has_all_numbers: bool = True
    values: Counter[Named] = field(default_factory=Counter)
    numbers: list[tuple[float, int]] = field(default_factory=list)

    def include(self, found: Sequence[Any], items: int) -> None:
        """Count so many items with these values; of a list, with each of its elements."""
        self.items += items
        elements = [each for value in found for each in (value if isinstance(value, list) else (value,))]
        for named in {_named(each): None for each in elements}:
            if named is None:
                continue
            if named[0] == "number":
                self.numbers.append((float(named[1]), items))
            if named in self.values or len(self.values) < self.distinct_max:
                self.values[named] += items
            else:
                self.is_told_apart = False

    def include_many(self, values: Sequence[Any], counts: Sequence[int]) -> None:
        """Count so many values that only their numbers are looked at."""
        self.items += sum(counts)
        self.is_told_apart = False
        kinds = set(map(type, values))
        if list in kinds:
            self.has_all_numbers = False
        elif kinds & {int, float}:
            pairs = zip(values, counts, strict=True)
            self.numbers += [(float(value), items) for value, items in pairs if type(value) in (int, float)]

    def facet(self, key: str, request: FacetsRequest) -> Facet:
        """Return what was counted, as a facet of `key`."""
        common: list[tuple[Any, int]] = []
        if self.is_told_apart:
            first = heapq.nsmallest(request.values_max, self.values.items(), key=_most_common)
            common = [(value, items) for (_, value), items in first]
        distinct = len(self.values) if self.is_told_apart else None
        numbers = self.numbers if self.has_all_numbers else ()
        return Facet(key, self.items, distinct, common, number_ranges(numbers, request.ranges))


def _named(value: Any) -> Named | None:
    kind = kind_of(value)
    if kind == "other" or (kind == "text" and len(value) > TEXT_CHARS_MAX):
        return None
    return kind, composed(value)


def _facet(key: str, sources: Sequence[LiveRows], request: FacetsRequest) -> Facet:
    building = FacetBuilder(request.distinct_max)
    for source in sources:
        _count(key, source, building)
    return building.facet(key, request)


def _most_common(entry: tuple[Named, int]) -> tuple[int, str, Any]:
    """Then by value, whose kind is the same; there is one null."""
    (kind, value), items = entry
    return -items, kind, 0 if value is None else value


def _count(key: str, source: LiveRows, building: FacetBuilder) -> None:
    """Of several locations of a key, a row's first counts, as in a filter."""
    left = source.mask
    for location in locations_of(key, source.columns):
        codes = location.column.codes.between(0, len(left))
        counts = counts_by_code(codes, left)
        has_key = np.zeros(len(counts) + 1, dtype=np.bool_)  # codes that none of these rows has are beyond
        occurring = np.flatnonzero(counts)
        values = location.column.values
        if len(occurring) > building.distinct_max and not location.path:
            building.include_many([values[code] for code in occurring.tolist()], counts[occurring].tolist())
            has_key[occurring] = True
            occurring = occurring[:0]
        for code in occurring.tolist():
            found = location.values_in(values[code])
            if found:
                has_key[code] = True
                building.include(found, int(counts[code]))
        left = left & ~has_key[np.minimum(codes, len(counts))]  # MISSING is -1: the last entry as well


def number_ranges(numbers: Sequence[tuple[float, int]], wanted: int) -> list[NumberRange]:
    """Return ranges of one round width that hold these numbers, about as many as `wanted`; none for a single
    value. numbers: values with their items."""
    if not numbers:
        return []
    values, items = np.array(numbers, dtype=np.float64).T
    are_whole = bool((values == np.floor(values)).all())
    edges = range_edges(float(values.min()), float(values.max()), wanted, are_whole=are_whole)
    if not len(edges):
        return []
    places = np.searchsorted(edges, values, side="right") - 1
    return ranges_between(edges, np.bincount(places, weights=items, minlength=len(edges) - 1))


def range_edges(low: float, high: float, wanted: int, *, are_whole: bool) -> npt.NDArray[np.float64]:
    """Return the edges of those ranges, ascending: one more than there are ranges, or none. low, high: of the
    numbers. are_whole: whether all are."""
    none = np.empty(0)
    if low == high or wanted < 1 or not math.isfinite(high - low):
        return none
    step = _round_step((high - low) / wanted)
    if are_whole:
        step = max(1.0, step)
    if step <= 4 * math.ulp(max(abs(low), abs(high))):  # its edges could not be told apart
        return none
    first, last = math.floor(low / step), math.floor(high / step) + 1
    first -= first * step > low  # where division has rounded
    last += last * step <= high
    if not math.isfinite(first * step) or not math.isfinite(last * step):
        return none
    return np.arange(first, last + 1, dtype=np.float64) * np.float64(step)


def ranges_between(edges: npt.NDArray[np.float64], items: Iterable[float]) -> list[NumberRange]:
    """Return the ranges between edges. items: how many each holds."""
    found = zip(edges[:-1].tolist(), edges[1:].tolist(), items, strict=True)
    return [NumberRange(low, high, int(count)) for low, high, count in found]


def _round_step(width: float) -> float:
    """The next of 1, 2 and 5 times a power of ten that is not smaller."""
    unit = 10.0 ** math.floor(math.log10(width))
    return next((step * unit for step in _STEPS if step * unit >= width), 10 * unit)
