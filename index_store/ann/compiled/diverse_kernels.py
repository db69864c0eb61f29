"""A compiled loop that picks rows one by one, each unlike those before it. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.jit import compiled


@compiled
def pick_diverse(units: Any, relevance: Any, diversity: Any, floor: Any, count: Any) -> Any:
    """Positions of `count` rows, each the best of those left: (1 - diversity) x relevance - diversity x its
    greatest likeness to a row before it; ties by position. units: (rows, dim) float32 of length 1. relevance:
    (rows,) float64. floor: the cosine that counts as a likeness of 0; a cosine of 1 is one of 1.

    Likeness counts in steps of 2**-16, so that vectors of the same direction are as like as each other,
    whatever their float32 sums say; where nearly all are, it does not count."""
    rows, dim = units.shape
    likeness = np.zeros(rows)
    is_taken = np.zeros(rows, np.bool_)
    out = np.empty(count, np.int64)
    share = 65536.0 / (1.0 - floor) if floor < 0.9999 else 0.0
    for turn in range(count):
        best, most = -1, -np.inf
        for row in range(rows):
            if not is_taken[row]:
                value = (1.0 - diversity) * relevance[row] - diversity * likeness[row]
                if best < 0 or value > most:
                    best, most = row, value
        out[turn] = best
        is_taken[best] = True
        if turn + 1 == count:
            break
        for row in range(rows):
            if not is_taken[row]:
                cosine = np.float32(0)
                for i in range(dim):
                    cosine += units[row, i] * units[best, i]
                alike = np.floor((np.float64(cosine) - floor) * share + 0.5) / 65536.0
                likeness[row] = max(likeness[row], alike)
    return out


def warm() -> None:
    """As `kernels.warm`."""
    pick_diverse(np.ones((1, 4), np.float32), np.zeros(1), 0.5, 0.0, 1)
