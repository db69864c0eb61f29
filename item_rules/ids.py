"""What an id is: an integer of 64 bits, or a short text. Fixed by the collection's kind of id."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

IdKind: TypeAlias = Literal["int64", "string"]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
ID_CHARACTERS_MAX = 255
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
_KINDS = {bool: "true or false", int: "an integer", str: "a string", type(None): "null"}


def id_fault(value: object, kind: IdKind) -> str | None:
    """Return what is wrong with an id, to stand behind the name of its field; None where nothing is.

    Nothing is converted: "7" is no int64 id and 7 no string id.
    """
    if kind == "int64":
        if not isinstance(value, int) or isinstance(value, bool):
            return f"must be an integer, got {_kind(value)}"
        if not INT64_MIN <= value <= INT64_MAX:
            return "must fit in 64 bits"
        return None
    if not isinstance(value, str):
        return f"must be a string, got {_kind(value)}"
    if not 1 <= len(value) <= ID_CHARACTERS_MAX:
        return f"must have 1 to {ID_CHARACTERS_MAX} characters, got {len(value)}"
    if _NOT_TEXT.search(value):
        return "must not hold NUL or half a character"
    return None


def kind_of(value: int | str) -> IdKind:
    """Return the kind of id that a value could be."""
    return "int64" if isinstance(value, int) else "string"


def id_faults(values: Sequence[int | str], kind: IdKind) -> dict[int, str]:
    """Return what is wrong with each of many ids, by its position; nothing for those that are right."""
    found = ((position, id_fault(value, kind)) for position, value in enumerate(values))
    return {position: fault for position, fault in found if fault is not None}


def int64_fault(value: object) -> str | None:
    """Return what is wrong with a source_version, to stand behind the name of its field."""
    if not isinstance(value, int) or isinstance(value, bool) or not INT64_MIN <= value <= INT64_MAX:
        return "must be a 64-bit integer"
    return None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
