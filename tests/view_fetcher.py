"""A `RowFetcher` over a view that holds all rows, and the view of a pool that fetches from it: a search has
to be answered alike by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from index_store.ann.background import RowSample
from index_store.delta.delta import Delta
from index_store.filter.cache import compiled_filter
from index_store.query.allowed import allowed_rows, view_at
from index_store.query.candidates import CandidateRows, nearest
from index_store.query.pool import LiveSeqs, PoolRows, RowPool
from index_store.query.view import View, has_key, live_count, live_ids, vectors_at, view_of_pool
from index_store.types import CollectionSpec, Id, PageKey, SearchRequest

_MORE = 3
"""Rows beyond those that are asked for: a fetcher may give them, and they are not to matter."""


class ViewFetcher:
    """Fits `RowFetcher`. fetched: how many rows were given."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.fetched = 0

    def fetch_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> PoolRows:
        """See `RowFetcher`."""
        condition = None if request.filter is None else compiled_filter(request.filter)
        view = view_at(self._view, live.still)
        pinned = replace(request, after=PageKey("", live.seq, 0.0, 0), steps=None)
        found = nearest(view, replace(request, steps=None), allowed_rows(view, pinned, condition), k + _MORE)
        self.fetched += len(found.rows)
        if request.steps is not None:
            request.steps.append(("scan", 0, self._view.count))
        return self._rows(found)

    def _rows(self, found: CandidateRows) -> PoolRows:
        order = np.random.default_rng(len(found.rows)).permutation(len(found.rows))
        found = found.take_rows(order)
        seqs = self._view.delta.created_seq.data[found.rows]
        vectors = vectors_at(self._view, found.numbers, found.rows)
        return PoolRows(found.ids, seqs, vectors, self._view.delta.metadata_texts(found.rows))

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


def pool_view(view: View, spec: CollectionSpec) -> tuple[View, ViewFetcher]:
    """Return a view for one search that fetches what it needs out of `view`, which has no segments."""
    fetcher = ViewFetcher(view)
    return view_of_pool(RowPool(Delta(spec), fetcher, reads_metadata=True), view.seq), fetcher
