"""What a connection may do, and what a body says: of which type, how deep, in which shape."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from service.errors import FieldError, InvalidInput, Loc
from service.http.wire.codings.json_chunks import (
    JsonLimitExceeded,
    NumberOutOfRange,
    decoded_in_chunks,
)
from service.http.wire.problems import HttpRefusal

T = TypeVar("T")
Headers = Mapping[bytes, bytes]

DEPTH_MAX = 16
"""Levels of a filter or of metadata. Elsewhere types bound the depth, in skipped fields the decoder does."""

_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9.+-]+\+)?json\s*(?:;|$)", re.IGNORECASE)
_VALIDATION = re.compile(r"(?P<what>.*?)(?: - at `(?P<where>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_JSON_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", " | ": " or "}
_TYPES = re.compile(r"\b(?:str|int|float|bool)\b| \| ")
_MALFORMED = "The body is not well-formed JSON."
_NOT_UTF8 = "The body is not JSON in UTF-8: it holds text in another encoding, CP949 perhaps."
_PIECE_BYTES = 1 << 20
_LARGE_BYTES = 262_144
_LOOKED_AT_BYTES = 32_768
_BRACKETS_MAX = 8192
"""As much work as `_LARGE_BYTES` of anything else."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Of one connection. answer_stall_s_max: how long a caller may read nothing of its answer."""

    head_bytes_max: int
    head_fields_max: int
    head_read_s_max: float
    answer_stall_s_max: float


def media_type(headers: Headers) -> bytes:
    """Return what kind of body is announced, in lower case and without parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def require_json(headers: Headers) -> None:
    """Require application/json: a browser page can't send that to another origin without a preflight."""
    given = headers.get(b"content-type", b"")
    if given != b"application/json" and not _JSON_TYPE.match(given):
        raise HttpRefusal(415, "unsupported_media_type", "The content type must be application/json.")


def is_large(body: bytes) -> bool:
    """Return whether to decode the body on a thread, so that others get their turn in between."""
    return len(body) > _LARGE_BYTES or (
        len(body) > _LOOKED_AT_BYTES and body.count(b"[") + body.count(b"{") > _BRACKETS_MAX
    )


async def read_in_turn(body: bytes, read: Callable[[], T], readers: Executor) -> T:
    """Return what `read` makes of the body; of a large one on a thread of `readers`. Raises as `read`."""
    if is_large(body):
        return await asyncio.get_running_loop().run_in_executor(readers, read)
    return read()


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes, raw_lists: Set[str] = frozenset()) -> T:
    """Decode a body, a large one in chunks. raw_lists: fields of T that are lists of `msgspec.Raw`.

    Raises HttpRefusal: 400 when the body is not JSON, 422 naming the field when it has another shape.
    """
    try:
        if is_large(body):
            return _decoded_large(decoder, body, raw_lists)
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _unless_malformed(body, _refused_shape(exc)) from exc
    except RecursionError as exc:
        raise HttpRefusal(400, "malformed_json", "The body is nested too deep.") from exc
    except UnicodeDecodeError as exc:
        raise HttpRefusal(400, "malformed_json", _NOT_UTF8) from exc
    except msgspec.DecodeError as exc:
        if body.startswith(codecs.BOM_UTF8):  # some editors and .NET put it there
            return decode_json(decoder, body.removeprefix(codecs.BOM_UTF8), raw_lists)
        raise HttpRefusal(400, "malformed_json", _MALFORMED) from exc


def _decoded_large(decoder: msgspec.json.Decoder[T], body: bytes, raw_lists: Set[str]) -> T:
    """Raises as the decoder, and HttpRefusal 422."""
    try:
        document = decoded_in_chunks(body, raw_lists, _names_of(decoder))
    except NumberOutOfRange as exc:
        raise _unless_malformed(body, _refused(str(exc), ("body", *exc.path))) from exc
    except JsonLimitExceeded as exc:
        raise HttpRefusal(
            422, "invalid_request", f"The body {exc}.", errors=[FieldError(("body",), str(exc))]
        ) from exc
    try:
        return msgspec.convert(document, decoder.type)
    except msgspec.ValidationError as exc:  # the body is JSON, which is known by now
        raise _refused_shape(exc) from exc


def require_utf8(body: bytes) -> None:
    """Raises HttpRefusal 400. Piece by piece: as one string the body could take four times its bytes."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _PIECE_BYTES):
            decoder.decode(body[start : start + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as exc:
        raise HttpRefusal(400, "malformed_json", _NOT_UTF8) from exc


def _names_of(decoder: msgspec.json.Decoder[Any]) -> Set[str] | None:
    """The fields that a body may have; None where it is not of one type of object."""
    shape = decoder.type
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
        return None
    return {each.encode_name for each in msgspec.structs.fields(shape)}


def _unless_malformed(body: bytes, refusal: HttpRefusal) -> HttpRefusal:
    """The decoder stops at the first wrong field; what comes after may not be JSON at all, and 400 wins."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return HttpRefusal(400, "malformed_json", _MALFORMED)
    return refusal


def _refused_shape(error: msgspec.ValidationError) -> HttpRefusal:
    return _refused(*field_error_of(error))


def _refused(what: str, loc: Loc) -> HttpRefusal:
    name = ".".join(str(part) for part in loc[1:])
    detail = f"{name}: {what}." if name else f"{what}."
    return HttpRefusal(422, "invalid_request", detail, errors=[FieldError(loc, what)])


def field_error_of(error: msgspec.ValidationError) -> tuple[str, tuple[str | int, ...]]:
    """Return what is wrong and where, as ("body", field, place)."""
    match = _VALIDATION.match(str(error))
    assert match is not None
    what = _TYPES.sub(lambda found: _JSON_WORDS[found[0]], match["what"].replace("`", ""))
    loc: list[str | int] = ["body"]
    for name, place in _STEP.findall(match["where"] or ""):
        loc.append(name if name else int(place) if place.isdigit() else place)
    missing = re.fullmatch(r"Object (?:missing required|contains unknown) field (\S+)", what)
    if missing:
        loc.append(missing[1])
    return what, tuple(loc)


def check_depth(value: Any, field: Loc | str, depth_max: int = DEPTH_MAX) -> None:
    """Raises InvalidInput when `value` nests deeper than `depth_max`."""
    level = [value]
    for _ in range(depth_max + 1):
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise InvalidInput(field, f"must have at most {depth_max} levels")
