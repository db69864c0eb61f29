"""int8 codes of delta rows: a quarter of the bytes to read, with a bound that proves nothing is lost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np

from index_store.ann.faiss_files import FaissIndex
from index_store.ann.float32_bounds import SUM_MARGIN
from index_store.ann.rerank import Matrix, engine_vectors, to_engine
from index_store.ann.sq8 import CODE_MAX, Int8Codes, ScanIndex, new_codes
from index_store.ann.validation import pack_allowed
from index_store.delta.id_index import RowNumbers
from index_store.filter.compile import Mask
from index_store.types import Metric, Vector

_FETCHED_WITHIN = 32
"""First fetch when a segment has k rows as near already: of 4,000 rows next to 98,000 four were within the
codes' error."""

_HEADROOM = 1.125
"""How much larger than all before it a number may be and still be coded as they are."""


@dataclass(frozen=True, slots=True)
class QuantizedRows:
    """Rows start..stop of a delta. Immutable, so any thread may scan it."""

    start: int
    stop: int
    scan: ScanIndex
    metric: Metric
    index: FaissIndex

    def near(self, query: Vector, k: int, allowed: Mask, limit: float) -> RowNumbers:
        """Allowed rows among which those of the k nearest that are not farther than `limit` certainly are.
        allowed: over the delta's rows."""
        here = allowed[self.start : self.stop]
        count = int(np.count_nonzero(here))
        if count <= k:
            return np.flatnonzero(here) + self.start
        bits = None
        if count < self.stop - self.start:
            whole = np.zeros(self.stop - self.start, dtype=np.bool_)
            whole[: len(here)] = here
            bits = pack_allowed(whole)
        error = self.scan.error_bound(query, proven=True)
        edge = self.scan.reach(float(to_engine(np.array([limit]), self.metric)[0]), error)
        fetch = _FETCHED_WITHIN if limit < math.inf else 2 * k + 64
        while True:
            rows, engine = self.scan.knn(query, fetch, allowed=bits, ef=0)
            reach = edge
            if len(rows) >= k:
                reach = min(edge, self.scan.reach(float(engine[k - 1]), 2 * error))
            inside = int(np.searchsorted(engine, reach, side="right"))
            if inside < len(rows) or len(rows) >= count:
                return rows[:inside] + self.start
            if 4 * fetch > count:
                return np.flatnonzero(here) + self.start
            fetch *= 4

    def extended_with(self, vectors: Vector) -> QuantizedRows | None:
        """Codes of these rows and of those behind them; None where numbers are too large for these codes.

        What is there is copied, not coded again: to copy 16,384 rows takes as long as to code 1,024."""
        rows, codes = engine_vectors(vectors, self.metric), self.scan.codes
        if _largest(rows) * codes.scale > CODE_MAX:
            return None
        return _with_rows(self.start, faiss.clone_index(self.index), codes, rows, self.metric)


def quantized_rows(start: int, vectors: Vector, metric: Metric) -> QuantizedRows:
    """Codes of these rows, the first of which is row `start`."""
    rows = engine_vectors(vectors, metric)
    largest = _largest(rows) * _HEADROOM
    codes = Int8Codes(CODE_MAX / largest if largest > 0 else 1.0, residual=0.0, length=0.0)
    return _with_rows(start, new_codes(rows.shape[1], metric), codes, rows, metric)


def _with_rows(
    start: int, index: FaissIndex, known: Int8Codes, rows: Matrix, metric: Metric
) -> QuantizedRows:
    """Add rows, in engine terms, to an index that is nobody else's, and what is known of its codes."""
    scale = np.float32(known.scale)
    codes = np.rint(rows * scale)
    index.add(codes)
    residual = max(known.residual, _longest(rows - codes / scale))
    scan = ScanIndex(index, metric, Int8Codes(known.scale, residual, max(known.length, _longest(rows))))
    return QuantizedRows(start, start + int(index.ntotal), scan, metric, index)


def _largest(rows: Matrix) -> float:
    return max(float(rows.max()), -float(rows.min()))


def _longest(rows: Matrix) -> float:
    return math.sqrt(float(np.einsum("ij,ij->i", rows, rows).max())) * (1 + SUM_MARGIN)
