"""What is left out of an answer: rows of full groups, and rows nearly the same as a better hit."""

from __future__ import annotations

import json
import operator
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from index_store.ann.port import Bitmap
from index_store.ann.rerank import is_any_near
from index_store.ann.validation import count_allowed, pack_allowed
from index_store.delta.id_index import RowNumbers
from index_store.filter.columns import MISSING, KeyColumns
from index_store.filter.key_paths import KeyLocation, composed, locations_of
from index_store.query.view import View, by_part
from index_store.request.ranking import GroupBy
from index_store.types import Metric, Vector

COLLAPSE_REACH = 200
"""Hits before it that a row is compared with."""

_NOWHERE: Hashable = ("nowhere",)
"""The name of a row without the key. By identity: a text or a list never is this one."""


class GroupCounts:
    """How many hits each group has. Rows of a group that is full can be taken out of a view: known by the
    codes that its rows were seen with, so a row whose code was not seen yet stays in."""

    def __init__(self, view: View, group: GroupBy) -> None:
        self._view = view
        self._group = group
        self._hits: Counter[Hashable] = Counter()
        self.full: set[Hashable] = set()
        """Names of groups of which no more hits may come."""
        self._seen: dict[tuple[int, int], set[int]] = defaultdict(set)
        """Codes that occurred, of each part and place where the key is looked for."""
        self._along: dict[tuple[int, int], dict[int, Hashable]] = defaultdict(dict)
        """Names by code, likewise, where the value stands deeper."""
        self._hidden: dict[int, set[int]] = defaultdict(set)
        self._locations: dict[int, Sequence[KeyLocation]] = {}

    def names(self, numbers: npt.NDArray[np.int64], rows: RowNumbers) -> list[Hashable]:
        """Return the group of each row; None where it has none. numbers: of segments, -1 for the delta."""
        parts = list(by_part(numbers, rows))
        if len(parts) == 1:
            return self._names_in(parts[0].number, rows)
        out: list[Hashable] = [None] * len(rows)
        for number, positions, some in parts:
            for position, name in zip(positions.tolist(), self._names_in(number, some), strict=True):
                out[position] = name
        return out

    def _names_in(self, number: int, rows: RowNumbers) -> list[Hashable]:
        if self._view.pool is not None:  # rows that were fetched since can have brought further columns
            self._locations.clear()
            self._seen.clear()
        names: list[Hashable] = [_NOWHERE] * len(rows)
        stop = int(rows.max(initial=-1)) + 1
        for place, location in enumerate(self._locations_in(number)):  # the first one that a row has decides
            codes = location.column.codes.between(0, stop)[rows].tolist()
            occurring = set(codes)
            self._seen[number, place] |= occurring
            known = self._names_by_code(number, place, location)
            fresh = [code for code in occurring if code not in known]
            for code, value in zip(fresh, location.column.values.of_codes(fresh), strict=True):
                known[code] = _name_of(value) if not location.path else _name_along(location.values_in(value))
            known[MISSING] = _NOWHERE
            if not place:
                names = [known[code] for code in codes]
                continue
            names = [
                known[code] if name is _NOWHERE else name for code, name in zip(codes, names, strict=True)
            ]
        return [None if name is _NOWHERE else name for name in names]

    def _names_by_code(self, number: int, place: int, location: KeyLocation) -> dict[int, Hashable]:
        return self._along[number, place] if location.path else location.column.values.names

    def _locations_in(self, number: int) -> Sequence[KeyLocation]:
        """Where a part holds the key; the same ones all the time, since columns that are made anew have other
        codes."""
        found = self._locations.get(number)
        if found is None:
            found = self._locations[number] = locations_of(self._group.key, columns_of(self._view, number))
        return found

    def count_hit(self, name: Hashable) -> None:
        """Count a hit. name: None for one without a group."""
        self._hits[name] += 1
        if name is not None and self._hits[name] >= self._group.most:
            self.full.add(name)

    def without_full(self, view: View) -> View:
        """Return the view without the rows of full groups; a store elsewhere leaves them out from here on."""
        if view.pool is not None:
            values = [name for name in self.full if isinstance(name, str | int | float)]
            view.pool.fetcher.leave_out(self._group.key, values)
            return view
        live_rows, segments = view.live, list(view.segments)
        for (number, place), seen in self._seen.items():
            if place:
                continue
            names = self._names_by_code(number, place, self._locations_in(number)[0])
            codes = [code for code in seen if names[code] in self.full]
            codes = [code for code in codes if code not in self._hidden[number]]
            if not codes:
                continue
            self._hidden[number].update(codes)
            if number < 0:
                live_rows = live_rows[: view.count] & ~self._rows_with(number, codes, view.count)
                continue
            one = segments[number]
            live: Bitmap = one.live & pack_allowed(~self._rows_with(number, codes, one.segment.reader.rows))
            hidden = one.segment.reader.rows - count_allowed(live)
            segments[number] = replace(one, live=live, hidden=hidden)
        is_same = live_rows is view.live and all(map(operator.is_, segments, view.segments))
        return view if is_same else replace(view, segments=tuple(segments), live=live_rows)

    def _rows_with(self, number: int, codes: Sequence[int], count: int) -> npt.NDArray[np.bool_]:
        """Which rows of a part have one of these codes where the key is looked for first."""
        column = self._locations_in(number)[0].column
        wanted = np.zeros(max(len(column.values), max(codes) + 1) + 1, np.bool_)  # MISSING picks the last one
        wanted[codes] = True
        found: npt.NDArray[np.bool_] = wanted[column.codes.between(0, count)]
        return found


def columns_of(view: View, number: int) -> KeyColumns:
    """Return the metadata of a segment, or of the delta for -1, by key."""
    return view.delta.columns if number < 0 else view.segments[number].segment.metadata


def _name_of(value: object) -> Hashable:
    """One name for equal values: numbers by their size, texts in NFC, lists and objects as a whole; None for
    null."""
    if isinstance(value, str):
        return value if value.isascii() else str(composed(value))
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return (type(value), json.dumps(value, sort_keys=True))


def _name_along(values: Sequence[object]) -> Hashable:
    """Of what stands along a path."""
    if not values:
        return _NOWHERE
    return _name_of(values[0] if len(values) == 1 else list(values))


class KeptVectors:
    """The vectors of the hits so far, for finding out what is nearly the same as one of them."""

    def __init__(self, metric: Metric, limit: float) -> None:
        """limit: rows as near as that are the same."""
        self._metric: Metric = "cosine" if metric == "ip" else metric
        self._limit = limit
        self._kept: Vector = np.empty((0, 0), np.float32)
        self._count = 0

    def is_near(self, vector: Vector) -> bool:
        """Whether one of the last `COLLAPSE_REACH` hits is as near to `vector`, (dim,) float32, as that."""
        count = min(self._count, COLLAPSE_REACH)
        return count > 0 and is_any_near(vector, self._kept[:count], self._metric, self._limit)

    def keep_vector(self, vector: Vector) -> None:
        """Take in the vector of a hit."""
        if not self._count:
            self._kept = np.empty((COLLAPSE_REACH, len(vector)), np.float32)
        self._kept[self._count % COLLAPSE_REACH] = vector
        self._count += 1
