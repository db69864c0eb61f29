"""From stored items that are liked, or not, to what the index is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.request.recommendation import Recommendation
from index_store.types import Id, StoredItem, Vector
from service.errors import InvalidInput, UnknownItem

RecommendMode: TypeAlias = Literal["mean", "best", "each"]

_DIGEST_BYTES = 6


def vectors_of_items(inputs: Sequence[Id], stored: Sequence[StoredItem | None]) -> list[Vector]:
    """Return the vector of each. Raises UnknownItem."""
    vectors = []
    for item_id, item in zip(inputs, stored, strict=True):
        if item is None or item.vector is None:
            raise UnknownItem(f"The item {item_id!r} is not stored or has no vector.")
        vectors.append(item.vector)
    return vectors


def direction_of(likes: int, vectors: Sequence[Vector], weights: Sequence[float] = ()) -> Vector:
    """Return 2 x mean(like) - mean(unlike) over unit vectors, as a unit vector; mean(like) without unlike.
    likes: how many of `vectors` are liked, the first ones. weights: of those; empty for equal ones. Raises
    InvalidInput."""
    units = [_unit(vector) for vector in vectors]
    direction = np.average(units[:likes], axis=0, weights=weights or None)
    if len(units) > likes:
        direction = 2 * direction - np.mean(units[likes:], axis=0)
    length = float(np.linalg.norm(direction))
    if length < 1e-6:
        raise InvalidInput("like_ids", "and unlike_ids cancel each other out")
    return np.asarray(direction / length, dtype=np.float32)


def recommendation_of(
    mode: Literal["best", "each"], likes: int, vectors: Sequence[Vector], weights: Sequence[float]
) -> Recommendation:
    """Return what the index is asked; arguments as of `direction_of`."""
    dim = len(vectors[0])
    unlikes = np.array(vectors[likes:], np.float32).reshape(-1, dim)
    return Recommendation(mode, np.stack(vectors[:likes]), tuple(weights) or (1.0,) * likes, unlikes)


def digest_of(vectors: Sequence[Vector]) -> str:
    """Return what tells these vectors from others, short."""
    return hashlib.blake2b(
        b"".join(each.tobytes() for each in vectors), digest_size=_DIGEST_BYTES
    ).hexdigest()


def _unit(vector: Vector) -> npt.NDArray[np.float64]:
    exact = vector.astype(np.float64)
    return exact / float(np.linalg.norm(exact))
