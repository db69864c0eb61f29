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
class ItemMap:
    """explained: the share of the sample's variance along x and along y. live: items it is drawn of."""

    embedding_version: str
    live: int
    explained: tuple[float, float]
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
                return ItemMap("", 0, (0.0, 0.0), ())
            items = self._sample(collection, current.items, sample)
            xy, explained = plane_of(vectors_of(items))
            points = [
                MapPoint(item.id, float(x), float(y), _plain(item, fields))
                for item, (x, y) in zip(items, xy, strict=True)
            ]
            return ItemMap(current.embedding_version, current.live, explained, points)
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


def plane_of(vectors: Matrix) -> tuple[Matrix, tuple[float, float]]:
    """Return each row's place along the two directions of largest variance, (n, 2), and their shares of it.

    By subspace iteration from a fixed start (Halko, Martinsson, Tropp 2011): the same on every call, and time
    linear in rows and dimension. All zero with fewer than three rows, or where all rows are equal.
    """
    nothing = np.zeros((len(vectors), 2), np.float32), (0.0, 0.0)
    if len(vectors) < _POINTS_MIN:
        return nothing
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    total = float(np.square(centred, dtype=np.float64).sum())
    if total <= 1e-12 * len(vectors):
        return nothing
    columns = min(_COLUMNS, *vectors.shape)
    basis = np.random.default_rng(0).standard_normal((vectors.shape[1], columns)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, _, directions = np.linalg.svd(centred @ basis, full_matrices=False)
    xy = np.zeros((len(vectors), 2), np.float32)
    found = min(2, columns)
    xy[:, :found] = centred @ (basis @ directions[:found].T)
    for axis in range(found):  # a direction has two signs: the larger coordinate is positive
        if xy[np.abs(xy[:, axis]).argmax(), axis] < 0:
            xy[:, axis] *= -1
    shares = np.square(xy, dtype=np.float64).sum(axis=0) / total
    return xy, (float(shares[0]), float(shares[1]))


def _plain(item: StoredItem, fields: Sequence[str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for field in fields:
        value = (item.metadata or {}).get(field)
        if isinstance(value, str):
            found[field] = value[:_TEXT_CHARS_MAX]
        elif isinstance(value, bool | int | float):
            found[field] = value
    return found
