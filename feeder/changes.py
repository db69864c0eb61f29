"""What flows from a source to the service, whatever the source: pages, facts about items, changes.

The service stores a cursor in the same commit as the rows it stands for, so every way of reading a source
(pages of an import, a poll, a dirty set, a log) ends in the same `Changes` and the same cursor rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vector_client.types import Id, Item

Key: TypeAlias = int | str
"""A source row's position in the order of pages: its primary key."""

Vectors: TypeAlias = npt.NDArray[np.float32]

KeyColumn: TypeAlias = Sequence[Key] | npt.NDArray[np.int64]
IdColumn: TypeAlias = Sequence[Id] | npt.NDArray[np.int64]
"""Many keys or ids: an array where they are numbers, which weighs a tenth."""


@dataclass(frozen=True, slots=True)
class VectorPage:
    """Rows of a vector table in key order: none of key, id, vector is NULL. vectors: (n, dim) float32."""

    keys: Sequence[Key]
    ids: Sequence[Id]
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class Survey:
    """Every row of a vector table without its vector. keys, ids: of the rows that an import can read, in no
    order. bad: how many rows have no key, no id, no vector, or another dimension, by name; bad_keys: the
    keys of a few of each."""

    rows: int
    keys: KeyColumn
    ids: IdColumn
    bad: Mapping[str, int]
    bad_keys: Mapping[str, Sequence[Key]]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One row of an items table; an id may have several, and is active if one of them is."""

    content: Mapping[str, str]
    metadata: Mapping[str, Any]
    active: bool = True


def last_shown(rows: Sequence[ItemRow]) -> ItemRow:
    """Return which of the rows of one id tells its metadata: the last active one, or else the last."""
    return ([row for row in rows if row.active] or list(rows))[-1]


@dataclass(frozen=True, slots=True)
class Changes:
    """Writes of one collection that belong together. An id stands in items or in delete_ids, once.

    embedding_version: of the items' vectors. rows: how many source rows they stand for (for progress).
    delete_version: the deletes' source_version; a delete with an older one than what is stored is ignored.
    """

    items: Sequence[Item] = ()
    delete_ids: Sequence[Id] = ()
    embedding_version: str | None = None
    rows: int = 0
    delete_version: int | None = None


class Directory(Protocol):
    """Which ids exist in the source, and which of them are active."""

    @property
    def count(self) -> int:
        """How many ids exist."""

    @property
    def active_count(self) -> int:
        """How many of them are active."""

    def ids(self) -> Sequence[Id]:
        """Return every id, once."""

    def states(self, ids: IdColumn) -> npt.NDArray[np.int8]:
        """Return for each id UNKNOWN, INACTIVE or ACTIVE."""


UNKNOWN, INACTIVE, ACTIVE = -1, 0, 1


class IntDirectory:
    """Sorted arrays: 9 bytes an id. An id that stands in several rows is active if one of them is."""

    def __init__(self, ids: npt.NDArray[np.int64], active: npt.NDArray[np.bool_]) -> None:
        order = np.lexsort((active, ids))
        ordered = ids[order]
        is_last = np.append(ordered[1:] != ordered[:-1], True) if len(ordered) else np.zeros(0, bool)
        self._ids = ordered[is_last]
        self._active = active[order][is_last]

    @property
    def count(self) -> int:
        """How many ids exist."""
        return len(self._ids)

    @property
    def active_count(self) -> int:
        """How many of them are active."""
        return int(self._active.sum())

    def ids(self) -> Sequence[Id]:
        """Return every id, once, in ascending order."""
        found: list[Id] = self._ids.tolist()
        return found

    def states(self, ids: IdColumn) -> npt.NDArray[np.int8]:
        """Return (n,) int8: UNKNOWN, INACTIVE or ACTIVE for each of `ids`, in their order."""
        wanted = np.asarray(ids, dtype=np.int64)
        if not len(self._ids):
            return np.full(len(wanted), UNKNOWN, dtype=np.int8)
        positions = np.minimum(np.searchsorted(self._ids, wanted), len(self._ids) - 1)
        found = self._ids[positions] == wanted
        return np.where(found, self._active[positions].astype(np.int8), np.int8(UNKNOWN))


@dataclass(slots=True)
class TextDirectory:
    """Ids of text, compared exactly: "007", "7" and "７" are three."""

    _active: dict[str, bool] = field(default_factory=dict)

    def add(self, item_id: str, active: bool) -> None:
        """Add one row of an id; it is active if one of its rows is."""
        self._active[item_id] = active or self._active.get(item_id, False)

    @property
    def count(self) -> int:
        """How many ids exist."""
        return len(self._active)

    @property
    def active_count(self) -> int:
        """How many of them are active."""
        return sum(self._active.values())

    def ids(self) -> Sequence[Id]:
        """Return every id, once, in the order they were added."""
        return list(self._active)

    def states(self, ids: IdColumn) -> npt.NDArray[np.int8]:
        """Return (n,) int8: UNKNOWN, INACTIVE or ACTIVE for each of `ids`, in their order."""
        known = self._active
        return np.fromiter((known.get(str(item), UNKNOWN) for item in ids), dtype=np.int8, count=len(ids))
