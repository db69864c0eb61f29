"""Read PostgreSQL's logical replication messages (plugin pgoutput, protocol 1). Pure: bytes in, values out.

Source of the layout: PostgreSQL documentation, "Logical Replication Message Formats".
Values arrive as text, or in the type's binary form where the slot is read with `binary 'true'`.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

KEY_COLUMN: Final = 1
_POSTGRES_EPOCH_S: Final = 946_684_800


class MalformedMessage(ValueError):
    """The bytes are not a message of this protocol: another plugin, or another protocol version."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A value stored out of line (TOAST) that an UPDATE did not touch: the log does not carry it."""


@dataclass(frozen=True, slots=True)
class Text:
    """A value in the type's text form."""

    value: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A value in the type's binary form."""

    value: bytes


Value: TypeAlias = Text | Binary | Unchanged | None
Row: TypeAlias = tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """commit_lsn: position of the commit that this transaction ends with."""

    commit_lsn: int
    committed_at_s: float
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """end_lsn: the first position after the transaction, the only one that a slot may be advanced to."""

    commit_lsn: int
    end_lsn: int
    committed_at_s: float


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a Relation message. is_key: part of the replica identity."""

    name: str
    type_oid: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the following messages mean it; sent again in each reading and after each DDL."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]

    def position_of(self, column: str) -> int | None:
        """Return where `column` stands in a row, None when the log does not carry it."""
        return next((n for n, known in enumerate(self.columns) if known.name == column), None)


@dataclass(frozen=True, slots=True)
class Insert:
    """A row that is there now."""

    oid: int
    new: Row


@dataclass(frozen=True, slots=True)
class Update:
    """old: the replica identity when it changed, or the whole row under REPLICA IDENTITY FULL."""

    oid: int
    old: Row | None
    new: Row


@dataclass(frozen=True, slots=True)
class Delete:
    """old: only the replica identity's columns hold values (usually the primary key)."""

    oid: int
    old: Row


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables that were emptied at once, by oid."""

    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A message that changes no row: origin, type, logical message."""

    kind: str


Message: TypeAlias = Begin | Commit | Relation | Insert | Update | Delete | Truncate | Other


def parse(data: bytes) -> Message:
    """Return one message. Raises MalformedMessage for anything else, trailing bytes included."""
    reader = _MessageReader(data)
    kind = reader.letter()
    parser = _PARSERS.get(kind)
    if parser is None:
        if kind in _IGNORED:
            return Other(kind)
        raise MalformedMessage(f"unknown message {kind!r}, {len(data)} bytes")
    message = parser(reader)
    reader.expect_end()
    return message


def decode(value: Value, type_oid: int) -> int | str | None:
    """Return a key or id column's value. Raises MalformedMessage for a type that can't be one."""
    if value is None:
        return None
    if isinstance(value, Unchanged):
        raise MalformedMessage("a key that is stored out of line is not in the log")
    if type_oid in _INTEGERS:
        return _integer(value, _INTEGERS[type_oid])
    if type_oid in _TEXTS:
        return value.value if isinstance(value, Text) else _utf8(value.value)
    if type_oid == _UUID:
        return value.value if isinstance(value, Text) else str(uuid.UUID(bytes=value.value))
    raise MalformedMessage(f"a column of type oid {type_oid} can't be a key: use an integer, text or uuid")


def parse_lsn(text: str) -> int:
    """Return the number behind `16/B374D848`."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def format_lsn(lsn: int) -> str:
    """Return `16/B374D848` for its number."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


_INTEGERS: Final[Mapping[int, int]] = {20: 8, 21: 2, 23: 4}
_TEXTS: Final = frozenset({25, 1042, 1043})
_UUID: Final = 2950
_IGNORED: Final = frozenset("OYM")


