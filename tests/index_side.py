"""The service's side of the feeder without HTTP: the real index in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from feeder.changes import Changes
from feeder.digest import Sums
from feeder.errors import ServiceDown
from feeder.sink.writer import WriteResult
from index_store.engine.index import EmbeddedIndex
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from vector_client.types import CollectionState, Differing, Digest, DigestRow, Id, Item, Rejected

BROKEN = b"not a picture"
"""A content that is refused, as a service refuses what it can't decode."""


class IndexStore:
    """Fits feeder.sink.brake.Store. is_down: refuses writes, as a service that cannot be reached. written:
    notified after each write."""

    def __init__(self, index: EmbeddedIndex, name: str) -> None:
        self.index = index
        self._name = name
        self.writes = 0
        self.written = threading.Condition()
        self.is_down = False
        self.embedded: list[Id] = []
        self.listings = 0
        self.listed = 0

    def state(self) -> CollectionState:
        current = self.index.status(self._name).current
        assert current is not None
        return CollectionState(self._name, current.embedding_version, current.seq, current.cursors)

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> WriteResult:
        if self.is_down:
            raise ServiceDown("down, for a test")
        items = [
            ItemWrite(
                item.id,
                self._vector(item),
                item.active,
                item.metadata,
                item.source_version,
                None if _content(item) is None else hashlib.sha256(_content(item) or b"").digest(),
            )
            for item in changes.items
            if _content(item) != BROKEN
        ]
        refused = [
            Rejected(item.id, "invalid_image", "broken") for item in changes.items if _content(item) == BROKEN
        ]
        self.embedded += [item.id for item in changes.items if _content(item) not in (None, BROKEN)]
        deletes = [ItemDelete(item_id, changes.delete_version) for item_id in changes.delete_ids]
        self.writes += len(items) + len(deletes)
        batch = WriteBatch(items, deletes, changes.embedding_version, cursors)
        ack = self.index.write(self._name, batch)
        with self.written:
            self.written.notify_all()
        return WriteResult(
            ack.upserted,
            ack.deleted,
            ack.stale_ignored,
            refused,
            ack.seq,
            ack.vanished,
            ack.reappeared,
            ack.unknown_ids,
        )

    def showing(self, ids: Sequence[Id]) -> int:
        return sum(item is not None and item.is_live for item in self.index.get(self._name, list(ids)))

    def _vector(self, item: Item) -> np.ndarray | None:
        """The vector given, or one made of the content as an embedder would."""
        if isinstance(item.vector, bytes):
            return np.frombuffer(item.vector, dtype="<f4")
        content = _content(item)
        if content is None:
            return None
        dim = self.index.status(self._name).spec.dim
        seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "little")
        return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)

    def digest(self) -> Digest:
        found = self.index.digest(self._name)
        return Digest(found.root, [int(each) for each in found.buckets], found.items, found.seq)

    def differing(self, sums: Sums) -> Differing:
        self.listings += 1
        parts = np.flatnonzero(self.index.digest(self._name, len(sums)).buckets != sums).tolist()
        rows = self.index.digest_rows(self._name, parts, len(sums))
        listed = [DigestRow(row.id, row.sum, row.active, row.has_vector) for row in rows]
        self.listed += len(listed)
        return Differing(parts, listed)


def _content(item: Item) -> bytes | None:
    return item.image if item.image is not None else None if item.text is None else item.text.encode()
