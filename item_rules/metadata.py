"""Which metadata can be stored, searched and given back: a JSON object of bounded size and depth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from item_rules.ids import INT64_MIN

METADATA_BYTES_MAX = 65_536
"""Where nobody says otherwise (METADATA_BYTES_MAX)."""
METADATA_DEPTH_MAX = 16
"""Levels of objects and arrays: what is stored must be readable, and a filter goes as deep."""
INTEGER_MAX = 2**64 - 1
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_LONG_NUMBER = re.compile(r"\d{19}")


def metadata_text(metadata: Any) -> str:
    """Return canonical JSON, so that equal metadata are equal bytes. Raises ValueError, TypeError and
    RecursionError where `metadata_fault` finds that it is no JSON."""
    return _CANONICAL.encode(metadata)


def text_bytes(text: str) -> int:
    """Return how many bytes a text has in UTF-8. Raises UnicodeEncodeError for half a character."""
    return len(text) if text.isascii() else len(text.encode())


def metadata_fault(metadata: object, bytes_max: int = METADATA_BYTES_MAX) -> str | None:
    """Return what is wrong with metadata, to stand behind the name of the field; None where nothing is.

    bytes_max: of its canonical JSON in UTF-8.
    """
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        return "must be an object"
    try:
        text = metadata_text(metadata)
        size = text_bytes(text)
    except UnicodeEncodeError:
        return "must not hold half a character"
    except (TypeError, ValueError, RecursionError) as exc:
        return f"must be JSON: {exc}"
    if size > bytes_max:
        return f"must be at most {bytes_max} bytes of JSON, got {size}"
    # Looking into it is for almost nobody: only what has so many brackets can be so deep, and so on.
    if text.count("[") + text.count("{") > METADATA_DEPTH_MAX and _depth(metadata) > METADATA_DEPTH_MAX:
        return f"must have at most {METADATA_DEPTH_MAX} levels"
    if _LONG_NUMBER.search(text) and not _has_small_integers(metadata):
        return "must hold integers of at most 64 bits"
    return None


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (Mapping, list, tuple))]:
        depth += 1
        level = [child for each in level for child in _children(each)]
    return depth


def _children(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value


def _has_small_integers(value: object) -> bool:
    if isinstance(value, int):
        return INT64_MIN <= value <= INTEGER_MAX
    return all(_has_small_integers(child) for child in _children(value))
