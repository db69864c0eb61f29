"""Row masks of filters, kept between searches: rows never change, so a mask only has to grow."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict

import numpy as np

from index_store.embedded.columns import MetadataColumns
from index_store.embedded.filters import Mask, compile_filter, evaluate
from index_store.errors import InvalidFilter
from index_store.types import Filter

MASKS_MAX = 64


class FilterMasks:
    """The last `masks_max` filters used, by their canonical JSON. Safe from any thread."""

    def __init__(self, columns: MetadataColumns, masks_max: int = MASKS_MAX) -> None:
        self._columns = columns
        self._masks_max = masks_max
        self._lock = threading.Lock()
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def mask(self, condition: Filter, count: int) -> Mask:
        """(count,) bool, read-only. Raises InvalidFilter."""
        node = compile_filter(condition)
        name = _name(condition)
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
        more = evaluate(node, self._columns, have, count)
        mask = more if known is None else np.concatenate([known, more])
        with self._lock:
            newest = self._masks.get(name)
            if newest is None or len(newest) < len(mask):
                self._masks[name] = mask
            while len(self._masks) > self._masks_max:
                self._masks.popitem(last=False)
        return mask


def _name(condition: Filter) -> str:
    try:
        return json.dumps(condition, sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidFilter(f"the filter is not JSON: {exc}", "filter") from exc
