"""One generation of the reference index, and what a write makes of an item there."""

from __future__ import annotations

from dataclasses import dataclass, field

from index_store.types import Id, ItemWrite, Metadata, StoredItem
from item_rules.metadata import METADATA_BYTES_MAX, metadata_text


@dataclass
class Shelf:
    """One generation."""

    name: str
    version: str
    dim: int
    items: dict[Id, StoredItem] = field(default_factory=dict)
    tombstones: dict[Id, int | None] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    seq: int = 0
    past: dict[int, dict[Id, StoredItem]] = field(default_factory=lambda: {0: {}})

    def known_version(self, item_id: Id) -> int | None:
        item = self.items.get(item_id)
        return item.source_version if item else self.tombstones.get(item_id)

    def is_stale(self, item_id: Id, version: int | None) -> bool:
        known = self.known_version(item_id)
        if known is None or version is None:
            return False
        return version <= known if item_id in self.tombstones else version < known

    def newest(self, item_id: Id, version: int | None) -> int | None:
        return max((v for v in (self.known_version(item_id), version) if v is not None), default=None)

    @property
    def known(self) -> set[Id]:
        return self.items.keys() | self.tombstones.keys()

    def upsert(self, write: ItemWrite) -> bool:
        if self.is_stale(write.id, write.source_version):
            return False
        self.seq += 1
        old = self.items.get(write.id)
        version = self.newest(write.id, write.source_version)
        self.tombstones.pop(write.id, None)
        kept_hash = old.content_hash if old and write.vector is None else None
        self.items[write.id] = StoredItem(
            id=write.id,
            vector=write.vector if write.vector is not None else (old.vector if old else None),
            active=write.active if write.active is not None else (old.active if old else True),
            metadata=metadata_after(old.metadata if old else None, write),
            source_version=version,
            content_hash=write.content_hash if write.content_hash is not None else kept_hash,
            seq=self.seq,
        )
        return True

    def delete(self, item_id: Id, version: int | None) -> int:
        """1 deleted, 0 nothing to delete, -1 stale."""
        if self.is_stale(item_id, version):
            return -1
        is_known = item_id in self.items
        if is_known or version is not None:
            self.seq += 1
            self.tombstones[item_id] = self.newest(item_id, version)
            self.items.pop(item_id, None)
        return int(is_known)


def metadata_after(stored: Metadata | None, write: ItemWrite) -> Metadata | None:
    if write.metadata is not None:
        return dict(write.metadata)
    if write.merge is None:
        return stored
    put = {**(stored or {}), **write.merge}
    return {key: value for key, value in put.items() if key not in write.merge or value is not None}


def is_too_large(shelf: Shelf, write: ItemWrite) -> bool:
    if shelf.is_stale(write.id, write.source_version):
        return False
    stored = shelf.items.get(write.id)
    after = metadata_after(stored.metadata if stored else None, write)
    return len(metadata_text(after).encode()) > METADATA_BYTES_MAX
