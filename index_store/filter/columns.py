"""Metadata by key: each value is a small number, each number's value is kept once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Set
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
import numpy.typing as npt

from index_store.filter.growable import GrowableColumn
from item_rules.metadata import metadata_text
from item_rules.moments import seconds_of

MISSING = -1
TEXTS_AT_ONCE = 1024
"""Of metadata that are parsed."""
VALUE_BYTES = 200
"""About what a distinct value takes, beside the characters of a text."""
_PLAIN = frozenset((str, int, float, bool, type(None)))


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
    def values(self) -> ColumnValues:
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

    def column(self, key: str) -> FixedColumn | None:
        """Return the column of a top-level key; None where no row has the key."""
        found = self._columns.column(key)
        if found is None:
            return None
        return FixedColumn(found.codes.between(0, self._stop)[self._rows], found.values)


class FixedColumn:
    """Of rows that never change. Fits `ValueColumn` and is its own `codes`."""

    def __init__(self, codes: npt.NDArray[np.int32], values: ColumnValues) -> None:
        self._codes = codes
        self.values = values

    @property
    def codes(self) -> FixedColumn:
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


class JsonText(str):
    """JSON of a list or an object: as Python's objects it would take ten times as much memory and more."""

    __slots__ = ()


class ColumnValues(Sequence[Any]):
    """Distinct values; lists and objects are kept as their JSON, and made when they are looked at."""

    def __init__(self, held: list[Any]) -> None:
        """held: `JsonText` in place of lists and objects; grows by the owner's hand."""
        self._held = held
        self._numbers: npt.NDArray[np.float64] = np.full(1, np.nan)
        self._moments: npt.NDArray[np.float64] = np.full(1, np.nan)
        self.names: dict[int, Hashable] = {}
        """What whoever groups by the values calls some of them, by code: found out once for each."""

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [_made(each) for each in self._held[place]]
        return _made(self._held[place])

    def numbers(self) -> npt.NDArray[np.float64]:
        """Return (values + 1 or more,) float64 by code: NaN for what is no number, and as the last one, which
        MISSING picks. Made once for each value (0.1 us)."""
        known = self._numbers
        count = len(self._held)
        if len(known) <= count:
            fresh = numbers_of(self._held[len(known) - 1 : count])
            known = self._numbers = np.concatenate([known[:-1], fresh, known[-1:]])
        return known

    def seconds_of_codes(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Return `seconds_of` the value of each code, NaN for MISSING. Only codes that occur are looked at,
        each once (1 us)."""
        known = self._moments
        count = len(self._held)
        if len(known) <= count:
            grown = np.full(count + 1, np.inf)
            grown[: len(known) - 1], grown[-1] = known[:-1], np.nan
            known = self._moments = grown
        found = known[codes]
        fresh = codes[np.isinf(found)]
        if not len(fresh):
            return found
        some = np.unique(fresh)
        known[some] = list(map(seconds_of, self.of_codes(some.tolist())))
        return known[codes]

    def of_codes(self, codes: Sequence[int]) -> list[Any]:
        """Return the value of each code, None for MISSING."""
        held = self._held
        some = [None if code == MISSING else held[code] for code in codes]
        return [json.loads(each) if type(each) is JsonText else each for each in some]

    def json_texts(self) -> Iterator[str]:
        """Yield the JSON of each value."""
        for each in self._held:
            yield each if type(each) is JsonText else json.dumps(each, ensure_ascii=False)


def numbers_of(values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """Return (values,) float64, NaN for what is no number, or has hundreds of digits."""
    plain = [value if type(value) is float or type(value) is int else np.nan for value in values]
    try:
        return np.array(plain, np.float64)
    except OverflowError:
        return np.array([_finite(value) for value in plain], np.float64)


def _finite(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _made(held: Any) -> Any:
    return json.loads(held) if type(held) is JsonText else held


class MetadataColumn:
    """`codes[row]` is the index of the row's value in `values`, or MISSING. Both only grow."""

    def __init__(self) -> None:
        self.codes = GrowableColumn(np.int32(MISSING))
        self._held: list[Any] = []
        self.values = ColumnValues(self._held)
        self.values_bytes = 0
        """About what the values take in memory."""
        self._codes_by_value: dict[tuple[type, Any], int] = {}

    @property
    def bytes(self) -> int:
        """About what the column takes in memory."""
        return self.values_bytes + self.codes.data.nbytes

    def code(self, value: Any) -> int:
        """Return the code of `value`; a value not seen before gets the next one."""
        kind = type(value)
        if kind not in _PLAIN:
            kind, value = JsonText, JsonText(json.dumps(value, sort_keys=True, ensure_ascii=False))
        # By type too: 1, true and 1.0 are equal to Python and different values here.
        name = (kind, value)
        code = self._codes_by_value.get(name)
        if code is None:
            code = self._codes_by_value[name] = len(self._held)
            self._held.append(value)
            self.values_bytes += VALUE_BYTES + (len(value) if isinstance(value, str) else 0)
        return code


class MetadataColumns:
    """Some top-level keys of a few rows' metadata. Fits `KeyColumns`."""

    def __init__(self) -> None:
        self._columns: dict[str, MetadataColumn] = {}

    def column(self, key: str) -> MetadataColumn | None:
        """Return the column of a top-level key; None where no row has the key."""
        return self._columns.get(key)

    def add_texts(self, start: int, texts: Sequence[str | None], only_keys: Set[str]) -> None:
        """Rows start.. have these metadata (JSON objects). only_keys: no other ones are looked at."""
        found: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for position, metadata in objects_of(texts):
            for key, value in metadata.items():
                if key not in only_keys:
                    continue
                column = self._columns.get(key)
                if column is None:
                    column = self._columns[key] = MetadataColumn()
                positions, codes = found[key]
                positions.append(position)
                codes.append(column.code(value))
        for key, (positions, codes) in found.items():
            put_codes(self._columns[key], start, positions, codes)


def objects_of(texts: Sequence[str | None]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the place of each text that there is, and the object that it holds."""
    places = [place for place, text in enumerate(texts) if text is not None]
    # All at once: one call a text takes four times as long.
    objects = json.loads("[" + ",".join(text for text in texts if text is not None) + "]")
    return zip(places, objects, strict=True)


def put_codes(column: MetadataColumn, start: int, positions: Sequence[int], codes: Sequence[int]) -> None:
    """Give the rows at these positions behind `start` their codes. positions: ascending, at least one."""
    row_codes = np.full(positions[-1] + 1, MISSING, dtype=np.int32)
    row_codes[positions] = codes
    column.codes.put(start, row_codes)


def fill_from_texts(
    column: MetadataColumn,
    key: str,
    start: int,
    stop: int,
    texts: Callable[[int, int], Sequence[str | None]],
) -> None:
    """Look at one key of the metadata of rows start..stop. texts: gives those of some rows; texts without the
    key are not parsed."""
    name = metadata_text(key)  # as it stands in canonical JSON
    for first in range(start, stop, TEXTS_AT_ONCE):
        some = texts(first, min(first + TEXTS_AT_ONCE, stop))
        likely = [text if text is not None and (name in text or "\\u" in text) else None for text in some]
        found = [(place, column.code(each[key])) for place, each in objects_of(likely) if key in each]
        if found:
            put_codes(column, first, [place for place, _ in found], [code for _, code in found])
