"""Exact distances and the one order of answers: (distance, id). Pure functions over arrays.

Engines order candidates by their own, rounded distances. Whatever leaves the index is scored again here,
in float64, so that a number means the same whether its row sat in a graph, in a scan or in the delta.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.exact_kernels import COSINE, IP, L2, any_within, scores, scores_sorted
from index_store.types import Metric, Vector

Distances: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float32]

_SORTED_IN_PLACE = 256
_SORTED_WHOLE = 1024


def rescore(
    query: Vector, vectors: Matrix, metric: Metric, rows: npt.NDArray[np.int64] | None = None
) -> Distances:
    """Return the distance of each row of `vectors` to `query`, as the metric says, summed in float64.

    query: (dim,), vectors: (n, dim), C-contiguous, both finite and, for cosine, not zero. rows: those to
    score, in this order; None for all. A row's distance depends on that row alone, not on its neighbours,
    and identical vectors have l2 and cosine 0 exactly.
    """
    if rows is None:
        rows = np.arange(len(vectors))
    # A copy of the query (.4 us): compiled code is made for arrays that can be written to, and again for
    # those that can't, and a caller's may be either.
    found: Distances = scores(query.astype(np.float32), vectors, rows, _KINDS[metric])
    return found


def nearest_rows(
    query: Vector, vectors: Matrix, metric: Metric, rows: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], Distances, bool]:
    """Return the k nearest of `rows`, nearest first, with their distances as `rescore` gives them.

    The last says whether equal distances may stand among the first k + 1: then ids must decide the order,
    and who comes in.
    """
    if len(rows) <= _SORTED_IN_PLACE:
        own = query.astype(np.float32)  # as in `rescore`
        nearest, distances, is_tied = scores_sorted(own, vectors, rows, _KINDS[metric])
        return nearest[:k], distances[:k], is_tied
    distances = rescore(query, vectors, metric, rows)
    order = distances.argsort(kind="stable")[: k + 1]
    found = distances[order]
    return rows[order[:k]], found[:k], bool(np.count_nonzero(found[1:] == found[:-1]))


def is_any_near(query: Vector, vectors: Matrix, metric: Metric, limit: float) -> bool:
    """Return whether the distance of any row of `vectors`, as `rescore` gives it, is `limit` or less."""
    return bool(any_within(query.astype(np.float32), vectors, _KINDS[metric], limit))


_KINDS: dict[Metric, int] = {"l2": L2, "cosine": COSINE, "ip": IP}


def select(distances: Distances, ids: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Return the positions of the k smallest by (distance, id), in that order; all of them if fewer.

    ids: int64, or an object array of str (ordered by code point, as UTF-8 bytes are).
    """
    if len(distances) <= _SORTED_WHOLE:
        order = distances.argsort(kind="stable")
        found = distances[order]
        if not np.count_nonzero(found[1:] == found[:-1]):  # mostly: ids, which are slow, need not be compared
            return order[:k]
    positions = np.arange(len(distances), dtype=np.int64)
    if 0 < k < len(distances):
        kth = np.partition(distances, k - 1)[k - 1]
        positions = positions[distances <= kth]  # every tie of the k-th stays in until ids decide
    order = np.lexsort((ids[positions], distances[positions]))
    return positions[order[:k]]


def come_after(
    keys: Distances,
    ids_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]],
    after: tuple[float, Any] | None,
) -> npt.NDArray[np.bool_]:
    """Return which rows come behind `after` in the order of `select`: (rows,); all of them for None.

    keys: (rows,) what they are ordered by. ids_of: the ids at some positions; asked for ties alone, since to
    look ids up can take longer than all else.
    """
    if after is None:
        return np.ones(len(keys), np.bool_)
    beyond = keys > after[0]
    ties = np.flatnonzero(keys == after[0])
    if len(ties):
        beyond[ties] = ids_of(ties) > after[1]
    return beyond


def similarities(distances: Distances, metric: Metric) -> Distances:
    """Return exact distances as what a score can be added to: bigger is better. Of unit vectors it is their
    cosine, whatever the metric."""
    if metric == "l2":
        return 1.0 - distances * distances / 2.0
    return 1.0 - distances if metric == "cosine" else -distances


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
