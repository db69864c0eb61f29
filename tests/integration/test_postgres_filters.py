"""Filters and lifetimes in SQL hold for the same rows as the embedded engine's, whatever metadata and filters
hold."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest

from index_store.errors import InvalidFilter
from index_store.filter.compile import compile_filter
from index_store.filter.lifetimes import shown_texts
from index_store.filter.texts import passing_texts
from index_store.postgres.conditions import (
    IN_PATH_MAX,
    Condition,
    filter_condition,
    key_condition,
    shown_condition,
)
from index_store.postgres.facts import facts_of
from item_rules.lifetime import Lifetime, ShownSpan
from item_rules.metadata import metadata_fault, metadata_text
from tests.integration.databases import PostgresServer

NFD = unicodedata.normalize("NFD", "가")
ANGSTROM = "\u212b"
TEXTS = (
    *("", "a", "A", "b", "1", "true", "null", "가", NFD, "가" + NFD, "é", "e\u0301", ANGSTROM, "\xc5", "ﬁ"),
    *("\0", "\1", "\1\1", "\1\2", "\0a", "a\0", "\ue000", "\ud7ff", "\uffff", "😀", "n\u0303", "\n\u0303"),
    *("%s", "%", "'", '"', "\\", "\\u0000", "$", "@", "a.b", "\n", "{}", "[1]", "'; DROP TABLE item; --"),
)
HALVES = ("\ud800", "a\udfff", "a\ud800b", "가\udc00")
INTEGERS = (0, 1, -1, 2, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
FLOATS = (
    *(0.0, -0.0, 1.0, 1.5, 0.1, 0.1 + 0.2, 0.3, -1e-7, 5e-324, 2.0**53, 2.0**63, 2.0**64, 1e16, 1e22, 1e23),
    *(123456789012345680.0, 1.7976931348623157e308, -1e300),
)
HUGE = (float("inf"), float("-inf"), 10**16, 10**22, 10**23, 10**400, -(10**400), 10**5000, -(10**5000))
SCALARS: tuple[Any, ...] = (*TEXTS, *INTEGERS, *FLOATS, True, False, None)
HEADS = (
    *(
        "a",
        "b",
        "a.b",
        "a.b.c",
        "b.c",
        "a.a",
        "",
        ".",
        " ",
        "가",
        NFD,
        "가" + NFD,
        "가.b",
        NFD + ".b",
        "a.가",
    ),
    *("\0", "\1", '"', "%s", "'", "*", "a.e\u0301", ANGSTROM),
)
STEPS = ("a", "b", "c", "", "가", NFD, "가" + NFD, "\0", "é", "e\u0301", '"')
MOMENTS = (
    *(
        0,
        -1,
        5.5,
        99_999_999_999,
        100_000_000_000,
        1e11,
        1_795_867_200,
        1_795_867_200_000,
        1_795_867_200_000.5,
    ),
    *(-100_000_000_000, -99_999_999_999.5, 2**63, 1e300, -1e300, True, None, [5], [], {"a": 1}, "", "soon"),
    *("2026-11-28", " 2026-11-28 ", "20261128T210000", "2026-11-28T21:00:00+09:00", "2026-11-28T12:00:00Z"),
    *("2026-11-28T21:00:00.000001+09:00", "2026-11-28T21:00:00", "0001-01-01", "9999-12-31T23:59:59.999999"),
    *("\n2026-11-28", "2026-W48-6", "5", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
)


@pytest.fixture(scope="module")
def connection(postgres: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect() as connection:
        connection.execute("CREATE TEMPORARY TABLE item (id bigint, facts jsonb NOT NULL)")
        yield connection


def store(connection: psycopg.Connection[Any], rows: Sequence[Any]) -> list[str | None]:
    """Put these metadata in the place of all others; return them as texts."""
    assert [row for row in rows if row is not None and metadata_fault(row)] == []
    texts = [None if row is None else metadata_text(row) for row in rows]
    connection.execute("TRUNCATE item")
    with connection.cursor().copy("COPY item FROM STDIN") as copy:
        for number, text in enumerate(texts):
            copy.write_row((number, facts_of(text)))
    return texts


def rows_of(connection: psycopg.Connection[Any], condition: Condition) -> list[int]:
    """Return the rows that a condition holds for, which is null for none."""
    query = f"SELECT id, {condition.sql} FROM item ORDER BY id"
    found = connection.execute(query.encode(), condition.parameters).fetchall()
    assert {held for _, held in found} <= {True, False}, condition
    return [number for number, held in found if held]


def assert_equal(
    connection: psycopg.Connection[Any], texts: Sequence[str | None], condition: dict[str, Any]
) -> None:
    node = compile_filter(condition)
    expected = [number for number, passes in enumerate(passing_texts(node, texts)) if passes]
    found = rows_of(connection, filter_condition(node))
    assert found == expected, (condition, [texts[number] for number in {*found} ^ {*expected}][:3])


def value(draw: random.Random, depth: int) -> Any:
    kind = draw.random()
    if depth == 0 or kind < 0.55:
        return draw.choice(SCALARS)
    if kind < 0.8:
        return [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {draw.choice(STEPS): value(draw, depth - 1) for _ in range(draw.randrange(4))}


def condition_of(draw: random.Random, depth: int) -> dict[str, Any]:
    kind = draw.random()
    if depth and kind < 0.3:
        return {draw.choice(("$and", "$or")): [condition_of(draw, depth - 1) for _ in range(2)]}
    if depth and kind < 0.4:
        return {"$not": condition_of(draw, depth - 1)}
    key = draw.choice((*HEADS, "missing", "\ud800", "a.\ud800", *(".".join(path(draw)) for _ in HEADS)))
    return {key: some_tests(draw)}


def path(draw: random.Random) -> list[str]:
    return [draw.choice((*STEPS, *HEADS)), *(draw.choice(STEPS) for _ in range(draw.randrange(1, 4)))]


def some_tests(draw: random.Random) -> dict[str, Any]:
    operator = draw.choice(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not"))
    if operator == "$exists":
        return {operator: draw.random() < 0.5}
    if operator == "$not":
        return {operator: some_tests(draw)}
    operands = (*SCALARS, *HALVES, *HUGE)
    if operator in ("$in", "$nin"):
        count = draw.choice((0, 1, 3, 10, 30))
        padding = range(10**6, 10**6 + IN_PATH_MAX) if draw.random() < 0.3 else ()
        return {operator: [*draw.sample(operands, count), *padding]}
    if operator in ("$eq", "$ne"):
        return {operator: draw.choice(operands)}
    return {operator: draw.choice((*TEXTS, *INTEGERS, *FLOATS, *HALVES, *HUGE))}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_filter_holds_for_the_same_rows(connection: psycopg.Connection[Any], seed: int) -> None:
    draw = random.Random(seed)
    rows: list[Any] = [None, {}]
    rows += [{draw.choice(HEADS): value(draw, 4) for _ in range(draw.randrange(1, 6))} for _ in range(250)]
    texts = store(connection, rows)
    for _ in range(300):
        assert_equal(connection, texts, condition_of(draw, 3))


def test_each_scalar_is_compared_with_each(connection: psycopg.Connection[Any]) -> None:
    texts = store(connection, [{"a": scalar} for scalar in SCALARS])
    for operand in (*SCALARS, *HALVES, *HUGE):
        is_ordered = isinstance(operand, str | int | float) and not isinstance(operand, bool)
        for operator in ("$eq", "$gt", "$gte", "$lt", "$lte") if is_ordered else ("$eq",):
            assert_equal(connection, texts, {"a": {operator: operand}})
    for operands in (SCALARS[::2], (*SCALARS[1::2], *HUGE, *range(10**6, 10**6 + IN_PATH_MAX))):
        assert_equal(connection, texts, {"a": {"$in": operands}})
        assert_equal(connection, texts, {"a": {"$nin": operands}})


def test_a_row_has_a_key_where_a_filter_finds_one(connection: psycopg.Connection[Any]) -> None:
    draw = random.Random(3)
    texts = store(connection, [{draw.choice(HEADS): value(draw, 4) for _ in range(3)} for _ in range(200)])
    for key in (*HEADS, *(".".join(path(draw)) for _ in range(60))):
        if not key.startswith("$"):
            node = compile_filter({key: {"$exists": True}})
            expected = [number for number, passes in enumerate(passing_texts(node, texts)) if passes]
            assert rows_of(connection, key_condition(key)) == expected, key


def test_an_item_is_shown_at_the_same_moments(connection: psycopg.Connection[Any]) -> None:
    draw = random.Random(4)
    keys = ("from", "un\0til", "가", NFD)
    rows: list[Any] = [{key: draw.choice(MOMENTS) for key in keys if draw.random() < 0.8} for _ in range(400)]
    texts = store(connection, [None, *rows])
    times = [
        0.0,
        1_795_867_200.0,
        1_795_867_200.000001,
        1_795_867_199.9999998,
        -62135596800.0,
        253402300800.0,
    ]
    times += [draw.uniform(-1e11, 1e11) for _ in range(10)] + [5.5, -1e8, 1e8, float("-inf"), 1e300]
    for now in times:
        for begin, end, offset in (("from", "un\0til", 0.0), ("가", "", 32400.0), ("", NFD, -3600.5)):
            begun_by = draw.choice((now, *times))
            span = ShownSpan(Lifetime(begin, end, offset), begun_by, now)
            expected = [number for number, is_shown in enumerate(shown_texts(span, texts)) if is_shown]
            assert rows_of(connection, shown_condition(span)) == expected, span


def test_a_key_with_too_many_spellings_is_refused() -> None:
    with pytest.raises(InvalidFilter, match="NFC"):
        filter_condition(compile_filter({".".join(["a", *[NFD] * 15]): 1}))


def test_many_operands_and_conditions_are_answered(connection: psycopg.Connection[Any]) -> None:
    texts = store(connection, [{"a": number, "b": f"t{number}"} for number in range(50)])
    assert_equal(connection, texts, {"a": {"$in": list(range(40, 40_000))}})
    assert_equal(connection, texts, {"b": {"$nin": [f"t{number}" for number in range(40, 40_000)]}})
    assert_equal(connection, texts, {"$or": [{"a.b.c.d": number} for number in range(300)] + [{"a": 7}]})
