"""One row of the store: its fields, its checksum, and what a write makes of it. Pure, no I/O."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, replace

import numpy as np

from index_store.record.digest import ShareHasher, id_bytes
from index_store.types import Id, ItemDelete, ItemWrite, Metadata, StoredItem
from item_rules.metadata import metadata_text

_HEAD = struct.Struct("<qB?qQiii")
_NO_VERSION = 0


@dataclass(frozen=True, slots=True)
class Row:
    """What the store holds of one id. A tombstone keeps id, seq and source_version only.

    share: the unsigned 64 bits this row adds to its digest bucket; 0 for a tombstone.
    """

    id: Id
    seq: int
    deleted: bool
    active: bool
    source_version: int | None
    content_hash: bytes | None
    metadata: str | None
    share: int
    vector: bytes | None

    @property
    def is_awaiting(self) -> bool:
        """Whether it is made of a content and no vector was made of that yet."""
        return not self.deleted and self.vector is None and self.content_hash is not None

    @property
    def is_live(self) -> bool:
        """Whether searches return it: active, not deleted, and with a vector."""
        return self.active and not self.deleted and self.vector is not None

    def checksum(self) -> int:
        """CRC-32 over every field: SQLite has no page checksum, and its integrity_check sees no flipped
        payload byte."""
        version = self.source_version
        head = _HEAD.pack(
            self.seq,
            self.deleted | self.active << 1,
            version is not None,
            _NO_VERSION if version is None else version,
            self.share,
            -1 if self.content_hash is None else len(self.content_hash),
            -1 if self.metadata is None else len(self.metadata),
            -1 if self.vector is None else len(self.vector),
        )
        small = head + id_bytes(self.id) + (self.content_hash or b"") + (self.metadata or "").encode()
        return zlib.crc32(self.vector or b"", zlib.crc32(small))

    def as_item(self) -> StoredItem:
        """Return the row as callers of the port see it."""
        vector = None if self.vector is None else np.frombuffer(self.vector, dtype="<f4")
        metadata = None if self.metadata is None else json.loads(self.metadata)
        return StoredItem(
            id=self.id,
            vector=vector,
            active=self.active,
            metadata=metadata,
            source_version=self.source_version,
            content_hash=self.content_hash,
            seq=self.seq,
        )


def is_stale(stored: Row | None, source_version: int | None) -> bool:
    """A write older than what is stored changes nothing. Equal applies again on a known row (a repeat is
    harmless) and not on a tombstone (what was deleted at that version stays deleted)."""
    if stored is None or stored.source_version is None or source_version is None:
        return False
    if stored.deleted:
        return source_version <= stored.source_version
    return source_version < stored.source_version


def written(stored: Row | None, write: ItemWrite, seq: int, hasher: ShareHasher) -> Row:
    """The row after `write`. `None` fields keep what is stored; a new vector replaces the stored
    content_hash too, which belonged to the old one."""
    kept = stored if stored is not None and not stored.deleted else None
    vector = kept.vector if kept else None
    content_hash = write.content_hash
    if write.drops_vector and not _has_its_own_content(kept, write):
        vector = None
    elif write.vector is not None:
        vector = write.vector.astype("<f4", copy=False).tobytes()
    elif content_hash is None and kept:
        content_hash = kept.content_hash
    active = write.active if write.active is not None else (kept.active if kept else True)
    metadata = kept.metadata if kept else None
    if write.metadata is not None:
        metadata = metadata_text(write.metadata)
    elif write.merge is not None:
        metadata = merged_text(metadata, write.merge)
    return Row(
        id=write.id,
        seq=seq,
        deleted=False,
        active=active,
        source_version=_newest(stored, write.source_version),
        content_hash=content_hash,
        metadata=metadata,
        share=hasher.share(write.id, active, vector, content_hash),
        vector=vector,
    )


def merged_text(stored: str | None, merge: Metadata) -> str:
    """Return metadata with the keys of `merge` put over them, less those that are None there."""
    known = {} if stored is None else json.loads(stored)
    kept = {key: value for key, value in known.items() if key not in merge}
    return metadata_text(kept | {key: value for key, value in merge.items() if value is not None})


def _has_its_own_content(kept: Row | None, write: ItemWrite) -> bool:
    """Whether what is stored came with the very fact that `write` tells, made of a content of its own."""
    return (
        kept is not None
        and write.content_hash is None
        and write.source_version is not None
        and kept.source_version == write.source_version
    )


def tombstone(stored: Row | None, delete: ItemDelete, seq: int) -> Row:
    """Return the row after `delete`: its id, the newest source_version known, and no content."""
    return Row(
        id=delete.id,
        seq=seq,
        deleted=True,
        active=False,
        source_version=_newest(stored, delete.source_version),
        content_hash=None,
        metadata=None,
        share=0,
        vector=None,
    )


def without_content(damaged: Row) -> Row:
    """What stays of a row whose checksum failed: that the id was known, and nothing that could be served.
    Inactive until a write says otherwise, because a deactivated id must never come back by bit rot."""
    return replace(
        damaged,
        deleted=False,
        active=False,
        source_version=None,
        content_hash=None,
        metadata=None,
        vector=None,
    )


def _newest(stored: Row | None, source_version: int | None) -> int | None:
    known = None if stored is None else stored.source_version
    if known is None or source_version is None:
        return source_version if known is None else known
    return max(known, source_version)
