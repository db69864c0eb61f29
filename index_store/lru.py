"""The one bounded cache: the least recently used entry goes first, hits and misses are counted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class LruCache(Generic[_Key, _Value]):
    """The last `entries_max` values used. Safe from any thread; values are made outside of its lock, so two
    threads that miss at once both make one, and the later stays."""

    def __init__(self, entries_max: int) -> None:
        """entries_max: how many are kept, at least one."""
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, _Value] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def find(self, key: _Key) -> _Value | None:
        """Return the value kept under `key`, and mark it as used; None where there is none."""
        with self._lock:
            known = self._entries.get(key)
            if known is None:
                self.misses += 1
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return known

    def keep(self, key: _Key, value: _Value) -> int:
        """Put a value in, in place of the one under the same key; what was used longest ago makes room.
        Return how many entries did."""
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            evicted = max(0, len(self._entries) - self._entries_max)
            for _ in range(evicted):
                self._entries.popitem(last=False)
        return evicted
