"""Which vectors can be stored and searched: they have a direction, and float32 can hold their squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]
VectorFault: TypeAlias = Literal["not_finite", "zero_vector", "bad_length"]

LENGTH_MIN, LENGTH_MAX = 1e-12, 1e12
"""Beyond these, squares leave the range of float32."""
_SQUARE_MIN, _SQUARE_MAX = 1e-12, 1e12
"""Well inside: here the square as float32 sums it decides (1 us, a sum in float64 takes 7)."""

WHY: Final[Mapping[VectorFault, str]] = {
    "not_finite": "must hold finite float32 values only",
    "zero_vector": "must not be zero",
    "bad_length": f"must have a length of {LENGTH_MIN:g} to {LENGTH_MAX:g}",
}
"""Each fault as it stands behind the name of its field."""


def dimension_fault(values: int, dim: int) -> str:
    """Return what is wrong with a number of values that is not `dim`, to stand behind the name of the
    field."""
    return f"must have {dim} values, got {values}"


def vector_fault(vector: Vectors) -> VectorFault | None:
    """Return what is wrong with a vector, None where nothing is. vector: (dim,) float32, contiguous."""
    # dot would warn of overflow, and to silence it costs 4 us amid searches.
    square = float(np.vdot(vector, vector))
    if _SQUARE_MIN <= square <= _SQUARE_MAX:
        return None
    return _named(vector)


def vector_faults(vectors: Vectors) -> dict[int, VectorFault]:
    """Return what is wrong with each of many vectors, by its row. vectors: (rows, dim) float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    doubtful = np.flatnonzero(~((squares >= _SQUARE_MIN) & (squares <= _SQUARE_MAX)))
    found = ((row, _named(vectors[row])) for row in doubtful.tolist())
    return {row: fault for row, fault in found if fault is not None}


def _named(vector: Vectors) -> VectorFault | None:
    if not np.isfinite(vector).all():
        return "not_finite"
    if not vector.any():
        return "zero_vector"
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return None if LENGTH_MIN <= length <= LENGTH_MAX else "bad_length"
