"""What is known of a collection's generations, as one statement reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from index_store.errors import GenerationConflict, UnknownCollection, VersionMismatch
from index_store.record.pointer import GenerationName, Pointer
from index_store.types import CollectionSpec

FIELDS = (
    "number", "embedding_version", "dim", "head", "history_from", "items", "live", "awaiting", "contents",
    "origin", "ef", "length_max",
)  # fmt: skip
READ_COLLECTION = (
    f"SELECT c.current, c.next, c.former, c.former_since, {', '.join(f'g.{each}' for each in FIELDS)} "
    "FROM collection c LEFT JOIN generation g ON g.number IN (c.current, c.next, c.former) WHERE c.name = %s"
)
"""Its rows are what `collection_record` reads."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One row of `generation`; see `schema`."""

    number: int
    embedding_version: str
    dim: int
    head: int
    history_from: int
    items: int
    live: int
    awaiting: int
    contents: int
    origin: str
    ef: int
    length_max: float

    @property
    def name(self) -> str:
        """What callers know it by."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """Return what callers know a generation by."""
    return f"g{number:06d}"


def number_of(name: str) -> int:
    """Return the number of the generation of that name."""
    return int(name[1:])


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection's generations at one moment. members: by name."""

    spec: CollectionSpec
    pointer: Pointer
    members: Mapping[str, GenerationRecord]

    @property
    def current(self) -> GenerationRecord | None:
        """The one that searches read."""
        return None if self.pointer.current is None else self.members[self.pointer.current.name]

    @property
    def in_order(self) -> Sequence[GenerationRecord]:
        """All of them, the current one first: writes go to it before the others."""
        return [self.members[each.name] for each in self.pointer.members]

    @property
    def dims(self) -> Mapping[str, int]:
        """How long the vectors of each version are."""
        return {each.embedding_version: each.dim for each in self.in_order}

    def spec_of(self, generation: GenerationRecord) -> CollectionSpec:
        """The collection with the dim of that generation."""
        return self.spec if self.spec.dim == generation.dim else replace(self.spec, dim=generation.dim)

    def require(self, embedding_version: str | None) -> GenerationRecord:
        """Return the generation of that version; None: the current one. Raises VersionMismatch,
        GenerationConflict."""
        current = self.current
        if embedding_version is None:
            if current is None:
                raise GenerationConflict("the collection has no generation yet: begin one")
            return current
        for each in self.in_order:
            if each.embedding_version == embedding_version:
                return each
        raise VersionMismatch(self.spec.name, current.embedding_version if current else "", embedding_version)


def collection_record(spec: CollectionSpec, rows: Sequence[Sequence[Any]]) -> CollectionRecord:
    """Return what the rows of `READ_COLLECTION` say."""
    if not rows:
        raise UnknownCollection(f"the database knows no collection {spec.name!r}", "collection")
    current, following, former, since = rows[0][:4]
    members = {}
    names: dict[int | None, GenerationName] = {}
    for row in rows:
        if row[4] is not None:
            found = GenerationRecord(*row[4:])
            members[found.name] = found
            names[found.number] = GenerationName(found.name, found.embedding_version)
    pointer = Pointer(names.get(current), names.get(following), names.get(former), former_since=since)
    return CollectionRecord(spec, pointer, members)


def newest_of(known: CollectionRecord, heard: CollectionRecord | GenerationRecord) -> CollectionRecord:
    """Return what is known of a collection after `heard`: threads read at one moment and tell of it at
    another, so the head of a generation is never taken back."""
    if isinstance(heard, GenerationRecord):
        old = known.members.get(heard.name)
        if old is None or old.head > heard.head:
            return known
        return replace(known, members={**known.members, heard.name: heard})
    newer = {
        name: old
        for name, each in heard.members.items()
        if (old := known.members.get(name)) is not None and old.head > each.head
    }
    return replace(heard, members={**heard.members, **newer}) if newer else heard
