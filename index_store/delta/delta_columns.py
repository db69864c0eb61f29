"""Metadata of a delta by key, within bounds: the first keys have columns, others are read out of the texts.

Each column takes four bytes a row and 200 for each distinct value, whatever it holds: 60,000 keys over 6,000
rows took 824 MB. Answers do not depend on which keys have a column.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from index_store.filter.columns import (
    TEXTS_AT_ONCE,
    KeyCount,
    MetadataColumn,
    fill_from_texts,
    objects_of,
    put_codes,
    used_keys,
)
from index_store.lru import LruCache

COLUMNS_MAX = 256
"""As many as a segment has."""
VALUES_BYTES_MAX = 64 << 20
"""Of all columns: the one with the most gives way."""
COUNTED_KEYS_MAX = 16_384
_MADE_BYTES_MAX = 32 << 20
_TOLD_KEYS = 64
"""Keys without a column that are told, of the most common ones."""


class DeltaColumns:
    """Fits `filter.columns.ColumnSource`. One thread appends, any thread reads published rows."""

    def __init__(
        self,
        texts: Callable[[int, int], Sequence[str | None]],
        *,
        columns_max: int = COLUMNS_MAX,
        values_bytes_max: int = VALUES_BYTES_MAX,
        counted_keys_max: int = COUNTED_KEYS_MAX,
    ) -> None:
        """texts: gives the metadata (JSON) of rows start to stop. counted_keys_max: of keys without a column,
        how many are known to be there."""
        self._texts = texts
        self._columns_max = columns_max
        self._values_bytes_max = values_bytes_max
        self._counted_keys_max = counted_keys_max
        self._rows = 0
        self._columns: dict[str, MetadataColumn] = {}
        self._counts: dict[str, int] = {}
        self._is_complete = True
        """Whether each key has a column or a count."""
        self._making = threading.Lock()
        self._made: LruCache[str, tuple[MetadataColumn, int]] = LruCache(_MADE_BYTES_MAX)

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return self._rows

    def column(self, key: str) -> MetadataColumn | None:
        """Return the column of a top-level key; None where no row has the key. For a key without one the
        texts of all rows are read, later of those since."""
        column = self._columns.get(key)
        if column is not None:
            return column
        if key not in self._counts and self._is_complete:
            return None
        with self._making:
            column, done = self._made.find(key) or (MetadataColumn(), 0)
            stop = self._rows
            fill_from_texts(column, key, done, stop, self._texts)
            # However heavy, the one used last stays: the next search may ask for it again.
            self._made.keep(key, (column, stop), min(column.bytes, _MADE_BYTES_MAX))
        return column if len(column.values) else None

    def used_keys(self, mask: npt.NDArray[np.bool_]) -> dict[str, KeyCount]:
        """See ColumnSource. mask: over the first rows."""
        counts = dict(self._counts)  # before the columns: of those that give way, none is missed
        columns = list(self._columns.items())
        found = used_keys(((key, column.codes.data) for key, column in columns), mask)
        for key in heapq.nsmallest(_TOLD_KEYS, counts, key=lambda key: (-counts[key], key)):
            column = self.column(key)
            if column is not None:
                found |= used_keys([(key, column.codes.data)], mask)
        return found

    def append_texts(self, texts: Sequence[str | None]) -> None:
        """The next rows have these metadata (JSON objects)."""
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            self._add_some(texts[start : start + TEXTS_AT_ONCE])

    def _add_some(self, texts: Sequence[str | None]) -> None:
        found: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for position, metadata in objects_of(texts):
            for key, value in metadata.items():
                column = self._columns.get(key) or self._new_column(key)
                if column is not None:
                    positions, codes = found[key]
                    positions.append(position)
                    codes.append(column.code(value))
        for key, (positions, codes) in found.items():
            put_codes(self._columns[key], self._rows, positions, codes)
        self._drop_heavy_columns()
        if len(self._counts) > self._counted_keys_max:
            self._forget_rare_keys()
        self._rows += len(texts)

    def _new_column(self, key: str) -> MetadataColumn | None:
        """A column for a key that no row had before, while there is room; else count the key."""
        if self._is_complete and key not in self._counts and len(self._columns) < self._columns_max:
            column = self._columns[key] = MetadataColumn()
            return column
        self._counts[key] = self._counts.get(key, 0) + 1
        return None

    def _drop_heavy_columns(self) -> None:
        weights = {key: column.values_bytes for key, column in self._columns.items()}
        while sum(weights.values()) > self._values_bytes_max:
            key = max(weights, key=lambda key: weights[key])
            del weights[key]
            # Counted before the column goes, so that no reader finds neither.
            self._counts[key] = int(np.count_nonzero(self._columns[key].codes.data >= 0))
            del self._columns[key]

    def _forget_rare_keys(self) -> None:
        """Keep the more common half of the counts."""
        self._is_complete = False  # before they go, so that a reader looks for a key that it misses
        common = heapq.nlargest(self._counted_keys_max // 2, self._counts.items(), key=lambda pair: pair[1])
        self._counts = dict(common)
