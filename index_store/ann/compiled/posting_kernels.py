"""Compiled loops over postings: which rows hold a gram, and how often. Unchecked, like `kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from index_store.ann.compiled.jit import exactly_compiled


@exactly_compiled
def add_weights(
    out: Any,
    rows: Any,
    counts: Any,
    lengths: Any,
    starts: Any,
    stops: Any,
    weights: Any,
    flat: Any,
    slope: Any,
) -> None:
    """Add to `out`, (rows,) float32, what BM25 gives each row for each gram. Gram n stands at
    starts[n]..stops[n] of `rows` and `counts`. flat, slope: float32; of the length's part below the line."""
    for n in range(len(starts)):
        weight = weights[n]
        for at in range(starts[n], stops[n]):
            row = rows[at]
            count = np.float32(counts[at])
            out[row] += weight * count / (count + flat + slope * np.float32(lengths[row]))


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
        out, one = np.zeros(1, np.float32), np.float32(1)
        add_weights(out, rows, counts, lengths, starts, stops, weights, one, one)
        count_set(rows, starts, stops, bits)
        length_hidden(lengths, bits)
