"""Values of source tables that JSON, UTF-8 or 64 bits have no place for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from feeder.sources.rows import IdCodec, directory_of, item_rows
from feeder.table_mapping import ItemTable
from item_rules.metadata import metadata_fault

TABLE = ItemTable(("items",), "id", "true", content={"title": "title"}, metadata={"m": "m"})


def test_ids_beyond_64_bits_are_no_ids_of_an_integer_collection() -> None:
    codec = IdCodec("int64", column_is_int=True)
    rows = [(7, True), (2**63, True), (2**64 - 1, True), (-(2**63), False), (None, True)]
    directory = directory_of(codec, rows)
    assert sorted(directory.ids()) == [-(2**63), 7]
    assert list(item_rows(TABLE, codec, [(each, True, "a", 1) for each, _ in rows])) == [7, -(2**63)]


@pytest.mark.parametrize(
    "value",
    [
        Decimal(10) ** 30,
        -(Decimal(10) ** 30),
        Decimal("1e400"),
        Decimal("NaN"),
        Decimal(2**63 - 1),
        float("inf"),
        [Decimal(10) ** 30, float("nan")],
        {"a": {"b": Decimal(10) ** 25}},
        b"\xb0\xa5",
        '["\\ud83d"]',
    ],
)
def test_metadata_of_any_number_can_be_sent_and_stored(value: Any) -> None:
    (row,) = item_rows(TABLE, IdCodec("int64", True), [(1, True, "a", value)])[1]
    assert metadata_fault(row.metadata) is None
    assert orjson.loads(orjson.dumps(row.metadata)) == row.metadata


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('["\\ud83d", "파"]', "\ufffd, 파"),
        ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
        ('["a", "b"]', "a, b"),
        (["\ud83d", None, "b"], "\ufffd, b"),
        (b"\xff", "\ufffd"),
    ],
)
def test_content_is_always_text_that_utf8_has(value: Any, text: str) -> None:
    (row,) = item_rows(TABLE, IdCodec("int64", True), [(1, True, value, None)])[1]
    assert row.content["title"] == text and row.content["title"].encode()
