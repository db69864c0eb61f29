"""PostgreSQL's COPY BINARY stream as numpy arrays.

A record is an int16 field count, then for each field an int32 length and that many bytes; everything is
big-endian, and -1 as a length means NULL. Where every field has a fixed length, one structured dtype reads
the whole stream at once; texts may stand behind the fixed fields and are then read record by record.
Nothing here trusts the stream: a length that is not the expected one raises.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
HEADER_BYTES = len(SIGNATURE) + 8
TRAILER = b"\xff\xff"
SHOWN_BYTES = 60

Kind: TypeAlias = Literal["int16", "int64", "bool", "vector", "halfvec"]
ELEMENTS: dict[Kind, str] = {"int16": ">i2", "int64": ">i8", "bool": "i1", "vector": ">f4", "halfvec": ">f2"}


class CopyFormatError(Exception):
    """The stream is not what was asked for; the message says where."""


@dataclass(frozen=True, slots=True)
class FixedField:
    """A field whose length is known: a number, or a vector of `dim` elements (that are not NULL)."""

    kind: Kind
    dim: int = 0

    @property
    def length(self) -> int:
        """Its length in bytes, without the four that say so."""
        return np.dtype(ELEMENTS[self.kind]).itemsize * max(self.dim, 1) + (4 if self.dim else 0)


@dataclass(frozen=True, slots=True)
class BinaryRows:
    """Columns in the order asked: one array for each fixed field (vectors: (n, dim) float32), one list of
    str for each text."""

    count: int
    fixed: Sequence[npt.NDArray[Any]]
    texts: Sequence[list[str]]


def parse(data: bytes, fixed: Sequence[FixedField], texts: int = 0) -> BinaryRows:
    """Read a whole COPY BINARY stream: `fixed` fields first, then `texts` UTF-8 fields, none of them NULL.

    Raises CopyFormatError.
    """
    body = _body_start(data)
    dtype = _record_dtype(fixed)
    if texts:
        starts, columns = _walk(data, body, dtype.itemsize, texts)
        size = dtype.itemsize
        packed = b"".join([data[start : start + size] for start in starts])
        records = np.frombuffer(packed, dtype=dtype)
    else:
        columns = []
        size = len(data) - body - len(TRAILER)
        if size < 0 or size % dtype.itemsize or data[-2:] != TRAILER:
            raise CopyFormatError(
                f"{len(data)} bytes are not whole records of {dtype.itemsize} and a trailer:"
                " a field is NULL, cut short, or of another length"
            )
        records = np.frombuffer(data, dtype=dtype, count=size // dtype.itemsize, offset=body)
    _check(records, fixed, texts)
    return BinaryRows(len(records), [_native(records, n, field) for n, field in enumerate(fixed)], columns)


def _body_start(data: bytes) -> int:
    if len(data) < HEADER_BYTES + len(TRAILER) or not data.startswith(SIGNATURE):
        raise CopyFormatError(f"not a COPY BINARY stream: {data[:SHOWN_BYTES]!r}")
    flags, extension = struct.unpack_from(">Ii", data, len(SIGNATURE))
    if flags or extension < 0 or HEADER_BYTES + extension + len(TRAILER) > len(data):
        raise CopyFormatError(f"header with flags {flags:#x} and an extension of {extension} bytes")
    return HEADER_BYTES + int(extension)


def _record_dtype(fixed: Sequence[FixedField]) -> np.dtype[np.void]:
    parts: list[Any] = [("fields", ">i2")]
    for n, field in enumerate(fixed):
        parts.append((f"length{n}", ">i4"))
        if field.dim:
            parts += [
                (f"dim{n}", ">i2"),
                (f"unused{n}", ">i2"),
                (f"value{n}", ELEMENTS[field.kind], field.dim),
            ]
        else:
            parts.append((f"value{n}", ELEMENTS[field.kind]))
    return np.dtype(parts)


def _walk(data: bytes, body: int, prefix: int, texts: int) -> tuple[list[int], list[list[str]]]:
    """Return where each record starts, and its texts."""
    starts: list[int] = []
    columns: list[list[str]] = [[] for _ in range(texts)]
    read_length = struct.Struct(">i").unpack_from
    position, end = body, len(data) - len(TRAILER)
    try:
        while position < end:
            starts.append(position)
            position += prefix
            for column in columns:
                (length,) = read_length(data, position)
                position += 4
                if length < 0 or position + length > end:
                    raise CopyFormatError(f"record {len(starts) - 1}: a text of {length} bytes")
                column.append(data[position : position + length].decode())
                position += length
    except struct.error as exc:
        raise CopyFormatError(f"record {len(starts) - 1} is cut short") from exc
    except UnicodeDecodeError as exc:
        raise CopyFormatError(f"record {len(starts) - 1}: a text that is not UTF-8") from exc
    if position != end or data[-2:] != TRAILER:
        raise CopyFormatError(f"no trailer after {len(starts)} records")
    return starts, columns


def _check(records: npt.NDArray[np.void], fixed: Sequence[FixedField], texts: int) -> None:
    _all_equal(records["fields"], len(fixed) + texts, "field count")
    for n, field in enumerate(fixed):
        _all_equal(records[f"length{n}"], field.length, f"length of field {n}")
        if field.dim:
            _all_equal(records[f"dim{n}"], field.dim, f"dimension of field {n}")


def _all_equal(values: npt.NDArray[Any], expected: int, what: str) -> None:
    wrong = np.flatnonzero(values != expected)
    if len(wrong):
        row = int(wrong[0])
        raise CopyFormatError(f"record {row}: {what} is {values[row]}, expected {expected}")


def _native(records: npt.NDArray[np.void], n: int, field: FixedField) -> npt.NDArray[Any]:
    """Copy a column into this machine's byte order; half precision becomes single."""
    values = records[f"value{n}"]
    if field.dim:
        return values.astype(np.float32)
    return values.astype(values.dtype.newbyteorder("="))
