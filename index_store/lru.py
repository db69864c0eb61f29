"""The one bounded cache: the least recently used entry goes first, hits and misses are counted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class LruCache(Generic[_Key, _Value]):
    """The last values used. Safe from any thread; values are made outside of its lock, so two threads that
    miss at once both make one, and the later stays."""

    def __init__(self, weight_max: int) -> None:
        """weight_max: of all entries together; how many there may be, where each weighs 1."""
        self._weight_max = weight_max
        self._weight = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, tuple[_Value, int]] = OrderedDict()
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
            return known[0]

    def keep(self, key: _Key, value: _Value, weight: int = 1) -> int:
        """Put a value in, in place of the one under the same key; what was used longest ago makes room.
        One that is too heavy by itself is not kept. Return how many other entries made room."""
        with self._lock:
            if (former := self._entries.pop(key, None)) is not None:
                self._weight -= former[1]
            if weight > self._weight_max:
                return 0
            self._entries[key] = (value, weight)
            self._weight += weight
            evicted = 0
            while self._weight > self._weight_max:
                self._weight -= self._entries.popitem(last=False)[1][1]
                evicted += 1
        return evicted
