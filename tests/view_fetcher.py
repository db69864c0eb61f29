"""A `RowFetcher` over a view that holds all rows, and the view of a pool that fetches from it: a search has
to be answered alike by both."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from index_store.ann.background import RowSample
from index_store.delta.delta import Delta
from index_store.filter.cache import compiled_filter
from index_store.lexical.analysis import document_text
from index_store.lexical.row_postings import RowGrams, RowPostings, grams_of_texts
from index_store.lexical.scores import QueryGrams, QueryTerms, StreamStatistics, scores_by_terms
from index_store.query.allowed import allowed_rows, live_at, view_at
from index_store.query.candidates import CandidateRows, nearest
from index_store.query.pool import SCORE_ERROR, LiveSeqs, PoolRows, RowPool, ScoreRange
from index_store.query.view import View, has_key, live_count, live_ids, vectors_at, view_of_pool
from index_store.types import CollectionSpec, Id, PageKey, SearchRequest

_MORE = 3
"""Rows beyond those that are asked for: a fetcher may give them, and they are not to matter."""


class ViewFetcher:
    """Fits `RowFetcher`. fetched: how many rows were given."""

    def __init__(self, view: View, spec: CollectionSpec) -> None:
        self._view = view
        self._spec = spec
        self.fetched = 0
        self._left_out: tuple[str, set[float | str]] = ("", set())

    def fetch_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> PoolRows:
        """See `RowFetcher`."""
        found = self._allowed(request, live, k + _MORE)
        self.fetched += len(found.rows)
        if request.steps is not None:
            request.steps.append(("scan", 0, self._view.count))
        return self._rows(found)

    def _allowed(self, request: SearchRequest, live: LiveSeqs, k: int) -> CandidateRows:
        condition = None if request.filter is None else compiled_filter(request.filter)
        view = view_at(self._view, live.still)
        pinned = replace(request, after=PageKey("", live.seq, 0.0, 0), steps=None)
        allowed = allowed_rows(view, pinned, condition)
        if self._left_out[1]:
            texts = view.delta.metadata_texts(np.arange(view.count))
            kept = [not self._is_left_out(text) for text in texts]
            allowed = allowed._replace(delta=allowed.delta & np.array(kept))
        return nearest(view, replace(request, steps=None), allowed, k)

    def _rows(self, found: CandidateRows) -> PoolRows:
        order = np.random.default_rng(len(found.rows)).permutation(len(found.rows))
        found = found.take_rows(order)
        seqs = self._view.delta.created_seq.data[found.rows]
        vectors = vectors_at(self._view, found.numbers, found.rows)
        texts = self._view.delta.metadata_texts(found.rows)
        return PoolRows(found.ids, seqs, vectors, texts, grams_of(texts, self._spec.lexical_fields))

    def fetch_by_words(
        self, request: SearchRequest, live: LiveSeqs, terms: QueryTerms, scores: ScoreRange, count: int
    ) -> PoolRows:
        """See `RowFetcher`."""
        every = self._allowed(request, live, self._view.count)
        texts = self._view.delta.metadata_texts(every.rows)
        found = scores_by_terms(terms, RowPostings(grams_of(texts, self._spec.lexical_fields)), len(texts))
        kept = np.flatnonzero((found >= scores.least) & (found <= scores.most))
        # As a store that counts in another way: near scores are in any order.
        rough = found[kept] + np.random.default_rng(len(kept)).uniform(0, SCORE_ERROR / 2, len(kept))
        best = every.take_rows(kept[np.argsort(-rough)[:count]])
        self.fetched += len(best.rows)
        return self._rows(best)

    def word_statistics(self, query: QueryGrams, seq: int) -> Mapping[str, StreamStatistics]:
        """See `RowFetcher`."""
        mask = live_at(self._view, seq)
        texts = self._view.delta.metadata_texts(np.flatnonzero(mask))
        found = grams_of(texts, self._spec.lexical_fields)
        out = {}
        for stream, grams in query.grams.items():
            documents = np.repeat(np.arange(len(texts)), found[stream].lengths)
            held = [len(np.unique(documents[found[stream].grams == gram])) for gram in grams]
            mean = max(1.0, int(found[stream].lengths.sum()) / max(1, len(texts)))
            out[stream] = StreamStatistics(len(texts), np.array(held, np.int64), mean)
        return out

    def leave_out(self, key: str, values: Collection[float | str]) -> None:
        """See `RowFetcher`."""
        self._left_out = (key, set(values))

    def _is_left_out(self, text: str | None) -> bool:
        key, values = self._left_out
        value = json.loads(text or "{}").get(key)
        return not isinstance(value, bool | list | dict) and value in values

    def live_ids(self, ids: Sequence[Id]) -> set[Id]:
        """See `RowFetcher`."""
        return live_ids(self._view, ids)

    def live_count(self) -> int:
        """See `RowFetcher`."""
        return live_count(self._view)

    def has_key(self, key: str) -> bool:
        """See `RowFetcher`."""
        return has_key(self._view, key)

    def usual_similarities(self) -> RowSample:
        """See `RowFetcher`."""
        return self._view.delta.sample()


def grams_of(texts: Sequence[str | None], fields: Sequence[str]) -> dict[str, RowGrams]:
    """Return the grams of some metadata, by stream."""
    return grams_of_texts([document_text(text, fields) for text in texts])


def pool_view(view: View, spec: CollectionSpec) -> tuple[View, ViewFetcher]:
    """Return a view for one search that fetches what it needs out of `view`, which has no segments."""
    fetcher = ViewFetcher(view, spec)
    return view_of_pool(RowPool(Delta(spec), fetcher, reads_metadata=True), view.seq), fetcher
