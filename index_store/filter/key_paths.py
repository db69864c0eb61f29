"""Where the value of a filter's key stands in metadata: under the key itself, or in nested objects along it.

The key "nest.x" is looked for as a key of its own first, then as "x" in the object under "nest". Text that is
not ASCII is looked for in each of its encodings (NFC, NFD): metadata is stored as it was sent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from index_store.filter.columns import ColumnSource, KeyColumns, ValueColumn
from index_store.lru import LruCache

_LOCATIONS_KEPT = 1024


class KeyLocation(NamedTuple):
    """The column of a top-level key, and the path from its values on: empty where they are what is looked
    for."""

    head: str
    column: ValueColumn
    path: tuple[str, ...]

    def values_in(self, value: Any) -> list[Any]:
        """Return what stands along the path in one value of the column; a list on the way stands for its
        elements. Empty: the path leads nowhere."""
        return _along(value, self.path)


def locations_of(key: str, columns: KeyColumns) -> list[KeyLocation]:
    """Return where a row can hold the value of `key`; of several, a row's first counts."""
    locations = []
    for head, path in splits(key):
        for spelling in spellings(head):
            column = columns.column(spelling)
            if column is not None:
                locations.append(KeyLocation(spelling, column, path))
    return locations


def heads_of(keys: Iterable[str]) -> frozenset[str]:
    """Return the top-level keys, in each encoding, whose columns `locations_of` looks for."""
    return frozenset(spelling for key in keys for head, _ in splits(key) for spelling in spellings(head))


def composed(value: Any) -> Any:
    """Return a text in NFC, anything else as it is."""
    if isinstance(value, str) and not value.isascii():
        return unicodedata.normalize("NFC", value)
    return value


def splits(key: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Yield the whole key, then each shorter beginning with the steps that follow it."""
    yield key, ()
    if "." in key:
        steps = key.split(".")
        for count in range(len(steps) - 1, 0, -1):
            yield ".".join(steps[:count]), tuple(steps[count:])


def spellings(text: str) -> Sequence[str]:
    """Return the encodings of a key that are looked for, in this order: as given, NFC, NFD."""
    if text.isascii():
        return (text,)
    return tuple(dict.fromkeys((text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")))))


def _along(value: Any, path: tuple[str, ...]) -> list[Any]:
    if not path:
        return [value]
    if isinstance(value, list):
        return [found for element in value for found in _along(element, path)]
    if isinstance(value, dict):
        for spelling in spellings(path[0]):
            if spelling in value:
                return _along(value[spelling], path[1:])
    return []


class KnownKeys:
    """Which filter keys some row has. Columns only grow, so each value is looked at once. Any thread."""

    def __init__(self, columns: ColumnSource) -> None:
        self._columns = columns
        self._found: LruCache[str, bool] = LruCache(_LOCATIONS_KEPT)
        self._searched: LruCache[tuple[str, tuple[str, ...]], int] = LruCache(_LOCATIONS_KEPT)

    def has(self, key: str) -> bool:
        """Return whether a row has, or had, a value under `key`."""
        if self._found.find(key):
            return True  # without a look at its columns, which may have to be read
        is_found = any(self._is_in(location) for location in locations_of(key, self._columns))
        if is_found:
            self._found.keep(key, True)
        return is_found

    def _is_in(self, location: KeyLocation) -> bool:
        """Values without the path are not searched again; where a value was found the next search begins."""
        values = location.column.values
        if not location.path:
            return len(values) > 0
        name = (location.head, location.path)
        start = self._searched.find(name) or 0
        count = len(values)
        found = next((n for n in range(start, count) if location.values_in(values[n])), None)
        self._searched.keep(name, count if found is None else found)
        return found is not None
