"""What similarities are usual in a set of vectors: of some of its rows to each other, and of a query to
them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from index_store.ann.rerank import Matrix, rescore, similarities
from index_store.request.confidence import Background
from index_store.types import Metric, Vector

SAMPLE_ROWS = 256
_USUAL_SPREAD = 0.1


class RowSample(NamedTuple):
    """Some rows. vectors: (n, dim), `SAMPLE_ROWS` at most. middle, spread: of the similarities of pairs, as
    `Background` has them; of fewer than two rows 0 and the usual spread."""

    vectors: Matrix
    metric: Metric
    middle: float
    spread: float

    def background(self, query: Vector) -> Background:
        """Return what is usual for this query (30 us)."""
        found = similarities(rescore(query, self.vectors, self.metric), self.metric)
        mean = float(found.mean()) if len(found) else self.middle
        return Background(len(self.vectors), self.middle, self.spread, mean)


def sample_of(vectors: Matrix, metric: Metric) -> RowSample:
    """Look at some of the vectors, the same ones each time (5 ms). vectors: (n, dim)."""
    random = np.random.default_rng(len(vectors))
    some = np.ascontiguousarray(vectors[np.sort(random.permutation(len(vectors))[:SAMPLE_ROWS])])
    if len(some) < 2:
        return RowSample(some, metric, 0.0, _USUAL_SPREAD)
    pairs = [
        similarities(rescore(row, some[:place], metric), metric) for place, row in enumerate(some) if place
    ]
    middle, far = np.percentile(np.concatenate(pairs), (50.0, 99.9))
    return RowSample(some, metric, float(middle), float(far - middle))
