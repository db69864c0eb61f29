"""What every engine checks before native code sees it: FAISS and hnswlib check little or nothing."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from index_store.ann.port import Bitmap
from index_store.errors import InvalidVector
from index_store.types import Vector


def checked_query(query: Vector, dim: int) -> npt.NDArray[np.float32]:
    """Return the query as a (1, dim) contiguous float32 row. Raises InvalidVector.

    hnswlib reads out of bounds on a wrong dimension; FAISS answers a NaN with no rows at all.
    """
    row = np.ascontiguousarray(query, dtype=np.float32)
    if row.size != dim:
        raise InvalidVector(f"query has dimension {row.size}, the index {dim}", "vector")
    # One sum of squares instead of isfinite over all: NaN and infinity survive it, so does overflow. By vdot,
    # which unlike dot does not warn of that; FAISS would let go of the GIL and queue up for it again.
    if not math.isfinite(np.vdot(row, row)):
        raise InvalidVector("query holds NaN, infinity, or a number too large to square", "vector")
    return row.reshape(1, dim)


def checked_allowed(allowed: Bitmap, rows: int) -> Bitmap:
    """Return the bitmap as contiguous bytes that native code may read. A wrong size is our own mistake."""
    bits = np.ascontiguousarray(allowed, dtype=np.uint8)
    assert bits.size == (rows + 7) // 8, f"bitmap of {bits.size} bytes for {rows} rows"
    return bits


def count_allowed(allowed: Bitmap) -> int:
    """Return how many rows are set. Bits behind the last row must be 0."""
    whole = allowed.size & ~7
    if not whole or not allowed.flags.c_contiguous:
        return int(np.bitwise_count(allowed).sum(dtype=np.int64))
    rest = int.from_bytes(allowed[whole:].tobytes(), "little").bit_count()
    return int(np.bitwise_count(allowed[:whole].view(np.uint64)).sum(dtype=np.int64)) + rest


def pack_allowed(mask: npt.NDArray[np.bool_]) -> Bitmap:
    """Return the bitmap of a boolean mask over rows."""
    return np.packbits(mask, bitorder="little")


def rows_allowed(allowed: Bitmap, rows: int) -> npt.NDArray[np.int64]:
    """Return the row numbers that are set, ascending."""
    # As bool: finding what is not zero among bytes takes numpy ten times as long.
    mask = np.unpackbits(allowed, count=rows, bitorder="little").view(np.bool_)
    return mask.nonzero()[0].astype(np.int64, copy=False)
