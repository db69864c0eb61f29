"""JSON of many megabytes, decoded in chunks.

The decoder does not let another thread run until it is done: 12 MB of ids take 0.3 s, of empty lists 7 s, on
whichever thread. Here no call takes more than a few milliseconds, and what a body may hold is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from typing import Any, Final

import msgspec

VALUES_MAX: Final = 2_500_000
_VALUE_BYTES: Final = 6
"""A larger body may hold a value for so many bytes of it: more ids do not differ."""
PARTS_MAX: Final = 250_000
"""Lists, objects and their members: each takes a hundred bytes and more, and the collector's time."""
_LEVELS_MAX: Final = 200
_CHUNK_BYTES: Final = 65_536

_SPACE = re.compile(rb"[ \t\n\r]*+")
_ELEMENTS = re.compile(rb'(?:\s*+(?:"(?:[^"\\]++|\\.)*+"|[^",\[\]{}\s]++)\s*+,)++')
"""Elements of a list that are neither lists nor objects, each with its comma."""
_SCALAR = re.compile(rb"[^\s,\]}]++")
_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_FLAT = rb'[^"{}]++|' + _TEXT
_NESTED = rb"\{(?:%b|\{(?:%b)*+\})*+\}" % (_FLAT, _FLAT)
_OBJECT = re.compile(rb"\{(?:%b|%b)*+\}" % (_FLAT, _NESTED))
"""An object with two levels of objects in it, as items are; what stands in between is looked at later."""
_SKIPPED = re.compile(rb'[^"\[\]{}]*+')

_NO_NAMES: Final[Set[str]] = frozenset()


_POSITION = re.compile(r"`\$\[(\d+)\]")
_TOLERANT = msgspec.json.Decoder(float_hook=float)
"""Makes infinity of numbers that are too large."""


class JsonLimitExceeded(Exception):
    """The body is JSON as far as it was read, and holds more than one may."""


class NumberOutOfRange(Exception):
    """A number of the body is larger than any float. path: where it stands."""

    def __init__(self, *path: str | int) -> None:
        super().__init__("Number out of range")
        self.path = path


def decoded_in_chunks(body: bytes, raw_lists: Set[str] = _NO_NAMES, names: Set[str] | None = None) -> Any:
    """Return what the decoder would. raw_lists: fields of the outermost object whose elements stay undecoded
    (`msgspec.Raw`), though each is JSON. names: those that it may have; what stands under others is not used,
    so its numbers may be of any size. None: it may have all.

    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError, JsonLimitExceeded, NumberOutOfRange. Any
    thread.
    """
    return _JsonDecoder(body, raw_lists, names).decoded_body()


