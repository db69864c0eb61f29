"""Brute force over float32: the reference that every other engine is measured against."""

from __future__ import annotations

import faiss
import numpy as np

from index_store.ann.port import Bitmap, Neighbours
from index_store.ann.rerank import Matrix, engine_vectors
from index_store.ann.validation import checked_allowed, checked_query
from index_store.types import Metric, Vector


class ExactIndex:
    """Compares the query with every allowed row. `vectors` may be a memory map; it is not copied unless
    the metric is cosine, which needs unit rows."""

    def __init__(self, vectors: Matrix, metric: Metric) -> None:
        self._vectors = np.ascontiguousarray(engine_vectors(vectors, metric), dtype=np.float32)
        self._metric: Metric = metric

    @property
    def rows(self) -> int:
        return len(self._vectors)

    def knn(self, query: Vector, k: int, *, allowed: Bitmap | None, ef: int) -> Neighbours:  # noqa: ARG002
        """See AnnIndex. Exact up to float32 rounding; ties by row."""
        row = engine_vectors(checked_query(query, self._vectors.shape[1]), self._metric)
        k = min(k, self.rows)
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        # Held here: the selector keeps only a bare pointer into the bitmap.
        bits = None if allowed is None else checked_allowed(allowed, self.rows)
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        found = np.empty((1, k), np.int64)
        scores = np.empty((1, k), np.float32)
        arguments = (
            *(faiss.swig_ptr(a) for a in (row, self._vectors)),
            self._vectors.shape[1],
            1,
            self.rows,
            k,
            *(faiss.swig_ptr(a) for a in (scores, found)),
        )
        if self._metric == "l2":
            faiss.knn_L2sqr(*arguments, None, selector)
        else:
            faiss.knn_inner_product(*arguments, selector)
            np.negative(scores, out=scores)
        short = int(np.count_nonzero(found[0] >= 0))
        return found[0, :short], scores[0, :short]

    def close(self) -> None:
        self._vectors = np.empty((0, self._vectors.shape[1]), np.float32)
