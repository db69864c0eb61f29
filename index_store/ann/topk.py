"""Exact distances and the one order of answers: (distance, id). Pure functions over arrays.

Engines order candidates by their own, rounded distances. Whatever leaves the index is scored again here,
in float64, so that a number means the same whether its row sat in a graph, in a scan or in the delta.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled import compiled
from index_store.types import Metric, Vector

Distances: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float32]

_SORTED_IN_PLACE = 256


def rescore(
    query: Vector, vectors: Matrix, metric: Metric, rows: npt.NDArray[np.int64] | None = None
) -> Distances:
    """Return the distance of each row of `vectors` to `query`, as the metric says, summed in float64.

    query: (dim,), vectors: (n, dim), both finite and, for cosine, not zero. rows: those to score, in this
    order; None for all. A row's distance depends on that row alone, not on its neighbours, and identical
    vectors have l2 and cosine 0 exactly.
    """
    if rows is None:
        rows = np.arange(len(vectors))
    found: Distances = _scores(query, vectors, rows, _KINDS[metric])
    return found


def nearest_rows(
    query: Vector, vectors: Matrix, metric: Metric, rows: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], Distances, bool]:
    """Return the k nearest of `rows`, nearest first, with their distances as `rescore` gives them.

    The last says whether equal distances may stand among the first k + 1: then ids must decide the order,
    and who comes in.
    """
    if len(rows) <= _SORTED_IN_PLACE:
        nearest, distances, is_tied = _nearest(query, vectors, rows, _KINDS[metric])
        return nearest[:k], distances[:k], is_tied
    distances = rescore(query, vectors, metric, rows)
    order = distances.argsort(kind="stable")[: k + 1]
    found = distances[order]
    return rows[order[:k]], found[:k], bool(np.count_nonzero(found[1:] == found[:-1]))


_L2, _COSINE, _IP = 0, 1, 2
_KINDS: dict[Metric, int] = {"l2": _L2, "cosine": _COSINE, "ip": _IP}


@compiled
def _scores(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    wide = query.astype(np.float64)
    if kind == _COSINE:
        wide *= 1.0 / np.sqrt(_squares(wide))
    out = np.empty(len(rows), np.float64)
    for n in range(len(rows)):
        out[n] = _score(wide, vectors, np.uint64(rows[n]), kind)
    return out


@compiled
def _squares(vector: Any) -> Any:
    total = 0.0
    for i in range(len(vector)):
        total += np.float64(vector[i]) * np.float64(vector[i])
    return total


@compiled
def _score(wide: Any, vectors: Any, row: Any, kind: Any) -> Any:
    total = 0.0
    if kind == _IP:
        for i in range(len(wide)):
            total -= np.float64(vectors[row, i]) * wide[i]
        return total
    if kind == _L2:
        for i in range(len(wide)):
            apart = np.float64(vectors[row, i]) - wide[i]
            total += apart * apart
        return np.sqrt(total)
    # Half the squared distance of unit vectors: 1 - cos without the cancellation near 0. Scaled as the query
    # is, by the reciprocal, so that an identical row ends up with identical bits.
    for i in range(len(wide)):
        total += np.float64(vectors[row, i]) * np.float64(vectors[row, i])
    scale = 1.0 / np.sqrt(total)
    total = 0.0
    for i in range(len(wide)):
        apart = np.float64(vectors[row, i]) * scale - wide[i]
        total += apart * apart
    return total / 2


@compiled
def _sort(rows: Any, distances: Any) -> Any:
    """Sort both by distance, in place, by moving single rows: engines found them nearly in order. Return
    whether two are equal."""
    is_tied = False
    for n in range(1, len(rows)):
        row, distance, place = rows[n], distances[n], n
        while place and distances[place - 1] > distance:
            rows[place], distances[place] = rows[place - 1], distances[place - 1]
            place -= 1
        rows[place], distances[place] = row, distance
        is_tied |= place > 0 and distances[place - 1] == distance
    return is_tied


@compiled
def _nearest(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    rows = rows.copy()
    distances = _scores(query, vectors, rows, kind)
    is_tied = _sort(rows, distances)
    return rows, distances, is_tied


def warm() -> None:
    """Compile, or read from disk, what scores rows: of memory and of mapped files."""
    vectors = np.ones((2, 4), np.float32)
    query = vectors[0].copy()
    for is_writable in (True, False):
        vectors.setflags(write=is_writable)
        nearest_rows(query, vectors, "l2", np.arange(2), 1)
        rescore(query, vectors, "l2")


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
