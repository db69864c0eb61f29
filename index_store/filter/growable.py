"""Arrays that grow at the end while other threads read what was published before."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from index_store.types import Vector

_Scalar = TypeVar("_Scalar", bound=np.generic)

BLOCK_ROWS = 16_384


class GrowableColumn(Generic[_Scalar]):
    """One value a row. One thread appends; readers take `data` and look only at rows published to them.

    Growing makes a new array; readers that hold the old one keep it.
    """

    def __init__(self, fill: _Scalar, capacity: int = 1024) -> None:
        self._fill = fill
        self.data: npt.NDArray[_Scalar] = np.full(capacity, fill)

    def put(self, start: int, values: npt.NDArray[_Scalar]) -> None:
        """Write rows start.. ; rows never written hold the fill."""
        stop = start + len(values)
        if stop > len(self.data):
            grown = np.full(max(stop, 2 * len(self.data)), self._fill)
            grown[: len(self.data)] = self.data
            self.data = grown
        self.data[start:stop] = values

    def between(self, start: int, stop: int) -> npt.NDArray[_Scalar]:
        """Rows start..stop, filled where nothing was written."""
        found = self.data[start:stop]
        missing = stop - start - len(found)
        return np.concatenate([found, np.full(missing, self._fill)]) if missing else found


class GrowableVectors:
    """Rows of float32 in blocks, so that growing copies nothing. One thread appends."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._blocks: list[Vector] = []
        self.rows = 0

    def append(self, vectors: Vector) -> None:
        """Add rows at the end. vectors: (n, dim) float32, copied."""
        done = 0
        while done < len(vectors):
            position = self.rows % BLOCK_ROWS
            if self.rows == len(self._blocks) * BLOCK_ROWS:
                self._blocks.append(np.empty((BLOCK_ROWS, self._dim), dtype=np.float32))
            some = vectors[done : done + BLOCK_ROWS - position]
            self._blocks[-1][position : position + len(some)] = some
            self.rows += len(some)
            done += len(some)

    def blocks(self, count: int) -> list[tuple[int, Vector]]:
        """(first row, vectors) of the first `count` rows, without a copy."""
        starts = range(0, count, BLOCK_ROWS)
        return [(start, self._blocks[start // BLOCK_ROWS][: count - start]) for start in starts]

    def take(self, rows: npt.NDArray[np.int64]) -> Vector:
        """A copy of these rows, in order."""
        if len(self._blocks) == 1:
            return self._blocks[0][rows]
        out = np.empty((len(rows), self._dim), dtype=np.float32)
        numbers = rows // BLOCK_ROWS
        for number in np.unique(numbers):
            here = numbers == number
            out[here] = self._blocks[number][rows[here] % BLOCK_ROWS]
        return out
