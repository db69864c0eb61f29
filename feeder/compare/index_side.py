"""The index's side of a comparison: its sums, and its rows where they differ from the source's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feeder.compare.diff import (
    NO_DIFFERENCES,
    Differences,
    bucket_count_for,
    differences_between,
    leave_out_quarantined,
)
from feeder.compare.source_side import SourceSide
from feeder.digest import BUCKETS, Sums
from feeder.sink.brake import Store
from vector_client.types import Differing, Digest

READS_MAX = 5
"""Of the index's sums for one answer; each one more only where somebody wrote in between."""
FEW_BUCKETS = 64
"""Up to this many differing buckets are listed whole, since their sums are at hand. Above it finer sums are
computed, which list fewer rows that do not differ."""


@dataclass(frozen=True, slots=True)
class _Listing:
    """Rows of the index, asked for with these sums when its own were of `seq`."""

    seq: int
    sums: Sums
    found: Differing


_NOT_LISTED = _Listing(-1, np.zeros(0, dtype=np.uint64), Differing((), ()))


class IndexSide:
    """Asks one collection of the service for what differs. For one thread, for one comparison."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listing = _NOT_LISTED

    def differences(self, source: SourceSide) -> tuple[Digest, Differences]:
        """Return the index's digest, and how the index differs from `source`.

        Its sums are read before its rows: when the rows show nothing, a feeder may have written in between,
        so the sums are read again.
        """
        for _ in range(READS_MAX):
            digest = self._store.digest()
            differing = np.flatnonzero(source.sums != np.asarray(digest.buckets, dtype=np.uint64))
            if not len(differing):
                return digest, NO_DIFFERENCES
            is_few = len(differing) <= FEW_BUCKETS
            bucket_count = BUCKETS if is_few else bucket_count_for(max(source.count, digest.items))
            listed = self._listed(digest, source.sums_in(bucket_count))
            index_rows = {row.id: row for row in listed.rows}
            source_rows = source.rows_in(listed.parts, bucket_count)
            leave_out_quarantined(source, source_rows, index_rows, listed.parts, bucket_count)
            found = differences_between(source_rows, index_rows)
            if found.all_ids:
                return digest, found
        return digest, NO_DIFFERENCES

    def _listed(self, digest: Digest, sums: Sums) -> Differing:
        """Return what the index holds where it differs. Asked once while neither side changes: it is all that
        the service has to read for a comparison."""
        kept = self._listing
        if digest.seq != kept.seq or not np.array_equal(sums, kept.sums):
            if digest.items:
                found = self._store.differing(sums)
            else:
                found = Differing(np.flatnonzero(sums).tolist(), ())
            self._listing = _Listing(digest.seq, sums.copy(), found)
        return self._listing.found
