"""The rows of a store elsewhere that one search needs: fetched, held in memory, scored as all rows are.

The code that makes answers asks again and again for the nearest rows that come next. Where rows stand in a
database, a pool fetches those and takes them in as rows of a delta: distances, ties, scores, groups and pages
come out of the same arithmetic as those of rows that were always in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from index_store.ann.background import RowSample
from index_store.ann.rerank import come_after, rescore, select
from index_store.delta.delta import Candidates, Delta
from index_store.delta.id_index import RowNumbers
from index_store.types import Id, SearchRequest, Vector


class PoolRows(NamedTuple):
    """Some live rows, each once, in any order. ids: int64, or object holding str. seqs: (rows,) int64, of the
    write of each. vectors: (rows, dim) float32. texts: their metadata, as JSON; None where there is none."""

    ids: npt.NDArray[Any]
    seqs: npt.NDArray[np.int64]
    vectors: Vector
    texts: Sequence[str | None]


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

    def find_nearest(self, request: SearchRequest, live: LiveSeqs, k: int) -> Candidates:
        """The k nearest allowed rows by (distance, id) that come after `request.after`."""
        found = self.fetcher.fetch_nearest(request, live, k)
        rows = self.take_in(found)
        distances = rescore(request.vector, found.vectors, self.delta.metric)
        after = None if request.after is None else (request.after.distance, request.after.id)
        kept = np.flatnonzero(come_after(distances, found.ids.take, after))
        kept = kept[select(distances[kept], found.ids[kept], k)]
        return Candidates(rows[kept], distances[kept], found.ids[kept])

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
        return np.fromiter((known[item_id] for item_id in ids), np.int64, len(ids))
