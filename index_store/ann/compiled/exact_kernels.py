"""Compiled loops over a segment's own rows: exact scores, and ids looked up. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.float_sums import sum_of_squares_apart, sum_of_wide_products
from index_store.ann.compiled.jit import LINE_BYTES, briefly_compiled, compiled, exactly_compiled, fetch

L2, COSINE, IP = 0, 1, 2
"""Metrics of `scores`."""

_ROWS_AHEAD = 4


@exactly_compiled
def scores(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    """The exact distance of each of these rows, in float64."""
    dim = len(query)
    wide, nothing = query.astype(np.float64), np.zeros(dim)
    if kind == COSINE:
        wide *= 1.0 / np.sqrt(sum_of_squares_apart(query, 0, nothing, dim, 1.0))
    out = np.empty(len(rows), np.float64)
    for n in range(len(rows)):
        if n + _ROWS_AHEAD < len(rows):
            start = np.int64(rows[n + _ROWS_AHEAD]) * dim
            for at in range(start, start + dim, LINE_BYTES // 4):
                fetch(vectors, at)
        start = np.int64(rows[n]) * dim
        if kind == IP:
            out[n] = -sum_of_wide_products(vectors, start, wide, dim, 1.0)
        elif kind == L2:
            out[n] = np.sqrt(sum_of_squares_apart(vectors, start, wide, dim, 1.0))
        else:
            # Half the squared distance of unit vectors: 1 - cos without the cancellation near 0. Scaled as
            # the query is, by the reciprocal, so that an identical row ends up with identical bits.
            scale = 1.0 / np.sqrt(sum_of_squares_apart(vectors, start, nothing, dim, 1.0))
            out[n] = sum_of_squares_apart(vectors, start, wide, dim, scale) / 2
    return out


@compiled
def _sort(rows: Any, distances: Any) -> Any:
    """Sort both by distance, in place, by moving single rows: engines found them nearly in order. Return
    whether two are equal."""
    is_tied = False
    for n in range(1, len(rows)):
        row, distance, position = rows[n], distances[n], n
        while position and distances[position - 1] > distance:
            rows[position], distances[position] = rows[position - 1], distances[position - 1]
            position -= 1
        rows[position], distances[position] = row, distance
        is_tied |= position > 0 and distances[position - 1] == distance
    return is_tied


@briefly_compiled
def scores_sorted(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    """Distances of these rows, nearest first, as `scores` computes them: (rows, distances, whether any two
    are equal)."""
    rows = rows.copy()
    distances = scores(query, vectors, rows, kind)
    is_tied = _sort(rows, distances)
    return rows, distances, is_tied


@briefly_compiled
def any_within(query: Any, vectors: Any, kind: Any, limit: Any) -> Any:
    """Whether the distance of any row, as `scores` computes it, is `limit` or less."""
    return len(vectors) > 0 and scores(query, vectors, np.arange(len(vectors)), kind).min() <= limit


@compiled
def find(keys: Any, order: Any, wanted: Any) -> Any:
    """order[position] of each wanted number in `keys`, which are sorted; -1 for those not there.

    Looked for around where it would lie if numbers were evenly spread, as those that a database counts are;
    fastest when they are wanted in order, since neighbours share cache lines."""
    out = np.empty(len(wanted), np.int64)
    count = len(keys)
    first = np.float64(keys[0]) if count else 0.0
    a_place = (count - 1) / max(np.float64(keys[count - 1]) - first, 1.0) if count else 0.0
    for n in range(len(wanted)):
        number = wanted[n]
        guess = int(min(max((np.float64(number) - first) * a_place, 0.0), max(count - 1.0, 0.0)))
        low, high, step = guess, guess, 4
        while high < count and keys[high] < number:
            low, high, step = high + 1, high + step, step * 2
        while low > 0 and keys[low - 1] >= number:
            high, low, step = low - 1, max(low - step, 0), step * 2
        high = min(high, count)
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < number:
                low = middle + 1
            else:
                high = middle
        out[n] = order[low] if low < count and keys[low] == number else -1
    return out


@compiled
def cleared(bits: Any, rows: Any) -> Any:
    """A copy of a bitmap in which these rows are not set; negative ones are none."""
    out = bits.copy()
    for row in rows:
        if row >= 0:
            out[row >> 3] &= ~(np.uint8(1) << np.uint8(row & 7))
    return out


def warm() -> None:
    """As `kernels.warm`."""
    for is_writable in (True, False):
        vectors, numbers, bits = np.ones((1, 4), np.float32), np.zeros(1, np.int64), np.ones(1, np.uint8)
        for array in (vectors, numbers, bits):
            array.setflags(write=is_writable)
        find(numbers, numbers, np.zeros(1, np.int64))
        cleared(bits, np.zeros(1, np.int64))
        scores_sorted(np.ones(4, np.float32), vectors, np.zeros(1, np.int64), L2)
        scores(np.ones(4, np.float32), vectors, np.zeros(1, np.int64), L2)
        any_within(np.ones(4, np.float32), vectors, L2, 1.0)
