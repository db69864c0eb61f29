"""What a metadata filter means, item by item and without any haste: the engine is held to it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any


def matches(condition: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """The filter's meaning, item by item."""
    return all(_entry(key, operand, metadata) for key, operand in condition.items())


def _entry(key: str, operand: Any, metadata: Mapping[str, Any]) -> bool:
    if key == "$and":
        return all(matches(part, metadata) for part in operand)
    if key == "$or":
        return any(matches(part, metadata) for part in operand)
    if key == "$not":
        return not matches(operand, metadata)
    conditions = operand if isinstance(operand, Mapping) else {"$eq": operand}
    return all(_condition(name, wanted, key, metadata) for name, wanted in conditions.items())


def _condition(name: str, wanted: Any, key: str, metadata: Mapping[str, Any]) -> bool:
    if name == "$not":
        return not all(_condition(inner, value, key, metadata) for inner, value in wanted.items())
    values = held(key, metadata)
    if name == "$exists":
        return bool(values) is wanted
    if name == "$ne":
        return not _condition("$eq", wanted, key, metadata)
    if name == "$nin":
        return not _condition("$in", wanted, key, metadata)
    elements = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return any(_holds(name, one, wanted) for one in elements)


def keys_in(condition: Mapping[str, Any]) -> list[str]:
    """The metadata keys of a filter."""
    found: dict[str, None] = {}
    for key, operand in condition.items():
        if not key.startswith("$"):
            found[key] = None
            continue
        for part in operand if isinstance(operand, list) else [operand]:
            found |= dict.fromkeys(keys_in(part))
    return list(found)


def held(key: str, metadata: Mapping[str, Any]) -> list[Any]:
    """What a row holds under a key, or along it."""
    steps = key.split(".")
    for count in range(len(steps), 0, -1):
        for name in _named(".".join(steps[:count]), metadata):
            values = _walk(metadata[name], steps[count:])
            if values:
                return values
    return []


def _named(wanted: str, metadata: Mapping[str, Any]) -> list[str]:
    return sorted((name for name in metadata if _nfc(name) == _nfc(wanted)), key=lambda name: name != wanted)


def _walk(value: Any, steps: list[str]) -> list[Any]:
    if not steps:
        return [value]
    if isinstance(value, list):
        return [found for each in value for found in _walk(each, steps)]
    names = _named(steps[0], value) if isinstance(value, dict) else []
    return _walk(value[names[0]], steps[1:]) if names else []


def _nfc(value: Any) -> Any:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _holds(name: str, value: Any, wanted: Any) -> bool:
    value, wanted = _nfc(value), _nfc(wanted)
    if name == "$in":
        return any(_holds("$eq", value, one) for one in wanted)
    is_number = [isinstance(one, int | float) and not isinstance(one, bool) for one in (value, wanted)]
    if name == "$eq":
        return value == wanted and (all(is_number) or type(value) is type(wanted))
    if not (all(is_number) or (isinstance(value, str) and isinstance(wanted, str))):
        return False
    return bool(
        {"$gt": value > wanted, "$gte": value >= wanted, "$lt": value < wanted, "$lte": value <= wanted}[name]
    )
