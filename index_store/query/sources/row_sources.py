"""Where searches by words and vectors find rows: a segment, the delta, or a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import holds
from index_store.ann.compiled.posting_kernels import peaks_of, rows_from
from index_store.ann.rerank import Distances, come_after, rescore
from index_store.delta.id_index import RowNumbers
from index_store.filter.cache import CompiledFilter
from index_store.filter.compile import Mask
from index_store.lexical.scores import TextScores
from index_store.query.allowed import allowed_bits, allowed_mask
from index_store.query.pool import SCORE_ERROR, LiveSeqs, RowPool, ScoreRange
from index_store.query.view import SegmentView, View
from index_store.segment.reader import Found
from index_store.types import SearchRequest

ROUNDING = 1e-6
"""Text scores are float32: rows as near as that to the limit are looked at as well."""
SCORE_LEAST = float(np.finfo(np.float32).tiny)
"""Below every text score but 0: a share of one thousandth, which a very common word is, counts squared."""

Ids: TypeAlias = npt.NDArray[Any]


class RowSource(NamedTuple):
    """One segment, the delta or a pool. number: as in `Answer.parts`. texts: what the words of rows score.
    nearest: its nearest allowed rows. by_words: allowed rows whose words score a limit or more: a number of
    the best at least, or all. by_words_after: those that words alone find behind a key and id, a number of
    the best at least, or all; with their keys. distances, ids: of rows. least: what their distances are
    never below, which takes less; None where nothing is known. text_max: what the words of a row score at
    most; None where that is found out row by row."""

    number: int
    texts: Callable[[RowNumbers], TextScores]
    nearest: Callable[[int], Found]
    by_words: Callable[[float, int], RowNumbers]
    by_words_after: Callable[[tuple[float, Any] | None, int], Found]
    distances: Callable[[RowNumbers], Distances]
    ids: Callable[[RowNumbers], Ids]
    least: Callable[[RowNumbers], Distances] | None = None
    text_max: float | None = None


class ReadTexts(NamedTuple):
    """Rows whose words were all read. scores: of each row. peaks: as `peaks_of` them. ids: of rows.
    is_allowed: which of some rows may be returned."""

    scores: TextScores
    peaks: TextScores
    ids: Callable[[RowNumbers], Ids]
    is_allowed: Callable[[RowNumbers], Mask]

    def from_limit(self, limit: float, _count: int) -> RowNumbers:
        """See `RowSource.by_words`."""
        rows: RowNumbers = rows_from(self.scores, self.peaks, np.float32(limit))
        return rows[self.is_allowed(rows)] if len(rows) else rows

    def from_key(self, after: tuple[float, Any] | None, k: int) -> Found:
        """See `RowSource.by_words_after`."""
        limit = self.score_max() / 2
        while True:  # mostly twice: few rows score half of what the best one does
            rows = self.from_limit(max(limit, SCORE_LEAST), k)
            keys = -self.scores[rows].astype(np.float64)
            if after is not None:
                kept = np.flatnonzero(come_after(keys, self._ids_among(rows), after))
                rows, keys = rows[kept], keys[kept]
            if len(rows) >= k or limit <= 0:
                return rows, keys
            limit = limit / 4 if limit > ROUNDING else 0.0

    def score_max(self) -> float:
        """Return what the best of all rows scores."""
        return float(self.peaks.max(initial=0.0))

    def _ids_among(self, rows: RowNumbers) -> Callable[[RowNumbers], Ids]:
        return lambda positions: self.ids(rows[positions])


def _peaks(scores: TextScores) -> TextScores:
    found: TextScores = peaks_of(scores.view(np.int32)).view(np.float32)
    return found


def source_of_segment(
    view: View,
    one: SegmentView,
    number: int,
    request: SearchRequest,
    condition: CompiledFilter | None,
    texts: TextScores,
) -> RowSource:
    """Return what a segment holds. number: its place. texts: what the words of its rows score."""
    reader, metric = one.segment.reader, view.delta.metric
    bits, count = allowed_bits(view, one, request, condition)
    hidden = reader.rows_of(request.exclude_ids) if len(request.exclude_ids) else None

    def nearest(k: int) -> Found:
        return reader.candidates(
            request.vector,
            k,
            bits,
            allowed_count=count,
            excluded=request.exclude_ids,
            exact=request.exact,
            steps=request.steps,
        )

    def is_allowed(rows: RowNumbers) -> Mask:
        allowed = np.ones(len(rows), np.bool_) if bits is None else holds(bits, rows)
        return allowed if hidden is None else allowed & np.isin(rows, hidden, invert=True)

    words = ReadTexts(texts, _peaks(texts), reader.ids_of, is_allowed)
    return RowSource(
        number,
        texts.__getitem__,
        nearest,
        words.from_limit,
        words.from_key,
        lambda rows: rescore(request.vector, reader.vectors, metric, rows),
        reader.ids_of,
        lambda rows: reader.least_distances(request.vector, rows),
        words.score_max(),
    )


def source_of_delta(
    view: View, request: SearchRequest, condition: CompiledFilter | None, texts: TextScores
) -> RowSource:
    """Return what the delta holds. texts: what the words of its rows score."""
    delta = view.delta
    mask = allowed_mask(view, request, condition)

    def nearest(k: int) -> Found:
        if request.steps is not None:
            request.steps.append(("delta", 0, view.count))
        found = delta.nearest_rows(request.vector, k, mask, None)
        return found.rows, found.distances

    words = ReadTexts(texts, _peaks(texts), delta.id_array, mask.__getitem__)
    return RowSource(
        -1,
        texts.__getitem__,
        nearest,
        words.from_limit,
        words.from_key,
        lambda rows: rescore(request.vector, delta.vectors(rows), delta.metric),
        delta.id_array,
    )


def source_of_pool(pool: RowPool, request: SearchRequest, live: LiveSeqs) -> RowSource:
    """Return what a pool finds. live: when its rows have to be live."""
    delta, first = pool.delta, replace(request, after=None)

    def nearest(k: int) -> Found:
        found = pool.find_nearest(first, live, k)
        return found.rows, found.distances

    def by_words(limit: float, count: int) -> RowNumbers:
        rows = pool.find_by_words(first, live, ScoreRange(limit - SCORE_ERROR), count)
        return rows[pool.text_scores(rows) >= np.float32(limit)]

    return RowSource(
        -1,
        pool.text_scores,
        nearest,
        by_words,
        lambda after, k: pool.find_by_words_after(first, live, after, k),
        lambda rows: rescore(request.vector, delta.vectors(rows), delta.metric),
        delta.id_array,
    )
