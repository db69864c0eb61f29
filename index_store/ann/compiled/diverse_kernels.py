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
    relevance: (rows,) float64, descending. Likeness is 0 at the mean cosine of the rows and 1 at a cosine
    of 1. A row's value only falls as others are picked, so a row is compared with those only when it stands
    first: that are 12 to 17 % of all pairs.

    It counts in steps of 2**-16, so that vectors of the same direction are as like as each other, whatever
    their float32 sums say; where nearly all are, it does not count."""
    rows, dim = vectors.shape
    inverse = _inverse_lengths(vectors)
    floor = _mean_cosine(vectors, inverse)
    share = 65536.0 / (1.0 - floor) if floor < 0.9999 else 0.0
    likeness, compared = np.zeros(rows), np.zeros(rows, np.int64)
    highest = (1.0 - diversity) * relevance
    values = highest.copy()
    out = np.empty(count, np.int64)
    for turn in range(count):
        while True:
            best = _first_best(values, highest)
            if compared[best] == turn:
                break
            vector = vectors[best]
            for before in range(compared[best], turn):
                chosen = vectors[np.uint64(out[before])]
                product = np.float32(0)
                for i in range(dim):
                    product += vector[i] * chosen[i]
                cosine = np.float64(product) * inverse[best] * inverse[out[before]]
                alike = np.floor((cosine - floor) * share + 0.5) / 65536.0
                likeness[best] = max(likeness[best], alike)
            compared[best] = turn
            values[best] = highest[best] - diversity * likeness[best]
        out[turn] = best
        values[best] = -np.inf
    return out


@compiled
def _first_best(values: Any, highest: Any) -> Any:
    """The position of the largest value. highest: descending, none of them below its value."""
    best: Any = np.uint64(0)
    most = -np.inf
    for row in range(np.uint64(len(values))):
        if highest[row] <= most:
            break
        if values[row] > most:
            best, most = row, values[row]
    return best


def warm() -> None:
    """As `kernels.warm`."""
    pick_diverse(np.ones((1, 4), np.float32), np.zeros(1), 0.5, 1)
