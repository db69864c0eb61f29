"""The rows of a store elsewhere that one search needs: fetched, held in memory, scored as all rows are.

The code that makes answers asks again and again for the nearest rows that come next. Where rows stand in a
database, a pool fetches those and takes them in as rows of a delta: distances, ties, scores, groups and pages
come out of the same arithmetic as those of rows that were always in memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from index_store.ann.background import RowSample
from index_store.ann.rerank import come_after, rescore, select
from index_store.delta.delta import Candidates, Delta
from index_store.delta.id_index import RowNumbers
from index_store.filter.growable import GrowableColumn
from index_store.lexical.row_postings import RowGrams, RowPostings, joined_grams
from index_store.lexical.scores import (
    QueryGrams,
    QueryTerms,
    StreamStatistics,
    TextScores,
    query_terms,
    scores_by_terms,
)
from index_store.types import Id, SearchRequest, Vector

SCORE_ERROR = 1e-5
"""Of what words score: by so much a store may be off when it picks rows."""
_MORE, _WIDER = 16, 4
_WORDS_FROM, _WORDS_TO = 0.4, 0.02
"""What the words of rows score that are looked for first, and below which all are: the less they may score,
the more rows there are."""
_TINY = 1e-30
"""Below every score but 0."""


class PoolRows(NamedTuple):
    """Some live rows, each once, in any order. ids: int64, or object holding str. seqs: (rows,) int64, of the
    write of each. vectors: (rows, dim) float32. texts: their metadata, as JSON; None where there is none.
    grams: by stream, what they are found by; of a search by words."""

    ids: npt.NDArray[Any]
    seqs: npt.NDArray[np.int64]
    vectors: Vector
    texts: Sequence[str | None]
    grams: Mapping[str, RowGrams]


class ScoreRange(NamedTuple):
    """What the words of a row may score."""

    least: float
    most: float = math.inf


class LiveSeqs(NamedTuple):
    """Which rows are meant: those live at `seq` whose items are live at `still`, which is `seq` or later."""

    seq: int
    still: int


class RowFetcher(Protocol):
    """What a search asks of a generation in a store elsewhere. *Now* is the view's seq, the same for all.
    Every method may use the network and raises Unavailable."""

    def fetch_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> PoolRows:
        """Return the k nearest to `request.vector` of the allowed rows that come after `request.after`, by
        exact (distance, id); others may stand among them, and fewer only where there are no more. Allowed are
        rows that were `live`, are not excluded, are shown as `request.shown` says, and pass the filter. The
        seq of `request.after` counts for nothing. Appends to `request.steps`, if there are any."""

    def fetch_by_words(
        self, request: SearchRequest, live: LiveSeqs, terms: QueryTerms, scores: ScoreRange, count: int
    ) -> PoolRows:
        """Return exactly the `count` allowed rows whose words score most by `terms`, of those that score
        within `scores`; all where they are fewer. Scores that differ by no more than `SCORE_ERROR` count as
        equal."""

    def word_statistics(self, query: QueryGrams, seq: int) -> Mapping[str, StreamStatistics]:
        """Return the statistics of each stream of the query, over the items that were live at `seq`."""

    def leave_out(self, key: str, values: Collection[float | str]) -> None:
        """From here on rows may be left out whose value under this top-level key of the metadata is one of
        these, not a list of them: numbers, or texts in NFC. Each call replaces the one before."""

    def live_ids(self, ids: Sequence[Id]) -> set[Id]:
        """Return those of the ids that are live now."""

    def live_count(self) -> int:
        """Return how many items are live now."""

    def has_key(self, key: str) -> bool:
        """Return whether any row has, or had, a value under this key of the metadata."""

    def usual_similarities(self) -> RowSample:
        """Return what similarities are usual among the rows."""


class RowPool:
    """The rows that one search has fetched, in `delta`. For one thread."""

    def __init__(self, delta: Delta, fetcher: RowFetcher, *, reads_metadata: bool) -> None:
        """delta: without rows. reads_metadata: whether rows are looked at by keys of their metadata."""
        self.delta = delta
        self.fetcher = fetcher
        self._reads_metadata = reads_metadata
        self._rows: dict[Id, int] = {}
        self._terms: QueryTerms | None = None
        self._text_scores = GrowableColumn(np.float32(0))
        self._grams: list[Mapping[str, RowGrams]] = []

    def find_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> Candidates:
        """The k nearest allowed rows by (distance, id) that come after `request.after`."""
        found = self.fetcher.fetch_nearest(request, live, k)
        rows = self.take_in(found)
        distances = rescore(request.vector, found.vectors, self.delta.metric)
        after = None if request.after is None else (request.after.distance, request.after.id)
        kept = np.flatnonzero(come_after(distances, found.ids.take, after))
        kept = kept[select(distances[kept], found.ids[kept], k)]
        return Candidates(rows[kept], distances[kept], found.ids[kept])

    def read_words(self, query: QueryGrams, seq: int) -> None:
        """From here on rows come with what their words score for this query, as of the items at `seq`. The
        first call counts: a search asks for one text as of one seq."""
        if self._terms is None:
            self._terms = query_terms(query, self.fetcher.word_statistics(query, seq))

    def text_scores(self, rows: RowNumbers) -> TextScores:
        """Return what the words of these rows score."""
        return self._text_scores.data[rows]

    def postings(self) -> RowPostings:
        """Return the grams of all rows that were fetched since `read_words`."""
        return RowPostings(joined_grams(self._grams))

    def find_by_words(
        self, request: SearchRequest, live: LiveSeqs, scores: ScoreRange, count: int
    ) -> RowNumbers:
        """See `RowFetcher.fetch_by_words`; `read_words` comes first."""
        assert self._terms is not None, "read_words comes first"
        return self.take_in(self.fetcher.fetch_by_words(request, live, self._terms, scores, count))

    def find_by_words_after(
        self, request: SearchRequest, live: LiveSeqs, after: tuple[float, Any] | None, k: int
    ) -> tuple[RowNumbers, npt.NDArray[np.float64]]:
        """Return the rows that words alone find behind a key and id, the k best at least or all; with their
        keys, which are minus their scores."""
        most = math.inf if after is None else -after[0] + SCORE_ERROR
        least, count = min(_WORDS_FROM, most / 2), k + _MORE
        while True:
            scores = ScoreRange(least if least > _WORDS_TO else _TINY, most)
            rows = self.find_by_words(request, live, scores, count)
            keys = -self.text_scores(rows).astype(np.float64)
            kept = np.flatnonzero(come_after(keys, self.delta.id_array(rows).take, after) & (keys < 0))
            is_all = len(rows) < count
            # Rows that were not fetched score no more than these, but for the error.
            edge = -scores.least if is_all else keys.max()
            is_certain = np.count_nonzero(keys[kept] < edge - SCORE_ERROR) >= k
            if is_certain or (is_all and scores.least == _TINY):
                return rows[kept], keys[kept]
            least, count = (least / 4, count) if is_all else (least, count * _WIDER)

    def take_in(self, found: PoolRows) -> RowNumbers:
        """Return the row numbers of fetched rows, in their order; those not held yet are taken in."""
        known = self._rows
        ids: list[Id] = found.ids.tolist()
        fresh = [place for place, item_id in enumerate(ids) if item_id not in known]
        if fresh:
            start = self.delta.rows
            known.update((ids[place], start + n) for n, place in enumerate(fresh))
            self.delta.append_fetched(
                found.vectors[fresh],
                [ids[place] for place in fresh],
                found.seqs[fresh],
                [found.texts[place] for place in fresh],
            )
            if self._reads_metadata:
                self.delta.read_columns()
            if self._terms is not None:
                grams = {stream: rows.of_rows(fresh) for stream, rows in found.grams.items()}
                self._grams.append(grams)
                scores = scores_by_terms(self._terms, RowPostings(grams), len(fresh))
                self._text_scores.put(start, scores)
        return np.fromiter((known[item_id] for item_id in ids), np.int64, len(ids))
