"""What similarities are usual in a set of vectors: of some of its rows to each other, and of a query to
them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Matrix, engine_vectors, rescore, similarities
from index_store.request.confidence import Background
from index_store.types import Metric, Vector

SAMPLE_ROWS = 256
_USUAL_SPREAD = 0.1


class RowSample(NamedTuple):
    """Of some rows. rows: how many, `SAMPLE_ROWS` at most. middle, spread: of the similarities of their
    pairs, as `Background` has them; of fewer than two rows 0 and the usual spread. centre: (dim,) float64,
    their mean, for cosine that of unit vectors; squares: the mean of their squared lengths."""

    rows: int
    metric: Metric
    middle: float
    spread: float
    centre: npt.NDArray[np.float64]
    squares: float

    def background(self, query: Vector) -> Background:
        """Return what is usual for this query."""
        mean = self._mean_similarity(query.astype(np.float64)) if self.rows else self.middle
        return Background(self.rows, self.middle, self.spread, mean)

    def _mean_similarity(self, query: npt.NDArray[np.float64]) -> float:
        """That of the query with all rows: similarities are linear in a row and its squared length, so their
        mean is the centre's."""
        product = float(query @ self.centre)
        if self.metric == "cosine":
            return product / float(np.linalg.norm(query))
        return (
            product if self.metric == "ip" else 1.0 - (self.squares + float(query @ query) - 2 * product) / 2
        )


def sample_of(vectors: Matrix, metric: Metric) -> RowSample:
    """Look at some of the vectors, the same ones each time (5 ms). vectors: (n, dim)."""
    random = np.random.default_rng(len(vectors))
    some = vectors[np.sort(random.permutation(len(vectors))[:SAMPLE_ROWS])]
    rows = engine_vectors(some, metric).astype(np.float64)
    centre = rows.mean(axis=0) if len(rows) else np.zeros(vectors.shape[1])
    squares = float(np.einsum("ij,ij->i", rows, rows).mean()) if len(rows) else 0.0
    if len(some) < 2:
        return RowSample(len(some), metric, 0.0, _USUAL_SPREAD, centre, squares)
    pairs = [
        similarities(rescore(row, some[:place], metric), metric) for place, row in enumerate(some) if place
    ]
    middle, far = np.percentile(np.concatenate(pairs), (50.0, 99.9))
    return RowSample(len(some), metric, float(middle), float(far - middle), centre, squares)
