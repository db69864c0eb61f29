"""The metadata of a sealed segment in mapped files: the text of each row, and its keys as columns.

    metadata.utf8, metadata_offsets.npy    canonical JSON by row; nothing where a row has none
    columns.npy                            (keys, rows) int32: index of the value, -1 where there is none
    columns.json, column_values.utf8       the keys, and where each one's list of values stands (JSON)

Keys beyond the most common `COLUMNS_MAX` have no column; one is made of the texts when a filter asks.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store import hints
from index_store.errors import StoreDamaged
from index_store.filter.columns import (
    MISSING,
    VALUE_BYTES,
    ColumnValues,
    FixedColumn,
    JsonText,
    KeyCount,
    MetadataColumn,
    ValueColumn,
    fill_from_texts,
    used_keys,
)
from index_store.lru import LruCache
from index_store.segment.ids import Rows

COLUMNS_MAX = 256
COLUMNS_BYTES_MAX = 64 << 20
"""What the values of the columns used last may take in memory; of heavier ones the last."""

_TEXTS = "metadata.utf8"
_OFFSETS = "metadata_offsets.npy"
_CODES = "columns.npy"
_KEYS = "columns.json"
_VALUES = "column_values.utf8"


def write_metadata(directory: Path, texts: Sequence[str | None], columns_max: int = COLUMNS_MAX) -> None:
    """Write the files. texts: by row, JSON objects. Raises OSError."""
    encoded = [(text or "").encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    np.save(directory / _OFFSETS, offsets)
    (directory / _TEXTS).write_bytes(b"".join(encoded))
    counts = Counter(key for text in texts if text for key in json.loads(text))
    keys = [key for key, _ in counts.most_common(columns_max)]
    codes = np.full((len(keys), len(texts)), MISSING, np.int32)
    columns = _fill(codes, keys, texts)
    positions = []
    with (directory / _VALUES).open("wb") as file:
        for key, column in zip(keys, columns, strict=True):
            start = file.tell()
            file.write(f"[{','.join(column.values.json_texts())}]".encode())
            positions.append({"key": key, "start": start, "stop": file.tell()})
    np.save(directory / _CODES, codes)
    (directory / _KEYS).write_text(
        json.dumps({"columns": positions, "is_complete": len(keys) == len(counts)})
    )


def _fill(
    codes: npt.NDArray[np.int32], keys: Sequence[str], texts: Sequence[str | None]
) -> list[MetadataColumn]:
    columns = [MetadataColumn() for _ in keys]
    positions = {key: position for position, key in enumerate(keys)}
    for row, text in enumerate(texts):
        for key, value in json.loads(text).items() if text else ():
            position = positions.get(key)
            if position is not None:
                codes[position, row] = columns[position].code(value)
    return columns


class SealedMetadata:
    """Fits `columns.ColumnSource`. Safe from any thread."""

    def __init__(
        self,
        texts: npt.NDArray[np.uint8],
        offsets: Rows,
        codes: npt.NDArray[np.int32],
        values: npt.NDArray[np.uint8],
        keys: Sequence[dict[str, Any]],
        is_complete: bool,
    ) -> None:
        self._texts = texts
        self._offsets = offsets
        self._codes = codes
        self._values = values
        self._keys = {str(one["key"]): (position, one) for position, one in enumerate(keys)}
        self._is_complete = is_complete
        self._columns: LruCache[str, FixedColumn] = LruCache(COLUMNS_BYTES_MAX)
        self._making = threading.Lock()

    @classmethod
    def open(cls, directory: Path) -> SealedMetadata:
        """Map files that were verified. Raises StoreDamaged."""
        try:
            described = json.loads((directory / _KEYS).read_bytes())
            return cls(
                _map_bytes(directory / _TEXTS),
                _map_array(directory / _OFFSETS),
                _map_array(directory / _CODES),
                _map_bytes(directory / _VALUES),
                described["columns"],
                bool(described["is_complete"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise StoreDamaged(
                f"the metadata of {directory} can't be opened: {exc!r}", hints.rebuild(directory)
            ) from exc

    def texts(self, rows: Rows) -> list[str | None]:
        """The JSON text of each row, None where it has no metadata."""
        pairs = zip(self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), strict=True)
        return [self._texts[start:stop].tobytes().decode() if stop > start else None for start, stop in pairs]

    def bytes_of(self, rows: Rows) -> int:
        """What `texts` of these rows would read."""
        return int((self._offsets[rows + 1] - self._offsets[rows]).sum())

    def column(self, key: str) -> ValueColumn | None:
        """Return the column of a top-level key; None where no row has the key. For a key beyond `COLUMNS_MAX`
        the first call reads every row's text."""
        known = self._keys.get(key)
        if known is None and self._is_complete:
            return None
        with self._making:  # one thread at a time: to make a rare key's column all texts are read
            column = self._columns.find(key)
            if column is None:
                column, size = self._mapped(*known) if known is not None else self._made(key)
                # However heavy, the one used last stays: the next search may ask for it again.
                self._columns.keep(key, column, min(size, COLUMNS_BYTES_MAX))
        return column

    def used_keys(self, mask: npt.NDArray[np.bool_]) -> dict[str, KeyCount]:
        """Return the keys of these rows, of those that have a column. mask: (rows,)."""
        return used_keys(((key, self._codes[position]) for key, (position, _) in self._keys.items()), mask)

    def _mapped(self, position: int, described: dict[str, Any]) -> tuple[FixedColumn, int]:
        """A column, and about what it takes in memory."""
        start, stop = described["start"], described["stop"]
        values = _read_values(self._values[start:stop].tobytes().decode())
        return FixedColumn(self._codes[position], ColumnValues(values)), stop - start + 64 * len(values)

    def _made(self, key: str) -> tuple[FixedColumn, int]:
        """A column out of the texts, and about what it takes in memory: looks through all of them."""
        count = len(self._offsets) - 1
        column = MetadataColumn()
        fill_from_texts(
            column, key, 0, count, lambda start, stop: self.texts(np.arange(start, stop, dtype=np.int64))
        )
        if not len(column.values):
            return FixedColumn(np.broadcast_to(np.int32(MISSING), count), ColumnValues([])), VALUE_BYTES
        return FixedColumn(column.codes.between(0, count), column.values), column.bytes


def _read_values(text: str) -> list[Any]:
    """A list of values out of its JSON, with `JsonText` in place of lists and objects."""
    if "[" not in text[1:] and "{" not in text:
        return list(json.loads(text))
    values, at, decode = [], 1, json.JSONDecoder().raw_decode
    while text[at : at + 1] not in ("", "]"):  # one after the other: all as objects at once would take GBs
        value, end = decode(text, at)
        values.append(JsonText(text[at:end]) if isinstance(value, list | dict) else value)
        at = end + (text[end : end + 1] == ",")
        at += text[at : at + 1] == " "
    return values


def _map_array(path: Path) -> npt.NDArray[Any]:
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)  # indexing a memmap costs 5 us more each time


def _map_bytes(path: Path) -> npt.NDArray[np.uint8]:
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, "r").view(np.ndarray)
