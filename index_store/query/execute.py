"""The answer to one search out of one view: every part gives its nearest, the nearest of those are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import with_rows
from index_store.ann.port import Bitmap
from index_store.ann.rerank import Distances, select
from index_store.delta.delta import ResumePoint
from index_store.delta.id_index import RowNumbers
from index_store.errors import AnswerLimitExceeded
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.filter.compile import Mask
from index_store.query.view import SegmentView, View, live_ids
from index_store.segment.reader import Found
from index_store.types import CollectionSpec, Id, SearchRequest, Vector

_FIRST_BEYOND = 64
_EXCLUDED_CHECKED_MAX = 256


@dataclass(frozen=True, slots=True)
class Answer:
    """Nearest first, ties by id. part: index of the segment that holds the row, -1 for the delta.
    unknown_keys: of the filter, those that no row has."""

    ids: list[Id]
    distances: Distances
    parts: npt.NDArray[np.int64]
    rows: RowNumbers
    exhausted: bool
    unknown_keys: Sequence[str]


class _Part(NamedTuple):
    """Some of the answer, nearest first, ties by id. numbers: as `Answer.parts`."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    distances: Distances
    ids: npt.NDArray[Any]


def answer(view: View, spec: CollectionSpec, request: SearchRequest) -> Answer:
    """view: knows the page's seq, if the request is for one. Raises InvalidFilter."""
    condition = None if request.filter is None else compiled_filter(request.filter)
    wanted = request.offset + request.k
    found = _nearest(view, spec, request, condition, wanted + 1)
    exhausted = len(found.rows) <= wanted
    distances = found.distances
    stop = wanted
    if request.max_distance is not None:
        within = int(np.searchsorted(distances, request.max_distance, side="right"))
        exhausted = exhausted or within <= wanted
        stop = min(wanted, within)
    page = slice(request.offset, stop)
    ids: list[Id] = found.ids[page].tolist()
    _check_answer(request, ids)
    return Answer(
        ids, distances[page], found.numbers[page], found.rows[page], exhausted, _unknown_keys(view, condition)
    )


def _unknown_keys(view: View, condition: CompiledFilter | None) -> Sequence[str]:
    if condition is None:
        return ()
    known = [view.delta.masks.known_keys, *(one.segment.masks.known_keys for one in view.segments)]
    return [key for key in condition.keys if not any(keys.has(key) for keys in known)]


def _nearest(
    view: View, spec: CollectionSpec, request: SearchRequest, condition: CompiledFilter | None, k: int
) -> _Part:
    """The k nearest of all parts by (distance, id): each part's distances are the same float64 sums."""
    after = None if request.after is None else ResumePoint(request.after.distance, request.after.id)
    nearest: _Part | None = None
    for number, one in enumerate(view.segments):
        allowed = _allowed_bits(view, one, request, condition)
        rows, distances = _sealed_candidates(one, request, k, allowed, after)
        part = _part(number, rows, distances, one.segment.reader.ids_of(rows))
        nearest = part if nearest is None else _merged(nearest, part, k)
    if view.count:
        # Last, and told how near its rows must be: mostly none of so few rows is.
        limit = float(nearest.distances[k - 1]) if nearest and len(nearest.rows) >= k else math.inf
        mask = _allowed_mask(view, request, condition)
        found = view.delta.nearest_rows(request.vector, k, mask, after, limit)
        if nearest is None or len(found.rows):
            kind = np.int64 if spec.id_kind == "int64" else object
            ids = np.array(view.delta.ids(found.rows), dtype=kind)
            part = _part(-1, found.rows, found.distances, ids)
            nearest = part if nearest is None else _merged(nearest, part, k)
    return nearest or _part(-1, np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.int64))


def _part(number: int, rows: RowNumbers, distances: Distances, ids: npt.NDArray[Any]) -> _Part:
    numbers = np.empty(len(rows), np.int64)
    numbers.fill(number)
    return _Part(numbers, rows, distances, ids)


def _merged(one: _Part, other: _Part, k: int) -> _Part:
    numbers, rows, distances, ids = map(np.concatenate, zip(one, other, strict=True))
    order = select(distances, ids, k)
    return _Part(numbers[order], rows[order], distances[order], ids[order])


def _sealed_candidates(
    one: SegmentView, request: SearchRequest, k: int, allowed: _Allowed, after: ResumePoint | None
) -> Found:
    """The k nearest allowed rows of a segment that come after `after`. A segment can't start in the
    middle of an answer, so it is asked for more until enough of them lie beyond."""
    segment = one.segment.reader
    query, excluded, exact = request.vector, request.exclude_ids, request.exact
    bits, count = allowed
    if after is None:
        return segment.candidates(query, k, bits, allowed_count=count, excluded=excluded, exact=exact)
    fetch = k + _FIRST_BEYOND
    while True:
        rows, distances = segment.candidates(
            query, fetch, bits, allowed_count=count, excluded=excluded, exact=exact
        )
        beyond = distances > after.distance
        ties = np.flatnonzero(distances == after.distance)
        if len(ties):
            beyond[ties] = [i > after.id for i in segment.ids_of(rows[ties]).tolist()]
        if len(rows) < fetch or np.count_nonzero(beyond) >= k:
            return rows[beyond][:k], distances[beyond][:k]
        fetch *= 4


