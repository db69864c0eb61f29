"""Row masks of filters, kept between searches: rows never change, so a mask only has to grow."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from index_store.ann.port import Bitmap
from index_store.ann.validation import pack_allowed
from index_store.errors import InvalidFilter
from index_store.filter.columns import ColumnSource
from index_store.filter.compile import Mask, Node, compile_filter, evaluate, keys_of
from index_store.filter.key_paths import KnownKeys
from index_store.types import Filter

MASKS_MAX = 64
_NAME_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter, compiled. name: its canonical JSON, or the digest of a long one. keys: what it looks at."""

    name: str
    node: Node
    keys: tuple[str, ...]


def condition_of(condition: Filter) -> Condition:
    """Raises InvalidFilter."""
    node = compile_filter(condition)
    try:
        name = json.dumps(condition, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidFilter(f"the filter is not JSON: {exc}", "filter") from exc
    if len(name) > _NAME_CHARS_MAX:  # of 100,000 ids, say: kept with each mask it would outweigh them all
        name = hashlib.blake2b(name.encode()).hexdigest()
    return Condition(name, node, tuple(dict.fromkeys(keys_of(node))))


class FilterMasks:
    """The masks of the last `masks_max` filters used, over rows that grow. Safe from any thread."""

    def __init__(self, columns: ColumnSource, masks_max: int = MASKS_MAX) -> None:
        self._columns = columns
        self._masks_max = masks_max
        self._lock = threading.Lock()
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self.known_keys = KnownKeys(columns)
        self.hits = 0
        self.misses = 0

    def mask(self, condition: Condition, count: int) -> Mask:
        """(count,) bool, read-only."""
        name = condition.name
        with self._lock:
            known = self._masks.get(name)
            if known is not None:
                self._masks.move_to_end(name)
                self.hits += 1
            else:
                self.misses += 1
        have = 0 if known is None else len(known)
        if known is not None and have >= count:
            return known[:count]
        more = evaluate(condition.node, self._columns, have, count)
        mask = more if known is None else np.concatenate([known, more])
        with self._lock:
            newest = self._masks.get(name)
            if newest is None or len(newest) < len(mask):
                self._masks[name] = mask
            while len(self._masks) > self._masks_max:
                self._masks.popitem(last=False)
        return mask


class SealedMasks:
    """The bitmaps of the last `masks_max` filters used, over rows that never change. Any thread."""

    def __init__(self, columns: ColumnSource, rows: int, masks_max: int = MASKS_MAX) -> None:
        self._columns = columns
        self._rows = rows
        self._masks_max = masks_max
        self._lock = threading.Lock()
        self._bitmaps: OrderedDict[str, Bitmap] = OrderedDict()
        self.known_keys = KnownKeys(columns)
        self.hits = 0
        self.misses = 0

    def bitmap(self, condition: Condition) -> Bitmap:
        """One bit a row, read-only."""
        with self._lock:
            known = self._bitmaps.get(condition.name)
            if known is not None:
                self._bitmaps.move_to_end(condition.name)
                self.hits += 1
                return known
            self.misses += 1
        made = pack_allowed(evaluate(condition.node, self._columns, 0, self._rows))
        with self._lock:
            self._bitmaps[condition.name] = made
            while len(self._bitmaps) > self._masks_max:
                self._bitmaps.popitem(last=False)
        return made
