"""hnswlib behind the same port: the reference that benchmarks compare with. Needs the extra `hnswlib`.

Not the default: no memory map (each process holds a copy), no wheel, and a file with a flipped bit can
crash it. Import this module only where the extra is wanted.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import hnswlib
import numpy as np

from index_store.ann.port import Bitmap, Neighbours
from index_store.ann.rerank import Matrix, engine_vectors
from index_store.ann.validation import checked_allowed, checked_query
from index_store.errors import StoreDamaged
from index_store.types import Metric, Vector


def build_hnswlib(
    vectors: Matrix, metric: Metric, path: Path, *, m: int = 16, ef_construction: int = 200, threads: int = 1
) -> None:
    """Write a graph over all rows to a new file."""
    index = hnswlib.Index("l2" if metric == "l2" else "ip", vectors.shape[1])
    index.init_index(max(len(vectors), 1), ef_construction=ef_construction, M=m, random_seed=100)
    if len(vectors):
        index.add_items(engine_vectors(vectors, metric), np.arange(len(vectors)), num_threads=threads)
    index.save_index(str(path))


class HnswlibIndex:
    """An AnnIndex over a finished hnswlib graph, held in private memory."""

    def __init__(self, index: Any, metric: Metric) -> None:
        self._index = index
        self._metric: Metric = metric
        self._lock = Lock()  # ef is a field of the index, not an argument of the search

    @classmethod
    def open(cls, path: Path, metric: Metric, dim: int) -> HnswlibIndex:
        """Load a graph file. Its bytes must have been verified: hnswlib crashes on some damage."""
        index = hnswlib.Index("l2" if metric == "l2" else "ip", dim)
        try:
            index.load_index(str(path))
        except RuntimeError as exc:
            raise StoreDamaged(
                f"{path.name} is not an index that hnswlib can open: {exc}", "build it again"
            ) from exc
        return cls(index, metric)

    @property
    def rows(self) -> int:
        return int(self._index.get_current_count())

    def knn(self, query: Vector, k: int, *, allowed: Bitmap | None, ef: int) -> Neighbours:
        row = engine_vectors(checked_query(query, self._index.dim), self._metric)
        k = min(k, self.rows)
        bits = None
        if allowed is not None:
            bits = np.unpackbits(checked_allowed(allowed, self.rows), count=self.rows, bitorder="little")
            k = min(k, int(bits.sum()))
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        with self._lock:
            found, scores = self._search(row, k, max(ef, k), bits)
        order = np.argsort(scores, kind="stable")
        # For inner products hnswlib answers 1 - dot.
        return found[order], scores[order] if self._metric == "l2" else scores[order] - np.float32(1)

    def _search(self, row: Matrix, k: int, ef: int, bits: Any) -> Neighbours:
        """hnswlib raises when the graph finds fewer than k; what it has found is still an answer."""
        keep = None if bits is None else lambda label: bool(bits[label])
        while k:
            self._index.set_ef(ef)
            try:
                labels, scores = self._index.knn_query(row, k, num_threads=1, filter=keep)
                return labels[0].astype(np.int64), scores[0]
            except RuntimeError:
                k //= 2
        return np.empty(0, np.int64), np.empty(0, np.float32)

    def close(self) -> None:
        self._index = hnswlib.Index("l2", self._index.dim)
        self._index.init_index(1)
