"""What filters and lifetimes read of metadata, in a form in which jsonb answers as `compile_filter` does.

`facts` is the metadata, but
- texts are in NFC, and nested keys too. Where an object has several keys of one NFC form, or one that is in
  neither NFC nor NFD, these stand beside it as they were sent. Top-level keys are as they were sent.
- jsonb holds no NUL: it is written U+0001 U+0001, and U+0001 itself U+0001 U+0002. Order and equality by code
  point stay.
- numbers from 2**53 on are written in full, smaller ones as Python does: so their order as decimals is their
  order as integers and doubles, and two are equal where Python says so.
- a list holds no lists: objects in those stand in the outer one, and values in them are left out, since no
  condition sees them.
- under MOMENTS_KEY, which no key is written as, stand the moments that top-level texts name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from item_rules.metadata import metadata_text
from item_rules.moments import microseconds_of

MOMENTS_KEY = "\1\3"
"""Microseconds since the epoch by key, of texts that say their offset."""
LOCAL_MOMENTS_KEY = "\1\4"
"""The same of texts that do not, as if they were in UTC."""
NO_FACTS = "{}"
_FULL_FROM = 2.0**53
_ODD = re.compile(r'\\u000[01]|e\+|\[\[|,\[|:"[\d\s\\]')
"""Occurs in each canonical JSON of metadata that has to be looked into."""


def facts_of(metadata: str | None) -> str:
    """Return the JSON for the column `facts`. metadata: canonical JSON (`item_rules.metadata`), or None."""
    if metadata is None:
        return NO_FACTS
    if _ODD.search(metadata) is None and (metadata.isascii() or unicodedata.is_normalized("NFC", metadata)):
        return metadata
    return metadata_text(_facts(json.loads(metadata)))


def _facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    facts = {encoded(key): _value(value) for key, value in metadata.items()}
    moments: dict[str, dict[str, int]] = {MOMENTS_KEY: {}, LOCAL_MOMENTS_KEY: {}}
    for key, value in metadata.items():
        named = microseconds_of(value.strip()) if isinstance(value, str) else None
        if named is not None:
            microseconds, has_offset = named
            moments[MOMENTS_KEY if has_offset else LOCAL_MOMENTS_KEY][encoded(key)] = microseconds
    return facts | {key: some for key, some in moments.items() if some}


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return encoded(unicodedata.normalize("NFC", value))
    if isinstance(value, float):
        return value if abs(value) < _FULL_FROM else int(value)
    if isinstance(value, list):
        return list(_elements(value, is_outer=True))
    return _nested(value) if isinstance(value, dict) else value


def _elements(values: list[Any], *, is_outer: bool) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from _elements(value, is_outer=False)
        elif is_outer or isinstance(value, dict):
            yield _value(value)


def _nested(held: Mapping[str, Any]) -> dict[str, Any]:
    by_form: dict[str, list[str]] = {}
    for key in held:
        by_form.setdefault(unicodedata.normalize("NFC", key), []).append(key)
    made = {}
    for form, keys in by_form.items():
        decomposed = unicodedata.normalize("NFD", form)
        usual = form if form in keys else decomposed
        if usual in keys:
            made[encoded(form)] = _value(held[usual])
        if len(keys) > 1 or usual not in keys:
            made |= {encoded(key): _value(held[key]) for key in keys if key != form}
    return made


def encoded(text: str) -> str:
    """Return a text as facts hold it, less its normalisation. Raises UnicodeEncodeError for half a character,
    which no item can hold."""
    text.encode()
    return text.replace("\1", "\1\2").replace("\0", "\1\1")


def decoded(value: Any) -> Any:
    """Return a value out of facts with its texts as they were before `encoded`."""
    if isinstance(value, str):
        return value.replace("\1\1", "\0").replace("\1\2", "\1")
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if isinstance(value, dict):
        return {decoded(key): decoded(each) for key, each in value.items()}
    return value
