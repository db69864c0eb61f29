"""Filters and lifetimes as SQL over the column `facts` (jsonb, see `facts`), which answers them row by row as
`index_store.filter` does.

A condition on a key is a jsonpath, and so one parameter: what a caller wrote never stands in the SQL. In lax
mode a path goes through lists and `?` looks at their elements, as filters do, and values of different kinds
are never equal and never ordered.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice, product
from typing import Any, NamedTuple

from index_store.errors import InvalidFilter
from index_store.filter.compile import AllOf, AnyOf, FilterNode, KeyTest, Not
from index_store.filter.key_paths import composed, spellings, splits
from index_store.postgres.facts import LOCAL_MOMENTS_KEY, MOMENTS_KEY, encoded
from item_rules.lifetime import ShownSpan
from item_rules.metadata import METADATA_DEPTH_MAX
from item_rules.moments import MILLISECONDS_FROM, microseconds_in

IN_PATH_MAX = 16
"""Operands of `$in` that are compared one after the other; more are put in a table of hashes."""
PATHS_MAX = 64
"""Ways to spell one nested key: twice as many with each step that is not in NFC."""
_JSON = json.JSONEncoder(ensure_ascii=False)
"""Made once: to make one takes longer than to write a text."""
_INTEGERS_END = 10**4300
"""Python reads no integer that is longer: metadata hold none."""
_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_SECONDS_MAX = 1e305
"""A thousand times as many are still a double."""
_HALF = re.compile("[\ud800-\udfff]")
_BEHIND_HALVES = "\ue000"
"""The first character behind all halves of characters."""


class Condition(NamedTuple):
    """sql: true or false for each row, never null; with a `%s` for each of the parameters. Conditions can be
    put together with AND as they are."""

    sql: str
    parameters: tuple[object, ...] = ()


NOTHING, EVERYTHING = Condition("false"), Condition("true")


def filter_condition(node: FilterNode) -> Condition:
    """Return the condition that a compiled filter is. Raises InvalidFilter."""
    match node:
        case KeyTest():
            return _key_test(node)
        case Not(part):
            return _not(filter_condition(part))
        case AllOf(parts):
            return all_of([filter_condition(part) for part in parts])
        case AnyOf(parts):
            return _any_of([filter_condition(part) for part in parts])


def is_indexed(node: FilterNode) -> bool:
    """Return whether the index over facts finds the rows of a filter (docs/decisions/0127)."""
    match node:
        case KeyTest():
            operands = sum(map(len, node.operand.values())) if node.operator == "$in" else 1
            return node.operator in ("$eq", "$in") and operands <= IN_PATH_MAX
        case Not():
            return False
        case AllOf(parts):
            return any(map(is_indexed, parts))
        case AnyOf(parts):
            return all(map(is_indexed, parts))


def key_condition(key: str) -> Condition:
    """Return the condition that a row has a value under a key of a filter. Raises InvalidFilter."""
    return _any_of([location.exists() for location in key_locations(key)])


def value_condition(key: str, values: Iterable[float | str]) -> Condition:
    """Return the condition that the value under a top-level key is one of these, no list of them."""
    literals = [found for found in map(_literal, values) if found is not None]
    if not literals or not _is_text(key):
        return NOTHING
    return Condition(
        "coalesce((facts -> %s::text) IN (SELECT jsonb_array_elements(%s::jsonb)), false)",
        (encoded(key), f"[{','.join(literals)}]"),
    )


def shown_condition(span: ShownSpan) -> Condition:
    """Return the condition that an item is shown."""
    lifetime = span.lifetime
    hidden = [
        *_hidden(lifetime.begin_key, ">", span.begun_by, lifetime.utc_offset_s),
        *_hidden(lifetime.end_key, "<=", span.now, lifetime.utc_offset_s),
    ]
    return Condition("NOT facts @? %s::jsonpath", (f"$ ? ({' || '.join(hidden)})",)) if hidden else EVERYTHING


class Location(NamedTuple):
    """Where a row can hold the value of a key. head: a top-level key as facts have it. paths: from there on,
    as jsonpath; of several at most one leads to a value of an object. Empty where the head is the key."""

    head: str
    paths: Sequence[str]

    def targets(self) -> Sequence[str]:
        """Return the jsonpath of each value."""
        head = f"$.{_quoted(self.head)}"
        return [head + path for path in self.paths] if self.paths else [head]

    def exists(self) -> Condition:
        """Return whether a row has a value here."""
        if not self.paths:
            return Condition("facts ? %s", (self.head,))
        return _any_of([Condition("facts @? %s::jsonpath", (path,)) for path in self.targets()])

    def all_values(self) -> Condition:
        """Return the list of all values here, as jsonb."""
        targets = tuple(self.targets())
        return Condition(" || ".join(["jsonb_path_query_array(facts, %s::jsonpath)"] * len(targets)), targets)


def key_locations(key: str) -> list[Location]:
    """Return the locations that `filter.key_paths` looks at, in the same order, as far as metadata can be so
    deep."""
    found = []
    for head, steps in islice(splits(key), METADATA_DEPTH_MAX):
        paths = list(_paths(key, steps)) if steps else []
        for spelling in spellings(head) if paths or not steps else ():
            if _is_text(spelling):
                found.append(Location(encoded(spelling), paths))
    return found


def _paths(key: str, steps: tuple[str, ...]) -> Iterator[str]:
    """Yield one path for each way in which the steps can be spelled in an object: as in the filter, or else
    in NFC."""
    ways = []
    for step in steps:
        if not _is_text(step):
            return
        given, usual = _quoted(encoded(step)), _quoted(encoded(composed(step)))
        ways.append([f".{given}"] + [f" ? (!exists(@.{given})).{usual}"] * (given != usual))
    if math.prod(map(len, ways)) > PATHS_MAX:
        raise InvalidFilter(f"{key} has many steps that are not in Unicode's form NFC: write it so", "filter")
    yield from map("".join, product(*ways))


def _key_test(test: KeyTest) -> Condition:
    if test.operator == "$exists":
        has_key = key_condition(test.key)
        return has_key if test.operand else _not(has_key)
    positive = NOTHING
    for location in reversed(key_locations(test.key)):  # the first one that a row has decides
        matches = _matches(test, location)
        if positive != NOTHING:
            matches = _any_of([matches, all_of([_not(location.exists()), positive])])
        positive = matches
    return _not(positive) if test.operator in ("$ne", "$nin") else positive


def _matches(test: KeyTest, location: Location) -> Condition:
    """Return whether one of the values here, or an element of one that is a list, is as the test wants."""
    if test.operator in ("$in", "$nin"):
        operands = list(_literals(test.operand))
        if len(operands) > IN_PATH_MAX:
            return _any_of([_among(path, operands) for path in location.targets()])
        wanted = " || ".join(f"@ == {literal}" for literal in operands)
    elif test.operator in _ORDER:
        wanted = _ordered(_ORDER[test.operator], test.operand)
    else:
        literal = _literal(test.operand)
        wanted = "" if literal is None else f"@ == {literal}"
    if not wanted:
        return NOTHING
    some = [Condition("facts @? %s::jsonpath", (f"{path} ? ({wanted})",)) for path in location.targets()]
    return _any_of(some)


def _among(path: str, literals: Sequence[str]) -> Condition:
    return Condition(
        "EXISTS (SELECT FROM jsonb_path_query(facts, %s::jsonpath) AS held"
        " WHERE held IN (SELECT jsonb_array_elements(%s::jsonb)))",
        (f"{path}[*]", f"[{','.join(literals)}]"),
    )


def _ordered(operator: str, bound: float | str) -> str:
    """Return what holds for the numbers, or texts, beyond a bound; empty for none."""
    if isinstance(bound, str):
        if _is_text(bound):
            return f"@ {operator} {_literal(bound)}"
        # No item holds half a character: what is beyond it begins with one behind, all else comes before it.
        beyond = _literal(_HALF.split(bound, maxsplit=1)[0] + _BEHIND_HALVES)
        return f"@ {'<' if operator[0] == '<' else '>='} {beyond}"
    literal = _literal(bound)
    if literal is not None:
        return f"@ {operator} {literal}"
    return '@.type() == "number"' if (bound > 0) == (operator[0] == "<") else ""


def _literals(operands: Mapping[str, Set[Any]]) -> Iterator[str]:
    for some in operands.values():
        for operand in some:
            literal = _literal(operand)
            if literal is not None:
                yield literal


def _literal(operand: Any) -> str | None:
    """Return a scalar as JSON, in which it stands in facts, and as jsonpath; None where nothing in facts can
    be equal to it. An integer is exact as it stands, as a double it need not be."""
    if isinstance(operand, str):
        return _quoted(encoded(operand)) if _is_text(operand) else None
    if isinstance(operand, float) and math.isfinite(operand) and operand == int(operand):
        operand = int(operand)
    if isinstance(operand, int) and not isinstance(operand, bool):
        return None if abs(operand) >= _INTEGERS_END else str(operand)
    if isinstance(operand, float) and not math.isfinite(operand):
        return None
    return json.dumps(operand)


def _hidden(key: str, operator: str, seconds: float, utc_offset_s: float) -> Iterator[str]:
    """Yield what holds for facts whose moment under `key` is on that side of `seconds`."""
    if not key or not _is_text(key):
        return
    seconds = min(max(seconds, -_SECONDS_MAX), _SECONDS_MAX)
    held = f"@.{_quoted(encoded(key))}"
    full = int(MILLISECONDS_FROM)
    inside = f"{held} > -{full} && {held} < {full}"
    outside = f"({held} <= -{full} || {held} >= {full})"
    yield (
        f'({held}.type() == "number" && (({inside} && {held} {operator} {_literal(seconds)})'
        f" || ({outside} && {held} {operator} {_literal(_milliseconds_until(seconds))})))"
    )
    until = _microseconds_until(seconds)
    yield f"@.{_quoted(MOMENTS_KEY)}.{_quoted(encoded(key))} {operator} {until}"
    local = until + microseconds_in(utc_offset_s)
    yield f"@.{_quoted(LOCAL_MOMENTS_KEY)}.{_quoted(encoded(key))} {operator} {local}"


def _milliseconds_until(seconds: float) -> float:
    """Return the largest number of milliseconds that is no later, as doubles are divided."""
    found = seconds * 1000
    while found / 1000 > seconds:
        found = math.nextafter(found, -math.inf)
    while math.nextafter(found, math.inf) / 1000 <= seconds:
        found = math.nextafter(found, math.inf)
    return found


def _microseconds_until(seconds: float) -> int:
    """The same of microseconds."""
    low, high = -(10**18), 10**18  # the years 1 to 9999 lie between
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle / 1_000_000 <= seconds else (low, middle - 1)
    return low


def _not(condition: Condition) -> Condition:
    return Condition(f"NOT ({condition.sql})", condition.parameters)


def all_of(some: Sequence[Condition]) -> Condition:
    """Return the condition that each of some holds."""
    return _joined(" AND ", some) if some else EVERYTHING


def _any_of(some: Sequence[Condition]) -> Condition:
    return _joined(" OR ", some) if some else NOTHING


def _joined(word: str, some: Sequence[Condition]) -> Condition:
    if len(some) == 1:
        return some[0]
    parameters = tuple(parameter for each in some for parameter in each.parameters)
    return Condition(f"({word.join(each.sql for each in some)})", parameters)


def _quoted(text: str) -> str:
    """Return a text as JSON and as jsonpath write it."""
    return _JSON.encode(text)


def _is_text(text: str) -> bool:
    """Return whether a text has no half of a character, so that an item can hold it."""
    return _HALF.search(text) is None
