"""Compiled loops over postings: which rows hold a gram, and how often. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.jit import exactly_compiled

_BLOCK = 64


@exactly_compiled
def add_weights(
    out: Any, rows: Any, counts: Any, lengths: Any, starts: Any, stops: Any, weights: Any, shares: Any
) -> None:
    """Add to `out`, (rows,) float32, the weight of each gram times what its count in a row of that length is
    worth. Gram n stands at starts[n]..stops[n] of `rows` and `counts`. lengths: (rows,) uint8 codes. shares:
    by count, of which the last stands for all above, and by code of length: float32."""
    highest = np.uint8(shares.shape[0] - 1)
    for n in range(len(starts)):
        weight = weights[n]
        for at in range(np.uint64(starts[n]), np.uint64(stops[n])):
            row = np.uint64(rows[at])
            count = np.uint64(min(counts[at], highest))
            out[row] += weight * shares[count, np.uint64(lengths[row])]


@exactly_compiled
def square_better(scores: Any, others: Any, share: Any) -> None:
    """Make of `scores` the square of what is more: them times `share`, or `others`. All (rows,) float32."""
    for row in range(len(scores)):
        better = max(others[row], scores[row] * share)
        scores[row] = better * better


@exactly_compiled
def peaks_of(bits: Any) -> Any:
    """The largest of each block of `_BLOCK` values. bits: (rows,) float32, none below 0, looked at as int32:
    those sort alike, and the processor's vectors compare whole numbers."""
    rows = np.uint64(len(bits))
    out = np.empty((len(bits) + _BLOCK - 1) // _BLOCK, np.int32)
    for block in range(np.uint64(len(out))):
        start = block * np.uint64(_BLOCK)
        top = np.int32(0)
        for row in range(start, min(start + np.uint64(_BLOCK), rows)):
            top = max(top, bits[row])
        out[block] = top
    return out


@exactly_compiled
def rows_from(values: Any, peaks: Any, limit: Any) -> Any:
    """The rows whose value is `limit` or more, ascending: int64. values: (rows,) float32. peaks: of them, as
    `peaks_of` has them, as float32."""
    rows = np.uint64(len(values))
    room = np.int64(0)
    for block in range(len(peaks)):
        room += np.int64(peaks[block] >= limit)
    found = np.int64(0)
    out = np.empty(_BLOCK * room, np.int64)
    for block in range(np.uint64(len(peaks))):
        if peaks[block] >= limit:
            start = block * np.uint64(_BLOCK)
            # Without a branch: the next ones overwrite what is not wanted.
            for row in range(start, min(start + np.uint64(_BLOCK), rows)):
                out[found] = row
                found += np.int64(values[row] >= limit)
    return out[:found].copy()


@exactly_compiled
def count_set(rows: Any, starts: Any, stops: Any, bits: Any) -> Any:
    """Of each gram, how many of its rows are set in a bitmap."""
    out = np.zeros(len(starts), np.int64)
    for n in range(len(starts)):
        found = 0
        for at in range(starts[n], stops[n]):
            row = rows[at]
            found += (bits[row >> 3] >> np.uint8(row & 7)) & 1
        out[n] = found
    return out


@exactly_compiled
def held_in(rows: Any, starts: Any, stops: Any, wanted: Any) -> Any:
    """(grams, wanted) bool: which of the rows `wanted`, int64, hold each gram, whose rows ascend."""
    out = np.zeros((len(starts), len(wanted)), np.bool_)
    for n in range(len(starts)):
        for place in range(len(wanted)):
            low, high = starts[n], stops[n]
            while low < high:
                middle = (low + high) >> 1
                if rows[middle] < wanted[place]:
                    low = middle + 1
                else:
                    high = middle
            out[n, place] = low < stops[n] and rows[low] == wanted[place]
    return out


@exactly_compiled
def length_hidden(lengths: Any, bits: Any) -> Any:
    """The lengths of the rows that are not set in a bitmap, added up."""
    total = 0
    for place in range(len(bits)):
        byte = bits[place]
        if byte != 0xFF:
            for bit in range(8):
                row = 8 * place + bit
                if row < len(lengths) and not (byte >> np.uint8(bit)) & 1:
                    total += lengths[row]
    return total


def warm() -> None:
    """As `kernels.warm`."""
    for is_writable in (True, False):
        rows, counts, lengths, bits = (np.zeros(1, kind) for kind in (np.int32, np.uint8, np.int32, np.uint8))
        for array in (rows, counts, lengths):
            array.setflags(write=is_writable)
        starts, stops, weights = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.float32)
        out, shares = np.zeros(1, np.float32), np.zeros((2, 256), np.float32)
        add_weights(out, rows, counts, np.zeros(1, np.uint8), starts, stops, weights, shares)
        square_better(out, out, np.float32(1))
        rows_from(out, peaks_of(out.view(np.int32)).view(np.float32), np.float32(1))
        count_set(rows, starts, stops, bits)
        held_in(rows, starts, stops, starts)
        length_hidden(lengths, bits)