class _JsonDecoder:
    """Reads one body from its beginning to its end."""

    def __init__(self, body: bytes, raw_lists: Set[str], names: Set[str] | None) -> None:
        self._body = body
        self._raw_lists = raw_lists
        self._names = names
        self._decode: Callable[[bytes], Any] = msgspec.json.decode
        self._values_max = max(VALUES_MAX, len(body) // _VALUE_BYTES)
        self._at = 0
        self._values = 0
        self._parts = 0

    def decoded_body(self) -> Any:
        """Return the only value. Raises as `decoded_in_chunks`."""
        value = self._value(0)
        if self._next():
            raise _malformed()
        return value

    def _next(self) -> bytes:
        """The next byte that is not white space; empty at the end."""
        self._skip_space()
        return self._body[self._at : self._at + 1]

    def _skip_space(self) -> None:
        found = _SPACE.match(self._body, self._at)
        assert found is not None
        self._at = found.end()

    def _value(self, level: int) -> Any:
        first = self._next()
        if first == b"{":
            return self._object(level + 1)
        if first == b"[":
            return self._list(level + 1)
        self._count(1)
        return self._text() if first == b'"' else self._scalar()

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > self._values_max:
            raise JsonLimitExceeded(f"holds more than {self._values_max} values")

    def _enter(self, level: int) -> None:
        if level > _LEVELS_MAX:
            raise RecursionError
        self._at += 1
        self._count(1)
        self._count_part()

    def _count_part(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise JsonLimitExceeded(f"holds more than {PARTS_MAX} lists, objects and members")

    def _object(self, level: int) -> dict[str, Any]:
        self._enter(level)
        found: dict[str, Any] = {}
        if self._next() == b"}":
            self._at += 1
            return found
        while True:
            if self._next() != b'"':
                raise _malformed()
            self._count_part()
            key = self._text()
            if self._next() != b":":
                raise _malformed()
            self._at += 1
            if level == 1 and key in self._raw_lists and self._next() == b"[":
                found[key] = self._raw_list()
            else:
                found[key] = self._member(key, level)
            if self._ends(b"}"):
                return found

    def _member(self, key: str, level: int) -> Any:
        if level == 1:
            is_used = self._names is None or key in self._names
            self._decode = msgspec.json.decode if is_used else _TOLERANT.decode
        try:
            return self._value(level)
        except NumberOutOfRange as exc:
            raise NumberOutOfRange(key, *exc.path) from None

    def _ends(self, closing: bytes) -> bool:
        """Go past the comma or the closing bracket; whether it was the bracket."""
        byte = self._next()
        if byte not in (b",", closing):
            raise _malformed()
        self._at += 1
        return byte == closing

    def _list(self, level: int) -> list[Any]:
        self._enter(level)
        found: list[Any] = []
        if self._next() == b"]":
            self._at += 1
            return found
        while True:
            some = _ELEMENTS.match(self._body, self._at, self._at + _CHUNK_BYTES)
            if some is not None:
                chunk = self._chunk(self._body[self._at : some.end() - 1], len(found))
                self._count(len(chunk))
                found += chunk
                self._at = some.end()
            else:
                found.append(self._element(len(found), level))
                if self._ends(b"]"):
                    return found

    def _chunk(self, elements: bytes, place: int) -> list[Any]:
        """place: of the first one in its list."""
        try:
            found: list[Any] = self._decode(b"[%b]" % elements)
            return found
        except msgspec.ValidationError as exc:
            position = _POSITION.search(str(exc))
            assert position is not None, "a list says which element it is"
            raise NumberOutOfRange(place + int(position[1])) from exc

    def _element(self, place: int, level: int) -> Any:
        try:
            return self._value(level)
        except NumberOutOfRange as exc:
            raise NumberOutOfRange(place, *exc.path) from None

    def _raw_list(self) -> list[msgspec.Raw]:
        self._enter(1)
        found: list[msgspec.Raw] = []
        if self._next() == b"]":
            self._at += 1
            return found
        while True:
            self._skip_space()
            start = self._at
            self._count(1)
            self._count_part()
            if (item := _OBJECT.match(self._body, start, start + _CHUNK_BYTES)) is not None:
                self._at = item.end()
            else:
                self._skip_value()
            element = self._body[start : self._at]
            msgspec.json.decode(element, type=msgspec.Raw)  # raises where it is no JSON
            found.append(msgspec.Raw(element))
            if self._ends(b"]"):
                return found

    def _skip_value(self) -> None:
        """Go past one value without looking at what it holds."""
        level = 0
        while True:
            byte = self._body[self._at : self._at + 1]
            if byte == b'"':
                self._at = self._end_of_text()
            elif byte in (b"{", b"["):
                level += 1
                self._at += 1
            elif byte in (b"}", b"]"):
                level -= 1
                self._at += 1
            elif level == 0:
                self._at = self._end_of_scalar()
            if level <= 0:
                return
            some = _SKIPPED.match(self._body, self._at, self._at + _CHUNK_BYTES)
            assert some is not None
            if self._at == len(self._body):
                raise _malformed()
            self._at = some.end()

    def _text(self) -> str:
        start, self._at = self._at, self._end_of_text()
        return msgspec.json.decode(self._body[start : self._at], type=str)

    def _end_of_text(self) -> int:
        """Where the text that begins here ends."""
        end = self._at
        while True:
            end = self._body.find(b'"', end + 1)
            if end < 0:
                raise _malformed()
            before = end - 1
            while self._body[before] == ord("\\"):
                before -= 1
            if (end - before) % 2:  # an even number of backslashes: the quote is none that they escape
                return end + 1

    def _scalar(self) -> Any:
        start, self._at = self._at, self._end_of_scalar()
        try:
            return self._decode(self._body[start : self._at])
        except msgspec.ValidationError as exc:
            raise NumberOutOfRange from exc

    def _end_of_scalar(self) -> int:
        found = _SCALAR.match(self._body, self._at)
        if found is None:
            raise _malformed()
        return found.end()


def _malformed() -> msgspec.DecodeError:
    return msgspec.DecodeError("JSON is malformed")
