"""Packed row bitmaps (`index_store.ann.port.Bitmap`): what the engines and the planner read. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.exact_kernels import cleared
from index_store.ann.port import Bitmap


def all_rows(rows: int) -> Bitmap:
    """Every row set, every bit behind the last row 0."""
    bits = np.full((rows + 7) // 8, 0xFF, dtype=np.uint8)
    if rows % 8:
        bits[-1] = (1 << rows % 8) - 1
    return bits


def holds(bits: Bitmap, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each of these rows is set."""
    found: npt.NDArray[np.bool_] = ((bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).astype(np.bool_)
    return found


def without(bits: Bitmap, rows: npt.NDArray[np.int64]) -> Bitmap:
    """A copy in which these rows are not set; negative ones are none."""
    out: Bitmap = cleared(np.ascontiguousarray(bits), np.ascontiguousarray(rows))
    return out


def with_rows(bits: Bitmap, rows: npt.NDArray[np.int64]) -> Bitmap:
    """A copy in which these rows are set."""
    return bits | _spread(rows, len(bits))


def _spread(rows: npt.NDArray[np.int64], size: int) -> Bitmap:
    mask = np.zeros(size * 8, dtype=np.bool_)
    mask[rows] = True
    return np.packbits(mask, bitorder="little")
