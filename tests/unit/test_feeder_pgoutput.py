"""pgoutput messages: bytes laid out as PostgreSQL documents them, and whatever else may arrive."""

from __future__ import annotations

import contextlib
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder.sources.postgres import pgoutput
from feeder.sources.postgres.pgoutput import Binary, Column, MalformedMessage, Text, Unchanged, decode, parse

VECTOR = struct.pack(">hh2f", 2, 0, 0.6, 0.8)


def row(*values: bytes) -> bytes:
    return struct.pack(">h", len(values)) + b"".join(values)


def text(value: str) -> bytes:
    return b"t" + struct.pack(">i", len(value.encode())) + value.encode()


def binary(value: bytes) -> bytes:
    return b"b" + struct.pack(">i", len(value)) + value


NULL, UNCHANGED = b"n", b"u"
INSERT = b"I" + struct.pack(">I", 7) + b"N" + row(binary(b"\0\0\0\5"), text("한"), binary(VECTOR))


def test_begin_and_commit() -> None:
    begin = parse(b"B" + struct.pack(">qqI", 0x100, 1_000_000, 77))
    assert begin == pgoutput.Begin(0x100, 946_684_801.0, 77)
    commit = parse(b"C\0" + struct.pack(">qqq", 0x100, 0x140, 0))
    assert commit == pgoutput.Commit(0x100, 0x140, 946_684_800.0)


def test_relation_names_its_columns_and_the_key() -> None:
    column = (
        b"\1VECTOR_ID\0" + struct.pack(">Ii", 23, -1) + b"\0VECTOR_NAME\0" + struct.pack(">Ii", 16400, 512)
    )
    relation = parse(
        b"R" + struct.pack(">I", 7) + b"public\0RECIPE_VECTOR_TABLE\0d" + struct.pack(">h", 2) + column
    )
    columns = (Column("VECTOR_ID", 23, True), Column("VECTOR_NAME", 16400, False))
    assert relation == pgoutput.Relation(7, "public", "RECIPE_VECTOR_TABLE", columns)
    assert relation.position_of("VECTOR_NAME") == 1
    assert relation.position_of("RECIPE_ID") is None


def test_insert_with_binary_values() -> None:
    assert parse(INSERT) == pgoutput.Insert(7, (Binary(b"\0\0\0\5"), Text("한"), Binary(VECTOR)))


def test_update_of_another_column_carries_no_toasted_vector() -> None:
    update = parse(b"U" + struct.pack(">I", 7) + b"N" + row(binary(b"\0\0\0\5"), NULL, UNCHANGED))
    assert update == pgoutput.Update(7, None, (Binary(b"\0\0\0\5"), None, Unchanged()))


@pytest.mark.parametrize("mark", [b"K", b"O"])
def test_update_that_moves_the_key_carries_the_old_one(mark: bytes) -> None:
    body = mark + row(text("5"), NULL) + b"N" + row(text("6"), text("x"))
    assert parse(b"U" + struct.pack(">I", 7) + body) == pgoutput.Update(
        7, (Text("5"), None), (Text("6"), Text("x"))
    )


def test_delete_carries_only_the_key() -> None:
    delete = parse(b"D" + struct.pack(">I", 7) + b"K" + row(text("5"), NULL, NULL))
    assert delete == pgoutput.Delete(7, (Text("5"), None, None))


def test_truncate_of_two_tables() -> None:
    assert parse(b"T" + struct.pack(">iBII", 2, 0, 7, 8)) == pgoutput.Truncate((7, 8))


@pytest.mark.parametrize("kind", ["O", "Y", "M"])
def test_messages_that_change_no_row_are_passed_over(kind: str) -> None:
    assert parse(kind.encode() + b"whatever") == pgoutput.Other(kind)


@pytest.mark.parametrize(
    ("value", "oid", "expected"),
    [
        (Binary(b"\xff\xff"), 21, -1),
        (Binary(struct.pack(">q", -(2**63))), 20, -(2**63)),
        (Text("-12"), 23, -12),
        (Binary("한글".encode()), 1043, "한글"),
        (Text("007"), 25, "007"),
        (Binary(uuid.UUID(int=5).bytes), 2950, "00000000-0000-0000-0000-000000000005"),
        (None, 23, None),
    ],
)
def test_keys_are_decoded_by_type(value: pgoutput.Value, oid: int, expected: object) -> None:
    assert decode(value, oid) == expected


@pytest.mark.parametrize(("value", "oid"), [(Binary(b"\0\1"), 23), (Binary(b"12"), 1700), (Unchanged(), 25)])
def test_what_can_not_be_a_key_is_refused(value: pgoutput.Value, oid: int) -> None:
    with pytest.raises(MalformedMessage):
        decode(value, oid)


@pytest.mark.parametrize("end", range(len(INSERT)))
def test_every_cut_of_a_message_is_refused(end: int) -> None:
    with pytest.raises(MalformedMessage):
        parse(INSERT[:end])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="after the message"):
        parse(INSERT + b"\0")


@given(st.binary(max_size=64))
def test_any_bytes_give_a_message_or_a_refusal(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        parse(data)


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_lsn_text_round_trips(lsn: int) -> None:
    assert pgoutput.parse_lsn(pgoutput.format_lsn(lsn)) == lsn
