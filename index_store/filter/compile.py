"""Conditions over metadata: checked and compiled once, evaluated over whole columns.

What they mean, where databases differ:
- A missing key fails every condition except `$ne`, `$nin` and `{"$exists": false}`. null is a value.
- Values of different kinds are never equal and never ordered: 1 is not "1", and true is no number.
- A list matches a condition when one of its elements does; `$ne` and `$nin` are the negation of that.
- `$gt $gte $lt $lte` compare number with number and text with text (by code point).
- Texts are equal when their NFC forms are: a Korean text means the same however its syllables are encoded.
- A key with points in it is a key of its own where a row has that, else the path to a nested value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.errors import InvalidFilter
from index_store.filter.columns import MISSING, KeyColumns
from index_store.filter.key_paths import KeyLocation, composed, locations_of
from index_store.types import Filter

Mask = npt.NDArray[np.bool_]

DEPTH_MAX = 16
CONDITIONS_MAX = 1000
OPERANDS_MAX = 100_000

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


@dataclass(frozen=True, slots=True)
class KeyTest:
    """One condition on one key; `matches` is asked once for each distinct value.

    operator, operand: the same as they were given, for who evaluates them elsewhere. Texts are in NFC; the
    operands of `$in` and `$nin` are sets, by what `kind_of` says of them."""

    key: str
    matches: Callable[[Any], bool]
    when_missing: bool
    operator: str
    operand: Any


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where `part` does not."""

    part: FilterNode


