"""Hits that are unlike each other: maximal marginal relevance over the rows of one pool."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.diverse_kernels import pick_diverse
from index_store.ann.rerank import Distances
from index_store.types import Vector


def diverse_order(vectors: Vector, scores: Distances, diversity: float, count: int) -> npt.NDArray[np.int64]:
    """Return the positions of the first `count` rows. vectors: (rows, dim), none of them zero. scores:
    (rows,), best first.

    Both sides are put on one scale, whatever the model: scores to 0..1 over the pool, and cosines so that the
    average of two rows of the pool counts 0 and the same direction 1. They depend on the pool alone, so the
    order of its first rows does not depend on how many are asked for."""
    span = float(scores[0] - scores[-1])
    relevance = (scores - scores[-1]) / span if span > 0 else np.zeros(len(scores))
    found: npt.NDArray[np.int64] = pick_diverse(vectors, relevance, diversity, min(count, len(vectors)))
    return found
