"""A compiled loop that picks rows one by one, each unlike those before it. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.jit import compiled


@compiled
def _inverse_lengths(vectors: Any) -> Any:
    rows, dim = vectors.shape
    out = np.empty(rows)
    for row in range(rows):
        vector = vectors[row]
        total = np.float32(0)
        for i in range(dim):
            total += vector[i] * vector[i]
        out[row] = 1.0 / np.sqrt(np.float64(total))
    return out


@compiled
def _mean_cosine(vectors: Any, inverse: Any) -> Any:
    """Of all pairs of rows, each with itself among them."""
    rows, dim = vectors.shape
    mean = np.zeros(dim, np.float32)
    for row in range(rows):
        vector, share = vectors[row], np.float32(inverse[row] / rows)
        for i in range(dim):
            mean[i] += vector[i] * share
    total = np.float32(0)
    for i in range(dim):
        total += mean[i] * mean[i]
    return np.float64(total)


@compiled
def pick_diverse(vectors: Any, relevance: Any, diversity: Any, count: Any) -> Any:
    """Positions of `count` rows, each the best of those left: (1 - diversity) x relevance - diversity x its
    greatest likeness to a row before it; ties by position. vectors: (rows, dim) float32, none of them zero.
    relevance: (rows,) float64. Likeness is 0 at the mean cosine of the rows and 1 at a cosine of 1.

    It counts in steps of 2**-16, so that vectors of the same direction are as like as each other, whatever
    their float32 sums say; where nearly all are, it does not count."""
    rows, dim = vectors.shape
    inverse = _inverse_lengths(vectors)
    floor = _mean_cosine(vectors, inverse)
    share = 65536.0 / (1.0 - floor) if floor < 0.9999 else 0.0
    likeness = np.zeros(rows)
    is_taken = np.zeros(rows, np.bool_)
    out = np.empty(count, np.int64)
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
        chosen = vectors[best]
        for row in range(rows):
            if not is_taken[row]:
                vector = vectors[row]
                product = np.float32(0)
                for i in range(dim):
                    product += vector[i] * chosen[i]
                cosine = np.float64(product) * inverse[row] * inverse[best]
                alike = np.floor((cosine - floor) * share + 0.5) / 65536.0
                likeness[row] = max(likeness[row], alike)
    return out


def warm() -> None:
    """As `kernels.warm`."""
    pick_diverse(np.ones((1, 4), np.float32), np.zeros(1), 0.5, 1)
