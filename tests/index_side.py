"""The service's side of the feeder without HTTP: the real index in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from feeder.applying import Applied
from feeder.changes import Changes
from feeder.errors import ServiceDown
from index_store.embedded.engine import EmbeddedIndex
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from vector_client.types import CollectionState, Digest, DigestRow


class IndexStore:
    """Fits feeder.reconcile.Store. is_down: refuses writes, as a service that cannot be reached."""

    def __init__(self, index: EmbeddedIndex, name: str) -> None:
        self.index = index
        self._name = name
        self.writes = 0
        self.is_down = False

    def state(self) -> CollectionState:
        current = self.index.status(self._name).current
        assert current is not None
        return CollectionState(self._name, current.embedding_version, current.seq, current.cursors)

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> Applied:
        if self.is_down:
            raise ServiceDown("down, for a test")
        items = [
            ItemWrite(
                item.id,
                np.frombuffer(item.vector, dtype="<f4") if isinstance(item.vector, bytes) else None,
                item.active,
                item.metadata,
                item.source_version,
            )
            for item in changes.items
        ]
        deletes = [ItemDelete(item_id, changes.delete_version) for item_id in changes.delete_ids]
        self.writes += len(items) + len(deletes)
        batch = WriteBatch(items, deletes, changes.embedding_version, cursors)
        ack = self.index.write(self._name, batch)
        return Applied(ack.upserted, ack.deleted, ack.stale_ignored, (), ack.seq)

    def digest(self) -> Digest:
        found = self.index.digest(self._name)
        return Digest(found.root, [int(each) for each in found.buckets], found.items, found.seq)

    def digest_rows(self, bucket: int) -> Sequence[DigestRow]:
        rows = self.index.digest_rows(self._name, bucket)
        return [DigestRow(row.id, row.sum, row.active, row.has_vector) for row in rows]