class _Allowed(NamedTuple):
    """bits: None for all rows. known: how many are set, where it is known."""

    bits: Bitmap | None
    known: int | None


def _allowed_bits(
    view: View, one: SegmentView, request: SearchRequest, condition: CompiledFilter | None
) -> _Allowed:
    """Live rows (as of the page's seq) that pass the filter, excluded ones among them."""
    bits = one.live if one.hidden else None
    count: int | None = one.segment.reader.rows - one.hidden
    if request.after is not None and one.deletion_count:
        bits, count = _pinned_bits(view, one, request.after.seq), None
    if condition is not None:
        passing = one.segment.masks.bitmap(condition)
        bits, count = passing if bits is None else bits & passing, None
    return _Allowed(bits, count)


def _pinned_bits(view: View, one: SegmentView, seq: int) -> Bitmap:
    """Rows live at `seq`, less those whose item is not live any more: a later page shows items where they
    stood, but never a deleted one."""
    rows = one.deletions.deleted_after(seq, one.deletion_count)
    ids: list[Id] = one.segment.reader.ids_of(rows).tolist()
    alive = live_ids(view, ids)
    return with_rows(one.live, rows[np.array([i in alive for i in ids], dtype=np.bool_)])


def _allowed_mask(view: View, request: SearchRequest, condition: CompiledFilter | None) -> Mask:
    """The same for the delta, less the excluded; nobody may change it, since it can be the view's own."""
    live = view.live[: view.count]
    if request.after is None:
        allowed = live
    else:
        created_seq, deleted_seq = (
            view.delta.created_seq.data[: view.count],
            view.delta.deleted_seq.data[: view.count],
        )
        allowed = (created_seq <= request.after.seq) & (deleted_seq > request.after.seq)
        changed = np.flatnonzero(allowed & ~live)
        if len(changed):
            ids = view.delta.ids(changed)
            alive = live_ids(view, ids)
            allowed[changed] = [item_id in alive for item_id in ids]
    if condition is not None:
        allowed = allowed & view.delta.masks.mask(condition, view.count)
    if len(request.exclude_ids):
        allowed = allowed.copy()
        allowed[view.delta.find_rows(request.exclude_ids, view.index, view.count)] = False
    return allowed


def _check_answer(request: SearchRequest, ids: Sequence[Id]) -> None:
    """The last look before an answer leaves. It can only fail by our own mistake."""
    assert len(set(ids)) == len(ids), "an id was found twice"
    if 0 < len(request.exclude_ids) <= _EXCLUDED_CHECKED_MAX:
        assert set(ids).isdisjoint(np.asarray(request.exclude_ids).tolist()), "an excluded id was found"


def texts_of(view: View, found: Answer, bytes_max: int | None) -> list[str | None]:
    """The metadata of the rows found, as JSON texts. Raises AnswerLimitExceeded before more than `bytes_max`
    are read."""
    texts: list[str | None] = [None] * len(found.rows)
    taken = 0
    for number in np.unique(found.parts).tolist():
        positions = np.flatnonzero(found.parts == number)
        rows = found.rows[positions]
        taken += _metadata_bytes(view, number, rows)
        if bytes_max is not None and taken > bytes_max:
            raise AnswerLimitExceeded(
                f"top_k asks for more than {bytes_max} bytes of metadata: ask for fewer items", "top_k"
            )
        for position, text in zip(positions.tolist(), _metadata_texts(view, number, rows), strict=True):
            texts[position] = text
    return texts


def _metadata_bytes(view: View, number: int, rows: RowNumbers) -> int:
    if number >= 0:
        return view.segments[number].segment.metadata.bytes_of(rows)
    return sum(len(text) for text in view.delta.metadata_texts(rows) if text is not None)


def _metadata_texts(view: View, number: int, rows: RowNumbers) -> list[str | None]:
    if number >= 0:
        return view.segments[number].segment.metadata.texts(rows)
    return view.delta.metadata_texts(rows)


def vectors_of(view: View, found: Answer, dim: int) -> Vector:
    """(found, dim) copies of the vectors of the rows found."""
    out = np.empty((len(found.rows), dim), np.float32)
    for number in np.unique(found.parts).tolist():
        positions = found.parts == number
        rows = found.rows[positions]
        out[positions] = (
            view.delta.vectors(rows) if number < 0 else view.segments[number].segment.reader.vectors[rows]
        )
    return out
