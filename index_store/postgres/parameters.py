"""Values as PostgreSQL's binary protocol has them: vectors and arrays, made and read all at once.

psycopg would write lists element by element, and vectors as texts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from index_store.types import Id, Ids, Vector
from item_rules.ids import IdKind

COPY_BEGIN, COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
"""What stands before and behind the rows of a COPY in binary."""
_INT8, _TEXT, _BYTEA = 20, 25, 17
_INT8_ARRAY, _TEXT_ARRAY, _BYTEA_ARRAY = 1016, 1009, 1001
_VECTOR_HEAD = struct.Struct(">hh")
_ARRAY_HEAD = struct.Struct(">iiiii")
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">i8")])


class BinaryValue(bytes):
    """The binary form of one value; the class says of which type."""

    __slots__ = ()


class VectorValue(BinaryValue):
    """A vector."""

    __slots__ = ()


class Int8ArrayValue(BinaryValue):
    """A bigint[]."""

    __slots__ = ()


class TextArrayValue(BinaryValue):
    """A text[]."""

    __slots__ = ()


class DataArrayValue(BinaryValue):
    """A bytea[]."""

    __slots__ = ()


class _BinaryWriter(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> Buffer:
        """Return it as it is."""
        return bytes(obj)


class _Int8ArrayWriter(_BinaryWriter):
    oid = _INT8_ARRAY


class _TextArrayWriter(_BinaryWriter):
    oid = _TEXT_ARRAY


class _DataArrayWriter(_BinaryWriter):
    oid = _BYTEA_ARRAY


class _VectorLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        """Return a vector in the binary form; `vectors_of` reads many at once."""
        return bytes(data)


def register_vectors(connection: Connection[Any], oid: int) -> None:
    """Teach a connection pgvector's type, whose oid each database has of its own."""
    adapters = connection.adapters
    adapters.register_loader(oid, _VectorLoader)
    adapters.register_dumper(VectorValue, type("_VectorWriter", (_BinaryWriter,), {"oid": oid}))
    adapters.register_dumper(Int8ArrayValue, _Int8ArrayWriter)
    adapters.register_dumper(TextArrayValue, _TextArrayWriter)
    adapters.register_dumper(DataArrayValue, _DataArrayWriter)


def vector_value(vector: Vector) -> VectorValue:
    """Return a (dim,) float32 vector as a parameter."""
    return VectorValue(_VECTOR_HEAD.pack(len(vector), 0) + vector.astype(">f4").tobytes())


def vector_from_stored(stored: bytes) -> VectorValue:
    """Return a vector of little-endian float32, as `Row.vector` has it, as a parameter."""
    swapped = np.frombuffer(stored, "<f4").astype(">f4").tobytes()
    return VectorValue(_VECTOR_HEAD.pack(len(stored) // 4, 0) + swapped)


def stored_vector(value: bytes | None) -> bytes | None:
    """Return the binary form of a vector as `Row.vector` has it."""
    if value is None:
        return None
    return np.frombuffer(value, ">f4", offset=_VECTOR_HEAD.size).astype("<f4").tobytes()


def vectors_of(values: Sequence[bytes], dim: int) -> Vector:
    """Return (rows, dim) float32 out of vectors in the binary form."""
    kind = np.dtype([("head", "V4"), ("vector", ">f4", (dim,))])
    found: Vector = np.frombuffer(b"".join(values), kind)["vector"].astype(np.float32)
    return found


def id_array(ids: Ids | npt.NDArray[np.int64], id_kind: IdKind) -> BinaryValue:
    """Return ids of a collection as one parameter."""
    if id_kind == "string":
        return text_array([str(each) for each in ids])
    return int_array(ids)  # type: ignore[arg-type]


def int_array(values: Sequence[int] | npt.NDArray[np.int64]) -> Int8ArrayValue:
    """Return 64-bit integers as one parameter."""
    elements = np.empty(len(values), _ELEMENT)
    elements["length"] = 8
    elements["value"] = values
    return Int8ArrayValue(_ARRAY_HEAD.pack(1, 0, _INT8, len(values), 1) + elements.tobytes())


def text_array(texts: Sequence[str]) -> TextArrayValue:
    """Return texts as one parameter."""
    return TextArrayValue(_elements([text.encode() for text in texts], _TEXT))


def data_array(values: Sequence[bytes]) -> DataArrayValue:
    """Return byte strings as one parameter."""
    return DataArrayValue(_elements(values, _BYTEA))


def _elements(values: Sequence[bytes], oid: int) -> bytes:
    parts = [_ARRAY_HEAD.pack(1, 0, oid, len(values), 1)]
    for value in values:
        parts += (len(value).to_bytes(4, "big"), value)
    return b"".join(parts)


def id_column(ids: Sequence[Id], id_kind: IdKind) -> npt.NDArray[Any]:
    """Return ids as an array to sort by: int64, or object holding str."""
    if id_kind == "int64":
        return np.array(ids, np.int64)
    found = np.empty(len(ids), object)
    found[:] = ids
    return found
