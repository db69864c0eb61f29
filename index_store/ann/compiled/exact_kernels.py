"""Compiled loops over a segment's own rows: exact scores, and ids looked up. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.jit import LINE_BYTES, briefly_compiled, compiled, exactly_compiled, fetch

L2, COSINE, IP = 0, 1, 2
"""Metrics of `scores`."""

_ROWS_AHEAD = 4


@exactly_compiled
def scores(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    """The exact distance of each of these rows, in float64."""
    wide = query.astype(np.float64)
    nothing, lanes = np.zeros(len(wide)), np.empty(8)
    if kind == COSINE:
        wide *= 1.0 / np.sqrt(_squares(query.reshape(1, len(query)), np.uint64(0), 1.0, nothing, lanes))
    out = np.empty(len(rows), np.float64)
    for n in range(len(rows)):
        if n + _ROWS_AHEAD < len(rows):
            start = np.int64(rows[n + _ROWS_AHEAD]) * len(wide)
            for at in range(start, start + len(wide), LINE_BYTES // 4):
                fetch(vectors, at)
        row = np.uint64(rows[n])
        if kind == IP:
            out[n] = -_product(vectors, row, wide, lanes)
        elif kind == L2:
            out[n] = np.sqrt(_squares(vectors, row, 1.0, wide, lanes))
        else:
            # Half the squared distance of unit vectors: 1 - cos without the cancellation near 0. Scaled as
            # the query is, by the reciprocal, so that an identical row ends up with identical bits.
            scale = 1.0 / np.sqrt(_squares(vectors, row, 1.0, nothing, lanes))
            out[n] = _squares(vectors, row, scale, wide, lanes) / 2
    return out


@exactly_compiled
def _squares(vectors: Any, row: Any, scale: Any, wide: Any, lanes: Any) -> Any:
    """The sum of (row * scale - wide) ** 2, as eight sums side by side: fast, and in a fixed order."""
    lanes[:] = 0.0
    whole = len(wide) & ~7
    for i in range(0, whole, 8):
        for lane in range(8):
            apart = np.float64(vectors[row, i + lane]) * scale - wide[i + lane]
            lanes[lane] += apart * apart
    for i in range(whole, len(wide)):
        apart = np.float64(vectors[row, i]) * scale - wide[i]
        lanes[0] += apart * apart
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


@exactly_compiled
def _product(vectors: Any, row: Any, wide: Any, lanes: Any) -> Any:
    """The sum of row * wide, likewise."""
    lanes[:] = 0.0
    whole = len(wide) & ~7
    for i in range(0, whole, 8):
        for lane in range(8):
            lanes[lane] += np.float64(vectors[row, i + lane]) * wide[i + lane]
    for i in range(whole, len(wide)):
        lanes[0] += np.float64(vectors[row, i]) * wide[i]
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


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
