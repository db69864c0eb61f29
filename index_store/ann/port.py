"""The port of a nearest-neighbour engine over one immutable set of vectors."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.types import Vector

Bitmap: TypeAlias = npt.NDArray[np.uint8]
"""(ceil(rows/8),) uint8, bit r of byte r//8 (little end first) set: row r may be returned."""

Neighbours: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


class AnnIndex(Protocol):
    """Rows 0..rows-1 of one metric. Immutable and safe from any thread."""

    @property
    def rows(self) -> int:
        """Number of vectors held."""

    def knn(self, query: Vector, k: int, *, allowed: Bitmap | None, ef: int) -> Neighbours:
        """Return up to k (row numbers, engine distances), nearest first; only rows set in `allowed`.

        query: (dim,) float32. ef: breadth of the search, >= k; an exact engine ignores it. Distances are
        the engine's own, good for ordering candidates; the caller re-scores what it returns.
        May return fewer than k: the caller decides whether that is an answer (docs/decisions).
        """

    def close(self) -> None:
        """Let go of mapped files."""
