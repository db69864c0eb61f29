"""Fast distances in float32 that choose candidates; `index_store.ann.rerank.rescore` gives the answers.

They say how wrong they may be, so that choosing by them never loses a row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from index_store.types import Metric, Vector

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]

_UNIT_ROUNDOFF = 2.0**-24


def norms(vectors: Vector) -> Floats:
    """(rows,) lengths."""
    squares: Floats = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.sqrt(squares)


def rough(metric: Metric, query: Vector, vectors: Vector, lengths: Floats32) -> Floats32:
    """(rows,) values that order rows as their distances do, up to `rough_error`.

    l2: |v|^2 - 2vq (the square without its constant |q|^2); cosine: -cos; ip: -vq.
    """
    dots: Floats32 = vectors @ query
    if metric == "ip":
        return np.negative(dots, out=dots)
    if metric == "cosine":
        dots /= lengths
        dots /= -np.float32(norms(query[None, :])[0])
        return dots
    dots *= -2
    dots += lengths * lengths
    return dots


def rough_error(metric: Metric, dim: int, query_length: float, length_max: float) -> float:
    """How far a `rough` value can be from the true one. A dot product in float32 is off by at most
    dim roundoffs of |v||q| in any order of summation; the rest are single roundings."""
    per_dot = (dim + 8) * _UNIT_ROUNDOFF
    if metric == "cosine":
        return 2 * per_dot
    dot = per_dot * query_length * length_max
    return dot if metric == "ip" else 2 * dot + 8 * _UNIT_ROUNDOFF * length_max**2


def rough_of(metric: Metric, distance: float, query_length: float) -> float:
    """The `rough` value that stands for a distance."""
    if metric == "ip":
        return distance
    return distance - 1 if metric == "cosine" else distance**2 - query_length**2
