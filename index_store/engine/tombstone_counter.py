"""How many deleted ids a store keeps, counted without holding anybody up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from index_store.storage.store import Store

_PAUSE_S = 60.0
"""Between two counts; each reads one index entry a row."""


class TombstoneCounter:
    """The deleted ids of one store, counted at most once a minute. Safe from any thread."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._count = 0
        self._seq = -1
        self._due_at = 0.0

    def as_of(self, seq: int) -> int:
        """Return the number, counted again if commits came since and the minute is over. Raises
        StoreUnavailable, StoreDamaged."""
        with self._lock:
            now = self._clock()
            if seq != self._seq and (self._seq < 0 or now >= self._due_at):
                with self._store.reading() as connection:
                    (self._count,) = connection.execute(
                        "SELECT COUNT(*) FROM item INDEXED BY item_seq WHERE deleted=1"
                    ).fetchone()
                self._seq, self._due_at = seq, now + _PAUSE_S
            return self._count
