"""Searches by words: alone, or weighed and added to the similarity of the vectors.

A row's score depends on the query and the items that are live, not on which rows a search came to look at: so
pages fit together, and filters and exclusions take rows away without moving others. What is not among the
nearest rows by vector is at best as near as the last of them; so only rows whose words make up for that need
be looked at besides, and none that belongs to the answer is missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, come_after, select, similarities
from index_store.delta.id_index import RowNumbers
from index_store.errors import WordsNotSealed
from index_store.filter.cache import CompiledFilter
from index_store.lexical.analysis import PAIR_MIN
from index_store.lexical.scores import TextPart, TextScores, query_grams, text_scores, text_weight
from index_store.query.allowed import allowed_rows, bits_live_at, live_at
from index_store.query.sources.row_sources import (
    ROUNDING,
    SCORE_LEAST,
    Ids,
    RowSource,
    source_of_delta,
    source_of_pool,
    source_of_segment,
)
from index_store.query.view import View
from index_store.types import Metric, SearchRequest, TextQuery

_NEAREST_MORE = 16
_NEAREST_ENOUGH = 200
_WIDER = 4
_FIRST_BY_WORDS = 48
"""So many are scored before it is seen which of the others may still belong to the answer."""
_FEW = 256
"""Rows that are scored at once rather than sifted by their codes before."""
_BY_CODES_MAX = 32_768
_BY_WORDS = 200
_BY_WORDS_MAX = 2000
"""Where words and vectors have little to do with each other, thousands of rows may have to be looked at to be
certain: so many are by their codes; where there are none so many, then so many beside `_NEAREST_ENOUGH`
nearest; all that it takes only for an exact search."""


class ScoredRows(NamedTuple):
    """Some rows. keys: minus the score, so that the smallest comes first. numbers: as `Answer.parts`."""

    numbers: npt.NDArray[np.int64]
    rows: RowNumbers
    keys: Distances
    distances: Distances
    texts: Distances
    ids: Ids

    def at(self, positions: npt.NDArray[Any] | slice) -> ScoredRows:
        """Return some of them, in this order."""
        columns: tuple[npt.NDArray[Any], ...] = self
        return ScoredRows(*(column[positions] for column in columns))

    def best(self, k: int) -> ScoredRows:
        """Return the first k by (key, id)."""
        return self.at(select(self.keys, self.ids, k))


def _joined(parts: Sequence[ScoredRows]) -> ScoredRows:
    if len(parts) == 1:
        return parts[0]
    return ScoredRows(*map(np.concatenate, zip(*parts, strict=True)))


class _ScoreOrder(NamedTuple):
    """How rows become a score. after: key and id that answers come behind."""

    metric: Metric
    weight: float
    after: tuple[float, Any] | None
    distance_max: float

    def scored(self, source: RowSource, rows: RowNumbers, distances: Distances) -> ScoredRows:
        """Return those of the rows that the answer may hold."""
        texts = source.texts(rows).astype(np.float64)
        keys = self._keys(distances, texts)
        numbers = np.full(len(rows), source.number, np.int64)
        found = ScoredRows(numbers, rows, keys, distances, texts, source.ids(rows))
        if self.after is None and self.distance_max == math.inf:
            return found
        kept = distances <= self.distance_max
        return found.at(np.flatnonzero(kept & come_after(keys, found.ids.take, self.after)))

    def text_limit(self, key: float, edge: float) -> float:
        """Return what the words of a row score at least whose key is `key` or less and whose similarity is
        `edge` or less."""
        return max((-key - edge) / self.weight - ROUNDING, SCORE_LEAST)

    def least_keys(self, source: RowSource, rows: RowNumbers, least: Distances) -> Distances:
        """Return what the keys of these rows are never below. least: what their distances are never below."""
        return self._keys(least, source.texts(rows).astype(np.float64)) - ROUNDING

    def _keys(self, distances: Distances, texts: Distances) -> Distances:
        return -(similarities(distances, self.metric) + self.weight * texts)


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
        source_of_segment(view, one, number, request, condition, texts)
        for number, (one, texts) in enumerate(zip(view.segments, scores, strict=False))
    ]
    if view.pool is not None:
        sources.append(source_of_pool(view.pool, request, allowed_rows(view, request, condition).seqs))
    elif view.count or not sources:
        sources.append(source_of_delta(view, request, condition, scores[-1]))
    after = None if request.after is None else (request.after.distance, request.after.id)
    metric = view.delta.metric
    if text.mode == "lexical":
        return _best_of([_best_by_words(each, k, after) for each in sources], k), 0.0
    if request.after is not None:
        weight = request.after.text_weight
    else:
        weight = text_weight(query, text.alpha, _spread(view))
    limit = math.inf if request.max_distance is None else request.max_distance
    scoring = _ScoreOrder(metric, weight, after, limit)
    parts = [_best_fused(each, scoring, k, is_exact=request.exact) for each in sources]
    return _best_of(parts, k), weight


def _best_of(parts: Sequence[ScoredRows], k: int) -> ScoredRows:
    """The k best of all parts. parts: each in order, k at most."""
    return parts[0] if len(parts) == 1 else _joined(parts).best(k)


def scores_by_part(view: View, request: SearchRequest, text: TextQuery) -> Sequence[TextScores]:
    """Return what the words of each row score, by part as `text_parts` has them. Raises WordsNotSealed."""
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
            found, is_certain = _with_rows_by_words(source, order, found, k, rows, edge, words_max)
            if is_certain or (fetch >= _NEAREST_ENOUGH and not is_exact):
                return found.best(k)
        words_max, fetch = _BY_WORDS_MAX, max(_NEAREST_ENOUGH + k, fetch * _WIDER)


def _with_rows_by_words(
    source: RowSource,
    order: _ScoreOrder,
    found: ScoredRows,
    k: int,
    near: RowNumbers,
    edge: float,
    words_max: int,
) -> tuple[ScoredRows, bool]:
    """`found` and rows that may be among the k best by their words rather than by their vectors; and whether
    none is missing. found: k at least. near: rows that need not be looked at again. edge: the similarity that
    no row but those exceeds. words_max: how many rows may be looked at where they have no codes."""
    if order.weight <= 0:
        return found, True
    has_codes = source.least is not None
    count, most = (_FIRST_BY_WORDS, _BY_CODES_MAX) if has_codes else (_BY_WORDS, words_max)
    limit = order.text_limit(_kth(found, k), edge)
    first_limit = limit if source.text_max is None else max(limit, source.text_max / 2)
    rows = _rows_by_words(source, near, first_limit, count)
    others = rows[:0]
    if len(rows) > count:  # the best of them first: behind those the limit is higher
        by_texts = np.argpartition(-source.texts(rows), count)
        rows, others = rows[by_texts[:count]], rows[by_texts[count:]]
    if len(rows):
        found = _joined([found, order.scored(source, rows, source.distances(rows))])
    last = _kth(found, k)
    limit = order.text_limit(last, edge)
    if limit < first_limit or (len(others) and source.text_max is None):
        rows = _rows_by_words(source, np.concatenate([near, rows]), limit, most)
    else:
        rows = others[source.texts(others) >= np.float32(limit)]
    # At the edge itself a row without any of the words may be as good as the last one.
    is_certain = len(rows) <= most and -last > edge
    if len(rows) > most:
        rows = _best_texts(source, rows, most)
    if source.least is not None and len(rows) > _FEW:
        rows = rows[order.least_keys(source, rows, source.least(rows)) <= last]
    if len(rows):
        found = _joined([found, order.scored(source, rows, source.distances(rows))])
    return found, is_certain


def _kth(found: ScoredRows, k: int) -> float:
    """The key of the k-th of these rows."""
    return float(np.partition(found.keys, k - 1)[k - 1])


def _best_texts(source: RowSource, rows: RowNumbers, count: int) -> RowNumbers:
    """So many of these rows, those whose words score most."""
    return rows[np.argpartition(-source.texts(rows), count)[:count]]


def _rows_by_words(source: RowSource, near: RowNumbers, limit: float, count: int) -> RowNumbers:
    """The allowed rows, but for `near`, whose words score `limit` or more; where they are more than `count`,
    one more of the best than that at least."""
    rows = source.by_words(limit, count + 1 + len(near))
    if not len(rows):
        return rows
    known = np.sort(near)
    at = known.searchsorted(rows)
    at[at == len(known)] = 0
    unknown: RowNumbers = rows[known[at] != rows]
    return unknown


def text_parts(view: View, seq: int | None) -> list[TextPart]:
    """Return all parts with the rows that were live at `seq`, None: now; the delta last, if it has any or is
    the only one. Raises WordsNotSealed."""
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
    if parts and not view.count:
        return parts
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
