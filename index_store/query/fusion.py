"""Searches by words: alone, or weighed and added to the similarity of the vectors.

A row's score depends on the query and the items that are live, not on which rows a search came to look at: so
pages fit together, and filters and exclusions take rows away without moving others. What is not among the
nearest rows by vector is at best as near as the last of them; so only rows whose words make up for that need
be looked at besides, and none that belongs to the answer is missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.bitmap import holds
from index_store.ann.compiled.posting_kernels import rows_from
from index_store.ann.rerank import Distances, come_after, rescore, select, similarities
from index_store.delta.id_index import RowNumbers
from index_store.errors import WordsNotSealed
from index_store.filter.cache import CompiledFilter
from index_store.filter.compile import Mask
from index_store.lexical.analysis import PAIR_MIN
from index_store.lexical.scores import TextPart, TextScores, query_grams, text_scores, text_weight
from index_store.query.allowed import allowed_bits, allowed_mask, allowed_rows, bits_live_at, live_at
from index_store.query.pool import SCORE_ERROR, LiveSeqs, RowPool, ScoreRange
from index_store.query.view import SegmentView, View
from index_store.segment.reader import Found
from index_store.types import Metric, SearchRequest, TextQuery

_NEAREST_MORE = 16
_NEAREST_ENOUGH = 200
_BY_WORDS = 200
_BY_WORDS_MAX = 2000
"""Where words and vectors have little to do with each other, thousands of rows may have to be looked at to be
certain: so many are, beside so many nearest; all that it takes only for an exact search."""
_WIDER = 4
_ROUNDING = 1e-6
"""Text scores are float32: rows as near as that to the limit are looked at as well."""
_LEAST = float(np.finfo(np.float32).tiny)
"""Below every text score but 0: a share of one thousandth, which a very common word is, counts squared."""

Ids: TypeAlias = npt.NDArray[Any]


class ScoredRows(NamedTuple):
    """Some rows. keys: minus the score, so that the smallest comes first. numbers: as `Answer.parts`."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    keys: Distances
    distances: Distances
    texts: Distances
    ids: Ids

    def at(self, positions: npt.NDArray[Any]) -> ScoredRows:
        """Return some of them, in this order."""
        return ScoredRows(*(column[positions] for column in self))

    def best(self, k: int) -> ScoredRows:
        """Return the first k by (key, id)."""
        return self.at(select(self.keys, self.ids, k))


def _joined(parts: Sequence[ScoredRows]) -> ScoredRows:
    return ScoredRows(*map(np.concatenate, zip(*parts, strict=True)))


class RowSource(NamedTuple):
    """One segment, the delta or a pool. number: as in `Answer.parts`. texts: what the words of rows score.
    nearest: its nearest allowed rows. by_words: allowed rows whose words score a limit or more: a number of
    the best at least, or all. by_words_after: those that words alone find behind a key and id, a number of
    the best at least, or all; with their keys. distances, ids: of rows."""

    number: int
    texts: Callable[[RowNumbers], TextScores]
    nearest: Callable[[int], Found]
    by_words: Callable[[float, int], RowNumbers]
    by_words_after: Callable[[tuple[float, Any] | None, int], Found]
    distances: Callable[[RowNumbers], Distances]
    ids: Callable[[RowNumbers], Ids]


class _ScoreOrder(NamedTuple):
    """How rows become a score. after: key and id that answers come behind."""

    metric: Metric
    weight: float
    after: tuple[float, Any] | None
    distance_max: float

    def scored(self, source: RowSource, rows: RowNumbers, distances: Distances) -> ScoredRows:
        """Return those of the rows that the answer may hold."""
        texts = source.texts(rows).astype(np.float64)
        keys = -(similarities(distances, self.metric) + self.weight * texts)
        numbers = np.full(len(rows), source.number, np.int64)
        found = ScoredRows(numbers, rows, keys, distances, texts, source.ids(rows))
        return found.at(self._may_come(found))

    def _may_come(self, found: ScoredRows) -> npt.NDArray[np.int64]:
        kept = found.distances <= self.distance_max
        return np.flatnonzero(kept & come_after(found.keys, found.ids.take, self.after))


def fused_rows(
    view: View,
    request: SearchRequest,
    text: TextQuery,
    condition: CompiledFilter | None,
    k: int,
    known: Sequence[TextScores] | None = None,
) -> tuple[ScoredRows, float]:
    """Return the k best of all parts by (score, id), and what text scores were multiplied by. known: what the
    words of each part score, as `scores_by_part` found. Raises WordsNotSealed."""
    query = query_grams(text.text)
    scores = scores_by_part(view, request, text) if known is None else known
    sources = [
        _of_segment(view, one, number, request, condition, texts)
        for number, (one, texts) in enumerate(zip(view.segments, scores, strict=False))
    ]
    if view.pool is not None:
        sources.append(_of_pool(view.pool, request, allowed_rows(view, request, condition).seqs))
    elif view.count or not sources:
        sources.append(_of_delta(view, request, condition, scores[-1]))
    after = None if request.after is None else (request.after.distance, request.after.id)
    metric = view.delta.metric
    if text.mode == "lexical":
        return _joined([_best_by_words(each, k, after) for each in sources]).best(k), 0.0
    if request.after is not None:
        weight = request.after.text_weight
    else:
        weight = text_weight(query, text.alpha, _spread(view))
    limit = math.inf if request.max_distance is None else request.max_distance
    scoring = _ScoreOrder(metric, weight, after, limit)
    return _joined([_best_fused(each, scoring, k, is_exact=request.exact) for each in sources]).best(
        k
    ), weight


