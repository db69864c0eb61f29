"""What moves from one storage of an index to another, and what both ends of a move can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from index_store.contents.table import KeptContent
from index_store.record.pointer import Pointer
from index_store.record.rows import Row
from index_store.types import CollectionSpec, Id

PAGE_ROWS = 2000
"""Of one commit. Both ends of a move give equal pages."""


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """One generation as a storage holds it. name: there. seq: its newest commit. cursors, origin: as of
    `types.GenerationStatus`. root: of its digest, as it is kept beside the rows."""

    name: str
    embedding_version: str
    dim: int
    seq: int
    cursors: Mapping[str, str]
    origin: str
    root: str


@dataclass(frozen=True, slots=True)
class StoredCollection:
    """A collection as a storage holds it. spec: with the dim of the current generation. generations: the
    current one first, as `pointer` has them; none before the first vector."""

    spec: CollectionSpec
    pointer: Pointer
    generations: Sequence[StoredGeneration]


class RowsOfSeq(NamedTuple):
    """Rows in the order of their seq, and what is kept of what they were made of."""

    rows: Sequence[Row]
    contents: Mapping[Id, KeptContent]


class MoveSource(Protocol):
    """Where rows come from; it is only read."""

    def source_id(self) -> str:
        """Return the number of this storage."""

    def collections(self) -> list[StoredCollection]:
        """Return all that are there. Raises Unavailable, StoreDamaged."""

    def rows_beyond(self, collection: CollectionSpec, name: str, seq: int) -> RowsOfSeq:
        """Return the next page of rows of a generation, tombstones among them. Raises Unavailable,
        StoreDamaged for a row that is damaged."""


class MoveTarget(MoveSource, Protocol):
    """Where rows go to. Each call is durable when it returns."""

    def begin(self, source_id: str, collection: CollectionSpec, generation: StoredGeneration) -> str:
        """Make room for a generation of the storage `source_id`, or find what an earlier move of it left;
        return its name here. No role is given to it. Raises WriteFailed, Unavailable."""

    def seq_of(self, collection: CollectionSpec, name: str) -> int:
        """Return how far its rows have come."""

    def root_of(self, collection: CollectionSpec, name: str) -> str:
        """Return the root of its digest, as it is kept beside the rows."""

    def put_rows(self, collection: CollectionSpec, name: str, rows: RowsOfSeq) -> None:
        """Store rows as they are, in one commit. Raises WriteFailed, Unavailable."""

    def give_roles(self, moved: StoredCollection, names: Mapping[str, str]) -> None:
        """Give the generations their seq, cursors, origin and roles: from here on the collection is served
        from here. names: those here, by those of `moved`. Raises WriteFailed, Unavailable."""
