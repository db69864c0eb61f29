"""The answer to one search out of one view: every part gives its nearest, the nearest of those are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, select
from index_store.delta.delta import ResumePoint
from index_store.delta.id_index import RowNumbers
from index_store.errors import AnswerLimitExceeded
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.query.allowed import Allowed, allowed_bits, allowed_mask
from index_store.query.fusion import fused_rows
from index_store.query.view import SegmentView, View
from index_store.segment.reader import Found
from index_store.types import Id, SearchRequest, TextQuery, Vector

_FIRST_BEYOND = 64
_EXCLUDED_CHECKED_MAX = 256
_NO_ROWS: RowNumbers = np.empty(0, np.int64)
_NO_DISTANCES: Distances = np.empty(0, np.float64)


@dataclass(frozen=True, slots=True)
class Answer:
    """Nearest first, ties by id. part: index of the segment that holds the row, -1 for the delta.
    unknown_keys: of the filter, those that no row has. scored: where words were searched."""

    ids: list[Id]
    distances: Distances
    parts: npt.NDArray[np.int64]
    rows: RowNumbers
    exhausted: bool
    unknown_keys: Sequence[str]
    scored: AnswerScores | None = None


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """What an answer is ordered by, and what the words of each of its items score. text_weight: as
    `types.PageKey`."""

    scores: list[float]
    texts: list[float]
    text_weight: float


class _Part(NamedTuple):
    """What one segment, or the delta, has for the answer: nearest first, ties by id. number: as in
    `Answer.parts`."""

    number: int
    rows: RowNumbers
    distances: Distances
    ids: npt.NDArray[Any]


class _AnswerRows(NamedTuple):
    """The same of all parts. numbers: as `Answer.parts`."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    distances: Distances
    ids: npt.NDArray[Any]


def answer(view: View, request: SearchRequest) -> Answer:
    """view: knows the page's seq, if the request is for one. Raises InvalidFilter, WordsNotSealed."""
    condition = None if request.filter is None else compiled_filter(request.filter)
    if request.text is not None:
        return _answer_by_words(view, request, request.text, condition)
    wanted = request.offset + request.k
    found = _nearest(view, request, condition, wanted + 1)
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
    unknown = () if condition is None else unknown_keys(view, condition)
    return Answer(ids, distances[page], found.numbers[page], found.rows[page], exhausted, unknown)


def _answer_by_words(
    view: View, request: SearchRequest, text: TextQuery, condition: CompiledFilter | None
) -> Answer:
    wanted = request.offset + request.k
    found, weight = fused_rows(view, request, text, condition, wanted + 1)
    page = found.at(np.arange(request.offset, min(wanted, len(found.rows))))
    ids: list[Id] = page.ids.tolist()
    _check_answer(request, ids)
    unknown = () if condition is None else unknown_keys(view, condition)
    scored = AnswerScores((-page.keys).tolist(), page.texts.tolist(), weight)
    exhausted = len(found.rows) <= wanted
    return Answer(ids, page.distances, page.numbers, page.rows, exhausted, unknown, scored)


def unknown_keys(view: View, condition: CompiledFilter) -> Sequence[str]:
    """Return the keys of a filter that no row has."""
    known = [view.delta.masks.known_keys, *(one.segment.masks.known_keys for one in view.segments)]
    return [key for key in condition.keys if not any(keys.has(key) for keys in known)]


def _nearest(view: View, request: SearchRequest, condition: CompiledFilter | None, k: int) -> _AnswerRows:
    """The k nearest of all parts by (distance, id): each part's distances are the same float64 sums."""
    after = None if request.after is None else ResumePoint(request.after.distance, request.after.id)
    parts: list[_Part] = []
    for number, one in enumerate(view.segments):
        allowed = allowed_bits(view, one, request, condition)
        rows, distances = _sealed_candidates(one, request, k, allowed, after)
        parts.append(_Part(number, rows, distances, one.segment.reader.ids_of(rows)))
    if view.count:
        # Last, and told how near its rows must be: mostly none of so few rows is.
        mask = allowed_mask(view, request, condition)
        if request.steps is not None:
            request.steps.append(("delta", 0, view.count))
        found = view.delta.nearest_rows(request.vector, k, mask, after, _farthest(parts, k))
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


def _merged(parts: Sequence[_Part], k: int) -> _AnswerRows:
    """The k nearest of all parts, in order."""
    if not parts:
        return _AnswerRows(_NO_ROWS, _NO_ROWS, _NO_DISTANCES, _NO_ROWS)
    if len(parts) == 1:
        number, rows, distances, ids = parts[0]
        numbers = np.empty(len(rows), np.int64)
        numbers.fill(number)
        return _AnswerRows(numbers, rows, distances, ids)
    each, *columns = zip(*parts, strict=True)
    rows, distances, ids = map(np.concatenate, columns)
    order = select(distances, ids, k)
    return _AnswerRows(
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
        beyond = distances > after.distance
        ties = np.flatnonzero(distances == after.distance)
        if len(ties):
            beyond[ties] = [i > after.id for i in segment.ids_of(rows[ties]).tolist()]
        if len(rows) < fetch or np.count_nonzero(beyond) >= k:
            return rows[beyond][:k], distances[beyond][:k]
        fetch *= 4


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