def scores_by_part(view: View, request: SearchRequest, text: TextQuery) -> Sequence[TextScores]:
    """Return what the words of each row score, by part, the delta last. Raises WordsNotSealed."""
    seq = None if request.after is None else request.after.seq
    if view.pool is not None:
        view.pool.read_words(query_grams(text.text), view.seq if seq is None else seq)
        return ()  # of rows that come, when they come
    return text_scores(query_grams(text.text), text_parts(view, seq))


def _best_by_words(source: RowSource, k: int, after: tuple[float, Any] | None) -> ScoredRows:
    rows, keys = source.by_words_after(after, k)
    if len(rows) > k:  # before ids are looked up: strings are slow
        kept = np.flatnonzero(keys <= np.partition(keys, k - 1)[k - 1])
        rows, keys = rows[kept], keys[kept]
    numbers, distances = np.full(len(rows), source.number, np.int64), np.full(len(rows), math.nan)
    return ScoredRows(numbers, rows, keys, distances, -keys, source.ids(rows)).best(k)


def _best_fused(source: RowSource, order: _ScoreOrder, k: int, *, is_exact: bool) -> ScoredRows:
    fetch, words_max = k + _NEAREST_MORE, _BY_WORDS
    while True:
        rows, distances = source.nearest(fetch)
        found = order.scored(source, rows, distances)
        if len(rows) < fetch or distances[-1] > order.distance_max:
            return found.best(k)
        edge = float(similarities(distances[-1:], order.metric)[0])
        if len(found.rows) >= k:
            best, is_certain = _with_rows_by_words(source, order, found.best(k), rows, edge, words_max)
            if is_certain or (fetch >= _NEAREST_ENOUGH and not is_exact):
                return best
        words_max, fetch = _BY_WORDS_MAX, max(_NEAREST_ENOUGH + k, fetch * _WIDER)


def _with_rows_by_words(
    source: RowSource, order: _ScoreOrder, found: ScoredRows, near: RowNumbers, edge: float, words_max: int
) -> tuple[ScoredRows, bool]:
    """As good rows as `found` or better, which may be better by their words than by their vectors; and
    whether none is missing. near: rows that need not be looked at again. edge: the similarity that no row but
    those exceeds. words_max: how many rows may be looked at."""
    k = len(found.rows)
    if order.weight <= 0:
        return found, True
    rows = _rows_by_words(source, near, (-found.keys[-1] - edge) / order.weight, _BY_WORDS)
    if len(rows) > _BY_WORDS:  # the best of them first: behind those the limit is higher
        first = _best_texts(source, rows, _BY_WORDS)
        found = _joined([found, order.scored(source, first, source.distances(first))]).best(k)
        near = np.concatenate([near, first])
        rows = _rows_by_words(source, near, (-found.keys[-1] - edge) / order.weight, words_max)
    # At the edge itself a row without any of the words may be as good as the last one.
    is_certain = len(rows) <= words_max and -found.keys[-1] > edge
    if len(rows) > words_max:
        rows = _best_texts(source, rows, words_max)
    return _joined([found, order.scored(source, rows, source.distances(rows))]).best(k), is_certain


def _best_texts(source: RowSource, rows: RowNumbers, count: int) -> RowNumbers:
    """So many of these rows, those whose words score most."""
    return rows[np.argpartition(-source.texts(rows), count)[:count]]


def _rows_by_words(source: RowSource, near: RowNumbers, limit: float, count: int) -> RowNumbers:
    """The allowed rows, but for `near`, whose words score `limit` or more; where they are more than `count`,
    one more of the best than that at least."""
    rows = source.by_words(max(limit - _ROUNDING, _LEAST), count + 1 + len(near))
    if not len(rows):
        return rows
    known = np.sort(near)
    is_known = known[np.minimum(known.searchsorted(rows), len(known) - 1)] == rows
    unknown: RowNumbers = rows[~is_known]
    return unknown


