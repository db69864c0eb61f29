"""Row masks of filters, kept between searches: rows never change, so a mask only has to grow."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from index_store.ann.port import Bitmap
from index_store.ann.validation import pack_allowed
from index_store.errors import InvalidFilter
from index_store.filter.columns import ColumnSource
from index_store.filter.compile import FilterNode, Mask, compile_filter, evaluate, keys_of
from index_store.filter.key_paths import KnownKeys
from index_store.lru import LruCache
from index_store.types import Filter

MASKS_MAX = 64
_NAME_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """A filter, compiled. name: its canonical JSON, or the digest of a long one. keys: what it looks at."""

    name: str
    node: FilterNode
    keys: tuple[str, ...]


def compiled_filter(condition: Filter) -> CompiledFilter:
    """Raises InvalidFilter."""
    node = compile_filter(condition)
    try:
        name = json.dumps(condition, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidFilter(f"the filter is not JSON: {exc}", "filter") from exc
    if len(name) > _NAME_CHARS_MAX:  # of 100,000 ids, say: kept with each mask it would outweigh them all
        name = hashlib.blake2b(name.encode()).hexdigest()
    return CompiledFilter(name, node, tuple(dict.fromkeys(keys_of(node))))


class FilterMasks:
    """The masks of the filters used last, over rows that grow. Safe from any thread."""

    def __init__(self, columns: ColumnSource, masks_max: int = MASKS_MAX) -> None:
        """masks_max: of how many filters; a mask is a byte a row."""
        self._columns = columns
        self._cache: LruCache[str, Mask] = LruCache(masks_max)
        self.known_keys = KnownKeys(columns)

    def mask(self, condition: CompiledFilter, count: int) -> Mask:
        """(count,) bool, read-only: which of the first `count` rows pass. What is known of the rows before is
        kept; only the rows since are looked at."""
        known = self._cache.find(condition.name)
        have = 0 if known is None else len(known)
        if known is not None and have >= count:
            return known[:count]
        more = evaluate(condition.node, self._columns, have, count)
        mask = more if known is None else np.concatenate([known, more])
        self._cache.keep(condition.name, mask)
        return mask


class FilterBitmaps:
    """The bitmaps of the filters used last, over rows that never change. Safe from any thread."""

    def __init__(self, columns: ColumnSource, rows: int, masks_max: int = MASKS_MAX) -> None:
        """masks_max: of how many filters; a bitmap is a bit a row."""
        self._columns = columns
        self._rows = rows
        self._cache: LruCache[str, Bitmap] = LruCache(masks_max)
        self.known_keys = KnownKeys(columns)

    def bitmap(self, condition: CompiledFilter) -> Bitmap:
        """One bit a row, read-only: which rows pass."""
        known = self._cache.find(condition.name)
        if known is not None:
            return known
        made = pack_allowed(evaluate(condition.node, self._columns, 0, self._rows))
        self._cache.keep(condition.name, made)
        return made