def _integer(value: Text | Binary, width: int) -> int:
    if isinstance(value, Text):
        return int(value.value)
    if len(value.value) != width:
        raise MalformedMessage(f"an integer of {len(value.value)} bytes, {width} expected")
    return int.from_bytes(value.value, "big", signed=True)


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise MalformedMessage(f"not UTF-8: {data[:40]!r} (is client_encoding UTF8?)") from exc


class _MessageReader:
    """Reads one message from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read_bytes(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise MalformedMessage(f"{count} bytes wanted at {self._at} of {len(self._data)}")
        taken, self._at = self._data[self._at : end], end
        return taken

    def number(self, layout: struct.Struct) -> int:
        return int(layout.unpack(self.read_bytes(layout.size))[0])

    def letter(self) -> str:
        return self.read_bytes(1).decode("latin-1")

    def string(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise MalformedMessage(f"a string without end at {self._at}")
        text = self.read_bytes(end - self._at)
        self._at += 1
        return _utf8(text)

    def expect_end(self) -> None:
        if self._at != len(self._data):
            raise MalformedMessage(f"{len(self._data) - self._at} bytes after the message")


_BYTE: Final = struct.Struct(">B")
_SHORT: Final = struct.Struct(">h")
_INT: Final = struct.Struct(">i")
_OID: Final = struct.Struct(">I")
_LONG: Final = struct.Struct(">q")


def _moment(reader: _MessageReader) -> float:
    return _POSTGRES_EPOCH_S + reader.number(_LONG) / 1e6


def _begin(reader: _MessageReader) -> Begin:
    return Begin(reader.number(_LONG), _moment(reader), reader.number(_OID))


def _commit(reader: _MessageReader) -> Commit:
    reader.number(_BYTE)
    return Commit(reader.number(_LONG), reader.number(_LONG), _moment(reader))


def _relation(reader: _MessageReader) -> Relation:
    oid, schema, table = reader.number(_OID), reader.string(), reader.string()
    reader.number(_BYTE)
    columns = []
    for _ in range(reader.number(_SHORT)):
        flags, name = reader.number(_BYTE), reader.string()
        columns.append(Column(name, reader.number(_OID), bool(flags & KEY_COLUMN)))
        reader.number(_INT)
    return Relation(oid, schema or "pg_catalog", table, tuple(columns))


def _row(reader: _MessageReader) -> Row:
    return tuple(_value(reader) for _ in range(reader.number(_SHORT)))


def _value(reader: _MessageReader) -> Value:
    kind = reader.letter()
    if kind == "n":
        return None
    if kind == "u":
        return Unchanged()
    if kind not in "tb":
        raise MalformedMessage(f"unknown kind of value {kind!r}")
    data = reader.read_bytes(reader.number(_INT))
    return Text(_utf8(data)) if kind == "t" else Binary(data)


def _insert(reader: _MessageReader) -> Insert:
    oid = reader.number(_OID)
    _expect(reader.letter(), "N")
    return Insert(oid, _row(reader))


def _update(reader: _MessageReader) -> Update:
    oid, kind, old = reader.number(_OID), reader.letter(), None
    if kind in "KO":
        old, kind = _row(reader), reader.letter()
    _expect(kind, "N")
    return Update(oid, old, _row(reader))


def _delete(reader: _MessageReader) -> Delete:
    oid = reader.number(_OID)
    _expect(reader.letter(), "KO")
    return Delete(oid, _row(reader))


def _truncate(reader: _MessageReader) -> Truncate:
    count = reader.number(_INT)
    reader.number(_BYTE)
    return Truncate(tuple(reader.number(_OID) for _ in range(count)))


def _expect(kind: str, allowed: Sequence[str]) -> None:
    if kind not in allowed:
        raise MalformedMessage(f"a row marked {kind!r}, one of {allowed!r} expected")


_PARSERS: Final[Mapping[str, Callable[[_MessageReader], Message]]] = {
    "B": _begin,
    "C": _commit,
    "R": _relation,
    "I": _insert,
    "U": _update,
    "D": _delete,
    "T": _truncate,
}
