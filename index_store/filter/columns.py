"""Metadata by key: each value is a small number, each number's value is kept once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from index_store.filter.growable import GrowableColumn

MISSING = -1
_PLAIN = (str, int, float, bool, type(None))


class ValueCodes(Protocol):
    """The code of each row's value, or MISSING."""

    def between(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Rows start..stop."""


class ValueColumn(Protocol):
    """One key of all rows."""

    @property
    def codes(self) -> ValueCodes:
        """The code of each row's value."""

    @property
    def values(self) -> Sequence[Any]:
        """The distinct values; a code is a position in them."""


class KeyColumns(Protocol):
    """What conditions are evaluated over."""

    def column(self, key: str) -> ValueColumn | None:
        """None where no row has the key."""


class ColumnSource(KeyColumns, Protocol):
    """The columns of all rows."""

    def used_keys(self, mask: npt.NDArray[np.bool_]) -> dict[str, KeyCount]:
        """Return the top-level keys that rows of the mask have, the most common ones at least."""


class PickedColumns:
    """Some rows of other columns, in their own order. Fits `KeyColumns`."""

    def __init__(self, columns: KeyColumns, rows: npt.NDArray[np.int64]) -> None:
        self._columns = columns
        self._rows = rows
        self._stop = int(rows.max(initial=-1)) + 1

    def column(self, key: str) -> PickedColumn | None:
        """Return the column of a top-level key; None where no row has the key."""
        found = self._columns.column(key)
        return (
            None
            if found is None
            else PickedColumn(found.codes.between(0, self._stop)[self._rows], found.values)
        )


class PickedColumn:
    """Fits `ValueColumn` and is its own `codes`."""

    def __init__(self, codes: npt.NDArray[np.int32], values: Sequence[Any]) -> None:
        self._codes = codes
        self.values = values

    @property
    def codes(self) -> PickedColumn:
        """The column itself."""
        return self

    def between(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the codes of rows start..stop: (stop - start,) int32."""
        return self._codes[start:stop]


class KeyCount(NamedTuple):
    """items: rows that have a key. distinct: how many values they have there, lists and objects as one."""

    items: int
    distinct: int


def used_keys(
    columns: Iterable[tuple[str, npt.NDArray[np.int32]]], mask: npt.NDArray[np.bool_]
) -> dict[str, KeyCount]:
    """Return the keys that any row of the mask has. columns: (key, codes), one at a time in memory; rows
    beyond their codes do not have the key. mask: (rows,)."""
    found = {}
    for key, codes in columns:
        counts = counts_by_code(codes[: len(mask)], mask[: len(codes)])
        if len(counts):
            found[key] = KeyCount(int(counts.sum()), int(np.count_nonzero(counts)))
    return found


def counts_by_code(codes: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return how many rows of the mask have each code; empty where none has one. codes, mask: (rows,)."""
    used = codes[mask]
    counts: npt.NDArray[np.int64] = np.bincount(used[used != MISSING])
    return counts


class MetadataColumn:
    """`codes[row]` is the index of the row's value in `values`, or MISSING. Both only grow."""

    def __init__(self) -> None:
        self.codes = GrowableColumn(np.int32(MISSING))
        self.values: list[Any] = []
        self._codes_by_value: dict[tuple[type, Any], int] = {}

    def code(self, value: Any) -> int:
        """Return the code of `value`; a value not seen before gets the next one."""
        # By type too: 1, true and 1.0 are equal to Python and different values here.
        name = (type(value), value if isinstance(value, _PLAIN) else json.dumps(value, sort_keys=True))
        code = self._codes_by_value.get(name)
        if code is None:
            code = self._codes_by_value[name] = len(self.values)
            self.values.append(value)
        return code


class MetadataColumns:
    """The top-level keys of all rows' metadata. One thread appends, any thread reads published rows."""

    def __init__(self) -> None:
        self._columns: dict[str, MetadataColumn] = {}

    def column(self, key: str) -> MetadataColumn | None:
        """Return the column of a top-level key; None where no row has the key."""
        return self._columns.get(key)

    def used_keys(self, mask: npt.NDArray[np.bool_]) -> dict[str, KeyCount]:
        """See `used_keys` of this file. mask: over the first rows."""
        columns = list(self._columns.items())
        return used_keys(((key, column.codes.data) for key, column in columns), mask)

    def add_texts(self, start: int, texts: Sequence[str | None], only_keys: Set[str] | None = None) -> None:
        """Rows start.. have these metadata (JSON objects). only_keys: no other ones are looked at."""
        found: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        rows_with_text = [row for row, text in enumerate(texts) if text is not None]
        # All at once: one call a text takes four times as long.
        objects = json.loads("[" + ",".join(text for text in texts if text is not None) + "]")
        for position, metadata in zip(rows_with_text, objects, strict=True):
            for key, value in metadata.items():
                if only_keys is not None and key not in only_keys:
                    continue
                column = self._columns.get(key)
                if column is None:
                    column = self._columns[key] = MetadataColumn()
                positions, codes = found[key]
                positions.append(position)
                codes.append(column.code(value))
        for key, (positions, codes) in found.items():
            row_codes = np.full(positions[-1] + 1, MISSING, dtype=np.int32)
            row_codes[positions] = codes
            self._columns[key].codes.put(start, row_codes)
