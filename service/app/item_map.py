"""A sample of a collection as points in a plane: principal components, to see what lies together."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.port import VectorIndex
from index_store.types import Id, StoredItem
from service.errors import Overloaded

Matrix: TypeAlias = npt.NDArray[np.float32]
Value: TypeAlias = str | int | float | bool

_PARTS_MAX = 1 << 20
_PARTS_OF_A_SAMPLE = 8
_TEXT_CHARS_MAX = 200
_ROUNDS = 8
_COLUMNS = 8
_POINTS_MIN = 3


@dataclass(frozen=True, slots=True)
class MapPoint:
    """One item. values: of the metadata keys that were asked for."""

    id: Id
    x: float
    y: float
    values: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the plane lies. centre: (dim,), axes: (2, dim), float32; axes of length 1, or 0 where nothing
    varies. explained: the share of variance along x and y."""

    centre: Matrix
    axes: Matrix
    explained: tuple[float, float]

    def places(self, vectors: Matrix) -> Matrix:
        """Return x and y of each row, (n, 2)."""
        return np.asarray((vectors - self.centre) @ self.axes.T, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ItemMap:
    """live: items it is drawn of. plane: None without any item."""

    embedding_version: str
    live: int
    plane: Plane | None
    points: Sequence[MapPoint]


class ItemMaps:
    """Draws maps of current generations. Safe from any thread; one at a time, since each reads every id."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index
        self._is_busy = threading.Lock()

    def map_of(self, collection: str, sample: int, fields: Sequence[str]) -> ItemMap:
        """Return up to `sample` items of the collection, drawn evenly. Blocks; reads the disk.

        fields: metadata keys whose plain values come along. Raises Overloaded while another is being drawn,
        UnknownCollection, StoreUnavailable, StoreDamaged.
        """
        if not self._is_busy.acquire(blocking=False):
            raise Overloaded("Another map is being drawn.", reason="map")
        try:
            current = self._index.status(collection).current
            if current is None:
                return ItemMap("", 0, None, [])
            items = self._sample(collection, current.items, sample)
            vectors = vectors_of(items)
            if len(vectors) < _POINTS_MIN:
                return ItemMap(current.embedding_version, current.live, None, [])
            plane = plane_of(vectors)
            points = [
                MapPoint(item.id, float(x), float(y), _plain(item, fields))
                for item, (x, y) in zip(items, plane.places(vectors), strict=True)
            ]
            return ItemMap(current.embedding_version, current.live, plane, points)
        finally:
            self._is_busy.release()

    def _sample(self, collection: str, items: int, sample: int) -> list[StoredItem]:
        """Ids belong to parts by their hash, so some of many parts are an even sample."""
        parts = 1
        while parts < _PARTS_MAX and items * _PARTS_OF_A_SAMPLE > sample * parts:
            parts *= 2
        numbers = range(max(1, min(parts, sample * parts // max(1, items))))
        rows = self._index.digest_rows(collection, numbers, parts)
        ids = [row.id for row in rows if row.active and row.has_vector][:sample]
        found = self._index.get(collection, ids)
        return [item for item in found if item is not None and item.is_live]


def vectors_of(items: Sequence[StoredItem]) -> Matrix:
    """Return the vectors of live items, (n, dim); (0, 0) without any."""
    vectors = [item.vector for item in items if item.vector is not None]
    return np.asarray(vectors, dtype=np.float32) if vectors else np.zeros((0, 0), np.float32)


def plane_of(vectors: Matrix) -> Plane:
    """Return the plane of the two directions of largest variance. vectors: (n, dim), n at least 1.

    By subspace iteration from a fixed start (Halko, Martinsson, Tropp 2011): the same on every call, and time
    linear in rows and dimension. Axes of no length with fewer than three rows, or where all rows are equal.
    """
    centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    axes = np.zeros((2, vectors.shape[1]), np.float32)
    centred = vectors - centre
    total = float(np.square(centred, dtype=np.float64).sum())
    if len(vectors) < _POINTS_MIN or total <= 1e-12 * len(vectors):
        return Plane(centre, axes, (0.0, 0.0))
    columns = min(_COLUMNS, *vectors.shape)
    basis = np.random.default_rng(0).standard_normal((vectors.shape[1], columns)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, _, directions = np.linalg.svd(centred @ basis, full_matrices=False)
    found = min(2, columns)
    axes[:found] = directions[:found] @ basis.T
    places = centred @ axes.T
    for axis in range(found):  # a direction has two signs: the larger coordinate is positive
        if places[np.abs(places[:, axis]).argmax(), axis] < 0:
            axes[axis] *= -1
    shares = np.square(places, dtype=np.float64).sum(axis=0) / total
    return Plane(centre, axes, (float(shares[0]), float(shares[1])))


def _plain(item: StoredItem, fields: Sequence[str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for field in fields:
        value = (item.metadata or {}).get(field)
        if isinstance(value, str):
            found[field] = value[:_TEXT_CHARS_MAX]
        elif isinstance(value, bool | int | float):
            found[field] = value
    return found