class _ReadTexts(NamedTuple):
    """Rows whose words were all read. scores: of each row. ids: of rows. is_allowed: which of some rows may
    be returned."""

    scores: TextScores
    ids: Callable[[RowNumbers], Ids]
    is_allowed: Callable[[RowNumbers], Mask]

    def from_limit(self, limit: float, _count: int) -> RowNumbers:
        """See `RowSource.by_words`."""
        rows: RowNumbers = rows_from(self.scores, np.float32(limit))
        return rows[self.is_allowed(rows)] if len(rows) else rows

    def from_key(self, after: tuple[float, Any] | None, k: int) -> Found:
        """See `RowSource.by_words_after`."""
        limit = float(self.scores.max(initial=0.0)) / 2
        while True:  # mostly twice: few rows score half of what the best one does
            rows = self.from_limit(max(limit, _LEAST), k)
            keys = -self.scores[rows].astype(np.float64)
            if after is not None:
                kept = np.flatnonzero(come_after(keys, self._ids_among(rows), after))
                rows, keys = rows[kept], keys[kept]
            if len(rows) >= k or limit <= 0:
                return rows, keys
            limit = limit / 4 if limit > _ROUNDING else 0.0

    def _ids_among(self, rows: RowNumbers) -> Callable[[RowNumbers], Ids]:
        return lambda positions: self.ids(rows[positions])


def _of_segment(
    view: View,
    one: SegmentView,
    number: int,
    request: SearchRequest,
    condition: CompiledFilter | None,
    texts: TextScores,
) -> RowSource:
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

    words = _ReadTexts(texts, reader.ids_of, is_allowed)
    return RowSource(
        number,
        texts.__getitem__,
        nearest,
        words.from_limit,
        words.from_key,
        lambda rows: rescore(request.vector, reader.vectors, metric, rows),
        reader.ids_of,
    )


def _of_delta(
    view: View, request: SearchRequest, condition: CompiledFilter | None, texts: TextScores
) -> RowSource:
    delta = view.delta
    mask = allowed_mask(view, request, condition)

    def nearest(k: int) -> Found:
        if request.steps is not None:
            request.steps.append(("delta", 0, view.count))
        found = delta.nearest_rows(request.vector, k, mask, None)
        return found.rows, found.distances

    words = _ReadTexts(texts, delta.id_array, mask.__getitem__)
    return RowSource(
        -1,
        texts.__getitem__,
        nearest,
        words.from_limit,
        words.from_key,
        lambda rows: rescore(request.vector, delta.vectors(rows), delta.metric),
        delta.id_array,
    )


def _of_pool(pool: RowPool, request: SearchRequest, live: LiveSeqs) -> RowSource:
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


def text_parts(view: View, seq: int | None) -> list[TextPart]:
    """Return all parts with the rows that were live at `seq`, None: now; the delta last. Raises
    WordsNotSealed."""
    version = view.delta.lexical_version
    growing = view.delta.postings.first(view.count)
    if growing is None:
        raise WordsNotSealed(
            f"the words of {view.delta.postings.unread(view.count)} new rows are being read",
            "try again in a few seconds: it goes on by itself",
        )
    parts = []
    for one in view.segments:
        postings = one.segment.postings
        if postings is None or one.segment.lexical_version != version:
            raise WordsNotSealed(
                f"the rows of segment {one.segment.name} are not sealed with the words of {version!r} yet",
                "maintenance seals them again by itself; `python -m index_store rebuild` does it at once",
            )
        live, hidden = bits_live_at(one, seq)
        parts.append(TextPart(postings, one.segment.reader.rows, live, hidden, postings.totals))
    mask = view.live[: view.count] if seq is None else live_at(view, seq)
    hidden = view.count - int(np.count_nonzero(mask))
    bits = np.packbits(mask, bitorder="little")
    parts.append(TextPart(growing, view.count, bits, hidden))
    return parts


def word_shares(view: View, texts: Sequence[str]) -> list[float]:
    """Return how much of each text occurs in any row: by pairs of letters where it is Korean, else by sounds.
    Raises WordsNotSealed."""
    parts = text_parts(view, None) if view.pool is None else []
    shares = []
    for text in texts:
        query = query_grams(text)
        stream = "letters" if query.is_korean else "sounds"
        grams = query.grams[stream]
        held = np.zeros(len(grams), np.bool_)
        if view.pool is not None:
            statistics = view.pool.fetcher.word_statistics(query, view.seq)[stream]
            held = statistics.held > 0 if statistics.documents else held
        for part in parts:
            found = part.source.lists(stream, grams)
            held |= found.stops > found.starts
        held = held[grams >= PAIR_MIN] if query.is_korean else held
        shares.append(float(held.mean()) if len(held) else 0.0)
    return shares


def _spread(view: View) -> float:
    """Of similarities, as measured where the most rows were sealed, else on those in memory."""
    if view.pool is not None:
        return view.pool.fetcher.usual_similarities().spread
    sealed = [one.segment for one in view.segments]
    most = max(sealed, key=lambda each: each.reader.rows, default=None)
    if most is None or most.postings is None:
        return view.delta.sample().spread
    return most.postings.spread
