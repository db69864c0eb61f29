"""Exact distances and the one order of answers: (distance, id). Pure functions over arrays.

Engines order candidates by their own, rounded distances. Whatever leaves the index is scored again here,
in float64, so that a number means the same whether its row sat in a graph, in a scan or in the delta.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.types import Metric, Vector

Distances: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float32]

_BLOCK_ROWS = 2048
"""Rows converted to float64 at a time: 6 MB at 384 dimensions, whatever the number of candidates."""


def rescore(query: Vector, vectors: Matrix, metric: Metric) -> Distances:
    """Return the distance of each row of `vectors` to `query`, as the metric says, summed in float64.

    query: (dim,), vectors: (n, dim), both finite and, for cosine, not zero. A row's distance depends on
    that row alone, not on its neighbours in the batch, and identical vectors have l2 and cosine 0 exactly.
    """
    wide = query.astype(np.float64)
    if metric == "cosine":
        wide *= 1.0 / np.sqrt(np.vecdot(wide, wide))
    if len(vectors) <= _BLOCK_ROWS:
        return _score_block(wide, vectors.astype(np.float64), metric)
    out = np.empty(len(vectors), dtype=np.float64)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS].astype(np.float64)
        out[start : start + len(block)] = _score_block(wide, block, metric)
    return out


def _score_block(query: Distances, block: npt.NDArray[np.float64], metric: Metric) -> Distances:
    if metric == "ip":
        negative: Distances = -np.vecdot(block, query)
        return negative
    if metric == "cosine":
        # Half the squared distance of unit vectors: 1 - cos without the cancellation near 0. Scaled as
        # the query is, by the reciprocal, so that an identical row ends up with identical bits.
        block *= (1.0 / np.sqrt(np.vecdot(block, block)))[:, None]
    block -= query
    squares: Distances = np.vecdot(block, block)
    return np.sqrt(squares) if metric == "l2" else squares / 2


def select(distances: Distances, ids: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Return the positions of the k smallest by (distance, id), in that order; all of them if fewer.

    ids: int64, or an object array of str (ordered by code point, as UTF-8 bytes are).
    """
    positions = np.arange(len(distances), dtype=np.int64)
    if 0 < k < len(distances):
        kth = np.partition(distances, k - 1)[k - 1]
        positions = positions[distances <= kth]  # every tie of the k-th stays in until ids decide
    order = np.lexsort((ids[positions], distances[positions]))
    return positions[order[:k]]


def to_engine(distances: Distances, metric: Metric) -> Distances:
    """Return exact distances in the engines' terms: l2 squared, else minus the inner product.

    Engines hold unit vectors for cosine, so cosine distance d is -cos = d - 1 there.
    """
    if metric == "l2":
        return distances * distances
    return distances - 1.0 if metric == "cosine" else distances


def engine_vectors(vectors: Matrix, metric: Metric) -> Matrix:
    """Return rows (or one vector) as engines hold them: unit length for cosine, unchanged otherwise."""
    if metric != "cosine":
        return vectors
    norms = np.sqrt(np.einsum("...i,...i->...", vectors, vectors, dtype=np.float64))
    unit: Matrix = (vectors / norms[..., None]).astype(np.float32)
    return unit