@dataclass(frozen=True, slots=True)
class AllOf:
    """Holds where every part does; everywhere without parts."""

    parts: tuple[FilterNode, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds where at least one part does."""

    parts: tuple[FilterNode, ...]


FilterNode: TypeAlias = KeyTest | Not | AllOf | AnyOf


def compile_filter(condition: Filter, field: str = "filter") -> FilterNode:
    """field: where the condition stands in a request. Raises InvalidFilter, whose `field` is the path of the
    culprit."""
    return _Compiler().filter(condition, field, 0)


def evaluate(node: FilterNode, columns: KeyColumns, start: int, stop: int) -> Mask:
    """(stop - start,) bool: which of these rows the condition holds for."""
    match node:
        case KeyTest():
            return _evaluate_test(node, columns, start, stop)
        case Not(part):
            return ~evaluate(part, columns, start, stop)
        case AllOf(parts):
            out = np.ones(stop - start, dtype=np.bool_)
            for part in parts:
                out &= evaluate(part, columns, start, stop)
            return out
        case AnyOf(parts):
            out = np.zeros(stop - start, dtype=np.bool_)
            for part in parts:
                out |= evaluate(part, columns, start, stop)
            return out


def _evaluate_test(test: KeyTest, columns: KeyColumns, start: int, stop: int) -> Mask:
    out = np.full(stop - start, test.when_missing)
    for location in reversed(
        locations_of(test.key, columns)
    ):  # the first one a row has decides, so it comes last
        codes = location.column.codes.between(start, stop)
        has_key, truth = _by_code(test, location, codes)
        np.copyto(out, truth[codes], where=has_key[codes])
    return out


def _by_code(test: KeyTest, location: KeyLocation, codes: npt.NDArray[np.int32]) -> tuple[Mask, Mask]:
    """(values + 1,) bool each, by code: whether a value is there, and whether it matches. Only codes that
    occur are looked at; MISSING is -1, so it picks the last entry."""
    count = len(location.column.values)
    occurring = range(count) if count < len(codes) else np.unique(codes[codes != MISSING]).tolist()
    has_key = np.zeros(count + 1, dtype=np.bool_)
    truth = np.zeros(count + 1, dtype=np.bool_)
    for code in occurring:
        found = location.values_in(location.column.values[code])
        if found:
            has_key[code] = True
            truth[code] = test.matches(found[0] if len(found) == 1 else _elements(found))
    return has_key, truth


def _elements(values: Sequence[Any]) -> list[Any]:
    """One list of what several values, lists among them, hold."""
    return [each for value in values for each in (value if isinstance(value, list) else (value,))]


def keys_of(node: FilterNode) -> Iterator[str]:
    """Yield the metadata keys that a condition looks at."""
    match node:
        case KeyTest():
            yield node.key
        case Not(part):
            yield from keys_of(part)
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from keys_of(part)


class _Compiler:
    """Counts conditions while it walks, so that a filter's size has a bound."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, condition: object, path: str, depth: int) -> FilterNode:
        self._count(path, depth)
        if not isinstance(condition, Mapping):
            raise InvalidFilter(f"{path} must be an object", path)
        parts = [self._entry(key, operand, path, depth) for key, operand in condition.items()]
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _entry(self, key: object, operand: object, path: str, depth: int) -> FilterNode:
        if not isinstance(key, str):
            raise InvalidFilter(f"{path}: keys must be text", path)
        here = f"{path}.{key}"
        if key in ("$and", "$or"):
            parts = tuple(
                self.filter(part, f"{here}[{i}]", depth + 1) for i, part in enumerate(_list(operand, here))
            )
            if not parts:
                raise InvalidFilter(f"{here} must not be empty", here)
            return AllOf(parts) if key == "$and" else AnyOf(parts)
        if key == "$not":
            return Not(self.filter(operand, here, depth + 1))
        if key.startswith("$"):
            raise InvalidFilter(f"{here}: unknown operator", here)
        return self._field(key, operand, here, depth)

    def _field(self, key: str, operand: object, path: str, depth: int) -> FilterNode:
        self._count(path, depth)
        if not isinstance(operand, Mapping):
            return _test(key, "$eq", operand, path)
        if not operand:
            raise InvalidFilter(f"{path} names no operator", path)
        parts: list[FilterNode] = []
        for name, value in operand.items():
            here = f"{path}.{name}"
            if name == "$not":
                if not isinstance(value, Mapping):
                    raise InvalidFilter(f"{here} must be an object of operators", here)
                parts.append(Not(self._field(key, value, here, depth + 1)))
            else:
                self._count(here, depth)
                parts.append(_test(key, name, value, here))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _count(self, path: str, depth: int) -> None:
        self._conditions += 1
        if depth > DEPTH_MAX or self._conditions > CONDITIONS_MAX:
            raise InvalidFilter(
                f"the filter is too large: {DEPTH_MAX} levels and {CONDITIONS_MAX} conditions at most", path
            )


def _test(key: str, name: object, operand: object, path: str) -> KeyTest:
    if name in ("$eq", "$ne"):
        wanted = _scalar(operand, path)
        equal = _any_element(lambda value: _same(value, wanted))
        if name == "$eq":
            return KeyTest(key, equal, False, "$eq", wanted)
        return KeyTest(key, _negated(equal), True, "$ne", wanted)
    if name in ("$in", "$nin"):
        operands = _list(operand, path)
        if len(operands) > OPERANDS_MAX:
            raise InvalidFilter(f"{path} holds more than {OPERANDS_MAX} values", path)
        known = _by_kind(operands, path)
        among = _any_element(lambda value: composed(value) in known.get(kind_of(value), ()))
        if name == "$in":
            return KeyTest(key, among, False, "$in", known)
        return KeyTest(key, _negated(among), True, "$nin", known)
    if name == "$exists":
        if not isinstance(operand, bool):
            raise InvalidFilter(f"{path} must be true or false", path)
        return KeyTest(key, lambda _value: operand, not operand, "$exists", operand)
    if isinstance(name, str) and name in _ORDER:
        bound = _scalar(operand, path)
        if kind_of(bound) not in ("number", "text"):
            raise InvalidFilter(f"{path} must be a number or text", path)
        compare = _ORDER[name]
        kind = kind_of(bound)
        beyond = _any_element(lambda value: kind_of(value) == kind and compare(composed(value), bound))
        return KeyTest(key, beyond, False, name, bound)
    hint = (
        "" if isinstance(name, str) and name.startswith("$") else f'; a nested key is written "{key}.{name}"'
    )
    raise InvalidFilter(f"{path}: unknown operator{hint}", path)


def _any_element(matches: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(map(matches, value)) if isinstance(value, list) else matches(value)


def _negated(matches: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: not matches(value)


def _same(value: object, wanted: object) -> bool:
    return kind_of(value) == kind_of(wanted) and composed(value) == wanted


def kind_of(value: object) -> str:
    """Return which values a value can be equal to: bool, number, text, null, or other for none."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "null" if value is None else "other"


def _is_scalar(value: object) -> bool:
    return kind_of(value) != "other"


def _scalar(operand: object, path: str) -> Any:
    if not _is_scalar(operand) or operand != operand:
        raise InvalidFilter(f"{path} must be a number, text, true, false or null", path)
    return composed(operand)


def _by_kind(operands: Sequence[object], path: str) -> Mapping[str, Set[Any]]:
    """Return the operands by kind. 100,000 of one plain type take milliseconds: no call is made for each."""
    types = set(map(type, operands))
    if types == {int}:
        return {"number": set(operands)}
    if types == {str} and "".join(map(str, operands)).isascii():
        return {"text": set(operands)}
    known: dict[str, set[Any]] = {}
    for location, operand in enumerate(operands):
        if not _is_scalar(operand) or operand != operand:
            _scalar(operand, f"{path}[{location}]")
        known.setdefault(kind_of(operand), set()).add(composed(operand))
    return known


def _list(operand: object, path: str) -> Sequence[object]:
    if not isinstance(operand, list | tuple):
        raise InvalidFilter(f"{path} must be a list", path)
    return operand
