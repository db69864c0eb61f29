"""The ids of a segment in mapped files: row to id, and id to row by binary search, many at a time.

int64 ids are looked up as they are, strings by a 64-bit hash whose collisions are resolved by comparing
the bytes. No dictionary: every worker shares the same pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.exact_kernels import find
from index_store.types import Id
from item_rules.ids import IdKind

Rows: TypeAlias = npt.NDArray[np.int64]
IdArray: TypeAlias = npt.NDArray[Any]
"""int64, or object holding str."""


class SegmentIds(Protocol):
    """Ids of rows 0..n-1, each id once."""

    def ids_of(self, rows: Rows) -> IdArray:
        """Return the id of each row: int64, or object holding str."""

    def rows_of(self, ids: Sequence[Id] | IdArray) -> Rows:
        """Return the row of each id; -1 where the segment does not hold it."""


def write_ids(directory: Path, ids: Sequence[Id] | IdArray, kind: IdKind) -> None:
    """Write the id files of a new segment. Raises ValueError for a repeated id."""
    if kind == "int64":
        keys: npt.NDArray[Any] = np.asarray(ids, dtype=np.int64)
        np.save(directory / "ids.npy", keys)
        order = np.argsort(keys, kind="stable")
        if (keys[order][1:] == keys[order][:-1]).any():
            raise ValueError("an id occurs twice in one segment")
    else:
        if len(set(ids)) != len(ids):
            raise ValueError("an id occurs twice in one segment")
        blob, offsets = _encode_strings(ids)
        blob.tofile(directory / "ids.utf8")
        np.save(directory / "ids_offsets.npy", offsets)
        keys = _hash_strings(blob, offsets)
        order = np.argsort(keys, kind="stable")
    np.save(directory / "id_keys.npy", keys[order])
    np.save(directory / "id_rows.npy", order.astype(np.int64))


def open_ids(directory: Path, kind: IdKind) -> SegmentIds:
    """Map the id files, which must have been verified."""
    keys, order = _map(directory / "id_keys.npy"), _map(directory / "id_rows.npy")
    if kind == "int64":
        return Int64Ids(_map(directory / "ids.npy"), keys, order)
    offsets = _map(directory / "ids_offsets.npy")
    blob = np.empty(0, np.uint8)
    if offsets[-1]:
        blob = np.memmap(directory / "ids.utf8", np.uint8, "r").view(np.ndarray)
    return StringIds(blob, offsets, keys, order)


class Int64Ids:
    """Ids that are their own keys."""

    def __init__(self, ids: Rows, keys: Rows, order: Rows) -> None:
        self._ids = ids
        self._keys = keys
        self._order = order

    def ids_of(self, rows: Rows) -> IdArray:
        """Return the id of each row: (rows,) int64."""
        return self._ids[rows]

    def rows_of(self, ids: Sequence[Id] | IdArray) -> Rows:
        """Return the row of each id, -1 for ids that are not here."""
        rows: Rows = find(self._keys, self._order, np.array(ids, dtype=np.int64))
        return rows


class StringIds:
    """Ids as UTF-8 in one blob, found by hash."""

    def __init__(
        self, blob: npt.NDArray[np.uint8], offsets: Rows, keys: npt.NDArray[np.uint64], order: Rows
    ) -> None:
        self._blob = blob
        self._offsets = offsets
        self._keys = keys
        self._order = order

    def ids_of(self, rows: Rows) -> IdArray:
        """Return the id of each row: (rows,) object holding str."""
        out = np.empty(len(rows), dtype=object)
        for n, (start, stop) in enumerate(zip(self._offsets[rows], self._offsets[rows + 1], strict=True)):
            out[n] = self._blob[start:stop].tobytes().decode()
        return out

    def rows_of(self, ids: Sequence[Id] | IdArray) -> Rows:
        """Return the row of each id, -1 for ids that are not here."""
        found = np.full(len(ids), -1, np.int64)
        if not len(ids) or not len(self._keys):
            return found
        keys = _hash_strings(*_encode_strings(ids))
        position = np.searchsorted(self._keys, keys)
        for n in np.flatnonzero(self._keys[np.minimum(position, len(self._keys) - 1)] == keys):
            found[n] = self._row_among(int(position[n]), keys[n], str(ids[int(n)]).encode())
        return found

    def _row_among(self, position: int, key: np.uint64, wanted: bytes) -> int:
        """The row that holds exactly these bytes among those that share a hash."""
        while position < len(self._keys) and self._keys[position] == key:
            row = int(self._order[position])
            if self._blob[self._offsets[row] : self._offsets[row + 1]].tobytes() == wanted:
                return row
            position += 1
        return -1


def _map(path: Path) -> npt.NDArray[Any]:
    mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped.view(np.ndarray)  # indexing a memmap costs 5 us more each time


def _encode_strings(ids: Sequence[Id] | IdArray) -> tuple[npt.NDArray[np.uint8], Rows]:
    encoded = [str(i).encode() for i in ids]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def _hash_strings(blob: npt.NDArray[np.uint8], offsets: Rows) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each string: sum of (byte + 1) * P**position modulo 2**64, then mixed.

    All strings at once, in numpy, and the same in every process (Python's own hash is salted). Equal
    hashes of different strings are possible and harmless: a look-up compares the bytes.
    """
    lengths = np.diff(offsets)
    positions = np.arange(len(blob), dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    powers = np.full(int(lengths.max(initial=0)) + 1, 0x9E3779B97F4A7C15, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum((blob.astype(np.uint64) + 1) * powers[positions])]
    )
    keys: npt.NDArray[np.uint64] = sums[offsets[1:]] - sums[offsets[:-1]]
    keys ^= keys >> np.uint64(31)
    keys *= np.uint64(0xBF58476D1CE4E5B9)
    keys ^= keys >> np.uint64(29)
    return keys
