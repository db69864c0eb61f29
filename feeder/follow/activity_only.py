"""Following without vectors: while the service serves an embedding_version that the source's vectors are not
proven to be of, what was taken off sale must still vanish.

Activity and deletes hold in every vector space, so they are written without a vector, and the service gives
them to all generations. What an item's vector is stays as it is: it is not ours to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from feeder.changes import ACTIVE, UNKNOWN, Changes
from feeder.compare.writes import batches
from feeder.digest import BUCKETS
from feeder.read.content_reader import shown
from feeder.sink.brake import Brake, Store
from feeder.sources.port import ItemSource
from vector_client.types import DigestRow, Id, Item

log = logging.getLogger(__name__)


class ActivityFollower:
    """Brings who is active and who is gone. For one thread. forget: makes the next whole start compare
    everything, since vectors that change meanwhile are not looked at."""

    def __init__(
        self,
        collection: str,
        items: ItemSource,
        store: Store,
        brake: Brake,
        *,
        batch_items: int,
        forget: Callable[[], object],
    ) -> None:
        self._collection = collection
        self._items = items
        self._store = store
        self._brake = brake
        self._batch_items = batch_items
        self._forget = forget

    def open(self) -> None:
        """Connect to the items table. Raises SourceDown, SettingsWrong."""
        self._forget()
        self._items.open()

    def close(self) -> None:
        """Let the connection go."""
        self._items.close()

    def write_activity(self, ids: Sequence[Id], stamp: int, cursors: Mapping[str, str]) -> None:
        """Say what holds for these ids. stamp: a source_version taken before this is called."""
        found = {item_id: shown(rows) for item_id, rows in self._items.fetch(ids).items()}
        items = [Item(i, active=row.active, source_version=stamp) for i, row in found.items()]
        gone = [item_id for item_id in ids if item_id not in found]
        self._store.apply(Changes(items, gone, delete_version=stamp), cursors)

    def repair_activity(self, next_source_version: Callable[[], int]) -> int:
        """Make activity equal everywhere; return how many items were wrong. Raises BrakeOn before anything
        is written."""
        directory = self._items.directory()
        index_rows = self._held()
        states = directory.states([row.id for row in index_rows])
        wrong = [row for row, state in zip(index_rows, states.tolist(), strict=True) if _differs(row, state)]
        shown_now = sum(row.active and row.has_vector for row in wrong)
        self._brake.check(vanishing=shown_now, held=len(index_rows), in_source=directory.count)
        for some in batches([row.id for row in wrong], self._batch_items):
            self.write_activity(some, next_source_version(), {})
        log.info("activity_compared", extra={"collection": self._collection, "mended": len(wrong)})
        return len(wrong)

    def _held(self) -> Sequence[DigestRow]:
        """Everything: where we hold nothing, all that the index holds differs."""
        return self._store.differing(np.zeros(BUCKETS, dtype=np.uint64)).rows


def _differs(row: DigestRow, state: int) -> bool:
    return state == UNKNOWN or row.active != (state == ACTIVE)
