"""At which past seqs this process knows what was live: what a page pinned to a seq may ask for.

The store's tail holds the last state of each id only. When an id was written twice between two looks, its
state in between was never seen here, and a page pinned there must be refused rather than answered wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index_store.storage.store import RowPage

GAPS_MAX = 256


@dataclass(frozen=True, slots=True)
class History:
    """Known from `floor` on, except in `gaps`: half-open [first, end) ranges of seq, oldest first."""

    floor: int
    gaps: tuple[tuple[int, int], ...] = ()

    def is_known(self, seq: int, newest: int) -> bool:
        """Whether it is known what was live at `seq`. newest: the seq of the view that asks."""
        return self.floor <= seq <= newest and not any(first <= seq < end for first, end in self.gaps)

    def after(self, seq: int, pages: Sequence[RowPage]) -> History:
        """The history once `pages`, which follow `seq`, were applied together."""
        end = pages[-1].seq
        seqs = np.array([row.seq for page in pages for row in page.rows], dtype=np.int64)
        if len(seqs) == end - seq:
            return self
        missing = np.flatnonzero(seqs != np.arange(seq + 1, seq + 1 + len(seqs)))
        first = int(missing[0]) + seq + 1 if len(missing) else seq + 1 + len(seqs)
        gaps = (*self.gaps, (first, end))
        if len(gaps) <= GAPS_MAX:
            return History(self.floor, gaps)
        return History(floor=gaps[0][1], gaps=gaps[1:])
