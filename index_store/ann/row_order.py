"""In which order rows lie in memory: neighbours close together, so that a search touches fewer pages.

A graph search is bound by memory, not arithmetic. With rows in order of k-means clusters it takes 0.85 of the
time over the same graph in random order (98,000 x 384), and building takes 0.84 of the processor time; recall
does not change, as FAISS links the rows of one call in an order of its own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Matrix
from index_store.ann.sq8 import blocks
from index_store.types import Metric

_ROWS_A_CLUSTER = 192
_CLUSTERS_MAX = 1024
_SAMPLE_A_CLUSTER = 24
_ROUNDS = 3


def local_order(vectors: Matrix, metric: Metric, seed: int) -> npt.NDArray[np.int64]:
    """Return the row numbers in an order that keeps near rows together. A hint: any order is correct.

    Costs one product of all rows with at most 1,024 centres.
    """
    random = np.random.default_rng(seed)
    clusters = min(_CLUSTERS_MAX, len(vectors) // _ROWS_A_CLUSTER)
    if clusters < 2:
        return np.arange(len(vectors))
    chosen = np.sort(random.choice(len(vectors), clusters * _SAMPLE_A_CLUSTER, replace=False))
    sample = np.concatenate(list(blocks(vectors[chosen], metric)))
    centres = sample[random.choice(len(sample), clusters, replace=False)]
    for _ in range(_ROUNDS):
        nearest, _closeness = _assign(sample, centres)
        centres = _means(sample, nearest, centres)
    position = _chain(centres)
    parts = [_assign(block, centres) for block in blocks(vectors, metric)]
    cluster = np.concatenate([position[nearest] for nearest, _ in parts])
    closeness = np.concatenate([close for _, close in parts])
    return np.lexsort((-closeness, cluster))


def _assign(rows: Matrix, centres: Matrix) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The nearest centre of each row, and how near: larger is nearer."""
    scores = rows @ centres.T
    scores -= np.einsum("ij,ij->i", centres, centres) / 2
    nearest = scores.argmax(axis=1)
    return nearest, np.take_along_axis(scores, nearest[:, None], 1)[:, 0]


def _means(rows: Matrix, nearest: npt.NDArray[np.int64], centres: Matrix) -> Matrix:
    """The mean of each centre's rows; a centre without rows stays."""
    order = np.argsort(nearest, kind="stable")
    used, starts = np.unique(nearest[order], return_index=True)
    means = centres.copy()
    counts = np.diff(np.append(starts, len(rows)))
    means[used] = np.add.reduceat(rows[order], starts, axis=0) / counts[:, None]
    return means


def _chain(centres: Matrix) -> npt.NDArray[np.int64]:
    """The position of each centre on a walk from one to the nearest that is left."""
    squares = np.einsum("ij,ij->i", centres, centres)
    far = squares[:, None] + squares[None, :] - 2 * (centres @ centres.T)
    position = np.empty(len(centres), np.int64)
    at = 0
    for step in range(len(centres)):
        position[at] = step
        far[:, at] = np.inf
        at = int(far[at].argmin())
    return position
