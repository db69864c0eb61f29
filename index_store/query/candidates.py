"""The nearest rows of one view to a vector: every part gives its nearest, the nearest of those are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, come_after, select
from index_store.delta.delta import ResumePoint
from index_store.delta.id_index import RowNumbers
from index_store.filter.compile import Mask
from index_store.query.allowed import Allowed, AllowedRows
from index_store.query.view import SegmentView, View
from index_store.segment.reader import Found, SegmentReader
from index_store.types import SearchRequest

_FIRST_BEYOND = 64
_NO_ROWS: RowNumbers = np.empty(0, np.int64)
_NO_DISTANCES: Distances = np.empty(0, np.float64)


class _Part(NamedTuple):
    """What one segment, or the delta, has for the answer: nearest first, ties by id. number: as in
    `Answer.parts`."""

    number: int
    rows: RowNumbers
    distances: Distances
    ids: npt.NDArray[Any]


class CandidateRows(NamedTuple):
    """The same of all parts. numbers: as `Answer.parts`."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    distances: Distances
    ids: npt.NDArray[Any]

    def take_rows(self, positions: Any) -> CandidateRows:
        """Return some of them: by anything that numpy takes an index by."""
        numbers, rows, distances, ids = self
        return CandidateRows(numbers[positions], rows[positions], distances[positions], ids[positions])


def joined(parts: Sequence[CandidateRows]) -> CandidateRows:
    """Return the rows of all of these, one after the other. parts: one at least."""
    numbers, rows, distances, ids = zip(*parts, strict=True)
    return CandidateRows(*map(np.concatenate, (numbers, rows, distances, ids)))


def nearest(view: View, request: SearchRequest, allowed: AllowedRows, k: int) -> CandidateRows:
    """The k nearest of all parts by (distance, id): each part's distances are the same float64 sums."""
    if view.pool is not None:
        found = view.pool.find_nearest(request, allowed.seqs, k)
        return CandidateRows(np.full(len(found.rows), -1), found.rows, found.distances, found.ids)
    after = None if request.after is None else ResumePoint(request.after.distance, request.after.id)
    parts: list[_Part] = []
    for number, one in enumerate(view.segments):
        rows, distances = _sealed_candidates(one, request, k, allowed.segments[number], after)
        parts.append(_Part(number, rows, distances, one.segment.reader.ids_of(rows)))
    if view.count:
        # Last, and told how near its rows must be: mostly none of so few rows is.
        if request.steps is not None:
            request.steps.append(("delta", 0, view.count))
        found = view.delta.nearest_rows(request.vector, k, allowed.delta, after, _farthest(parts, k))
        if len(found.rows):
            parts.append(_Part(-1, found.rows, found.distances, found.ids))
    return _merged(parts, k)


def _farthest(parts: Sequence[_Part], k: int) -> float:
    """The distance of the k-th of these rows; without so many, of none."""
    if len(parts) == 1:
        distances = parts[0].distances
        return float(distances[k - 1]) if len(distances) >= k else math.inf
    distances = np.concatenate([part.distances for part in parts]) if parts else _NO_DISTANCES
    return float(np.partition(distances, k - 1)[k - 1]) if len(distances) >= k else math.inf


def _merged(parts: Sequence[_Part], k: int) -> CandidateRows:
    """The k nearest of all parts, in order."""
    if not parts:
        return CandidateRows(_NO_ROWS, _NO_ROWS, _NO_DISTANCES, _NO_ROWS)
    if len(parts) == 1:
        number, rows, distances, ids = parts[0]
        numbers = np.empty(len(rows), np.int64)
        numbers.fill(number)
        return CandidateRows(numbers, rows, distances, ids)
    each, *columns = zip(*parts, strict=True)
    rows, distances, ids = map(np.concatenate, columns)
    order = select(distances, ids, k)
    return CandidateRows(
        np.repeat(each, list(map(len, columns[0])))[order], rows[order], distances[order], ids[order]
    )


def _sealed_candidates(
    one: SegmentView, request: SearchRequest, k: int, allowed: Allowed, after: ResumePoint | None
) -> Found:
    """The k nearest allowed rows of a segment that come after `after`. A segment can't start in the
    middle of an answer, so it is asked for more until enough of them lie beyond."""
    segment = one.segment.reader
    query, excluded, exact = request.vector, request.exclude_ids, request.exact
    bits, count = allowed
    fetch = k if after is None else k + _FIRST_BEYOND
    while True:
        rows, distances = segment.candidates(
            query,
            fetch,
            bits,
            allowed_count=count,
            excluded=excluded,
            exact=exact,
            ef=request.ef,
            steps=request.steps,
        )
        if after is None:
            return rows, distances
        beyond = _come_after(segment, rows, distances, after)
        if len(rows) < fetch or np.count_nonzero(beyond) >= k:
            return rows[beyond][:k], distances[beyond][:k]
        fetch *= 4


def _come_after(segment: SegmentReader, rows: RowNumbers, distances: Distances, after: ResumePoint) -> Mask:
    return come_after(distances, lambda ties: segment.ids_of(rows[ties]), after)
