"""int8 codes of delta rows: a quarter of the bytes to read, with a bound that proves nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index_store.ann.checks import pack_allowed
from index_store.ann.scan import ScanIndex, add_codes, measure_codes, new_codes
from index_store.embedded.filters import Mask
from index_store.embedded.keys import RowNumbers
from index_store.types import Metric, Vector


@dataclass(frozen=True, slots=True)
class CodedRows:
    """Rows start..stop of a delta. Immutable, so any thread may scan it."""

    start: int
    stop: int
    scan: ScanIndex

    def near(self, query: Vector, k: int, allowed: Mask) -> RowNumbers:
        """Allowed rows among which the k nearest certainly are. allowed: over the delta's rows."""
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
        fetch = 2 * k + 64
        while True:
            rows, engine = self.scan.knn(query, fetch, allowed=bits, ef=0)
            reach = self.scan.reach(float(engine[k - 1]), 2 * error)
            inside = int(np.searchsorted(engine, reach, side="right"))
            if inside < len(rows) or len(rows) >= count:
                return rows[:inside] + self.start
            if 4 * fetch > count:
                return np.flatnonzero(here) + self.start
            fetch *= 4


def coded_rows(start: int, vectors: Vector, metric: Metric) -> CodedRows:
    """Codes of these rows, the first of which is row `start`."""
    codes = measure_codes(vectors, metric)
    index = new_codes(vectors.shape[1], metric)
    add_codes(index, vectors, metric, codes.scale)
    return CodedRows(start, start + len(vectors), ScanIndex(index, metric, codes))
