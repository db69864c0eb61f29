"""The COPY BINARY parser against bytes made by hand, and against damage."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder.sources.postgres.binary_copy import HEADER_BYTES, SIGNATURE, CopyFormatError, FixedField, parse

HEADER = SIGNATURE + struct.pack(">II", 0, 0)
KEY_AND_VECTOR = [FixedField("int64"), FixedField("vector", 3)]


def field(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def vector(values: list[float], kind: str = "f") -> bytes:
    return struct.pack(f">hh{len(values)}{kind}", len(values), 0, *values)


def stream(*records: list[bytes | None], header: bytes = HEADER) -> bytes:
    rows = [struct.pack(">h", len(record)) + b"".join(map(field, record)) for record in records]
    return header + b"".join(rows) + b"\xff\xff"


def key(value: int) -> bytes:
    return struct.pack(">q", value)


def test_fixed_records_are_read_whole() -> None:
    rows = parse(
        stream([key(7), vector([1.0, -2.5, 3.0])], [key(-(2**63)), vector([0.0, 0.5, 1e-30])]), KEY_AND_VECTOR
    )
    assert rows.count == 2
    assert rows.fixed[0].tolist() == [7, -(2**63)]
    assert rows.fixed[0].dtype == np.int64
    assert rows.fixed[1].dtype == np.float32
    assert rows.fixed[1].flags.c_contiguous
    assert rows.fixed[1].tolist() == [[1.0, -2.5, 3.0], [0.0, 0.5, float(np.float32(1e-30))]]


def test_half_precision_becomes_single() -> None:
    rows = parse(stream([vector([1.0, 0.33325195], "e")]), [FixedField("halfvec", 2)])
    assert rows.fixed[0].tolist() == [[1.0, float(np.float16(0.33325195))]]


def test_texts_stand_behind_fixed_fields() -> None:
    records = [
        [key(1), vector([1, 2, 3]), b"007", "갈비탕".encode()],
        [key(2), vector([4, 5, 6]), b"", b"x"],
    ]
    rows = parse(stream(*records), KEY_AND_VECTOR, texts=2)
    assert rows.fixed[0].tolist() == [1, 2]
    assert rows.fixed[1].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows.texts == [["007", ""], ["갈비탕", "x"]]


@pytest.mark.parametrize("texts", [0, 1])
def test_an_empty_table_gives_no_rows(texts: int) -> None:
    rows = parse(stream(), KEY_AND_VECTOR, texts)
    assert rows.count == 0
    assert rows.fixed[1].shape == (0, 3)


def test_a_header_extension_is_skipped() -> None:
    header = SIGNATURE + struct.pack(">II", 0, 5) + b"extra"
    assert parse(stream([key(1), vector([1, 2, 3])], header=header), KEY_AND_VECTOR).count == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a COPY"),
        (b"ERROR: relation does not exist", "not a COPY"),
        (stream(header=SIGNATURE + struct.pack(">II", 1 << 16, 0)), "flags"),
        (stream(header=SIGNATURE + struct.pack(">II", 0, 99)), "extension"),
        (stream([key(1), None]), "NULL"),
        (stream([key(1), vector([1, 2])]), "whole records"),
        (stream([key(1), vector([1, 2])], [key(1), vector([1, 2, 3, 4])]), "record 1: field count"),
        (stream([key(1), vector([1, 2, 3])])[:-1], "whole records"),
        (stream([key(1), vector([1, 2, 3])])[:-2] + b"\0\0", "whole records"),
        (stream([key(1), struct.pack(">hh3f", 2, 0, 1, 2, 3)]), "dimension of field 1"),
    ],
)
def test_what_is_not_expected_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(CopyFormatError, match=says):
        parse(data, KEY_AND_VECTOR)


@pytest.mark.parametrize(
    "record",
    [
        [key(1), vector([1, 2, 3]), None],
        [key(1), vector([1, 2, 3]), b"\xff\xfe"],
        [key(1), None, b"id"],
        [key(1), vector([1, 2]), b"id"],
        [key(1), vector([1, 2, 3]), b"id", b"one too many"],
    ],
)
def test_a_bad_record_with_text_is_refused(record: list[bytes | None]) -> None:
    with pytest.raises(CopyFormatError):
        parse(stream([key(1), vector([1, 2, 3]), b"good"], record), KEY_AND_VECTOR, texts=1)


@pytest.mark.long
@given(
    st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3),
            st.text(max_size=30).filter(lambda text: "\0" not in text),
        ),
        max_size=20,
    )
)
def test_whatever_is_written_is_read(rows: list[tuple[int, list[float], str]]) -> None:
    data = stream(*([key(number), vector(values), text.encode()] for number, values, text in rows))
    read = parse(data, KEY_AND_VECTOR, texts=1)
    assert read.fixed[0].tolist() == [row[0] for row in rows]
    assert read.fixed[1].tolist() == [row[1] for row in rows]
    assert read.texts[0] == [row[2] for row in rows]


@pytest.mark.parametrize("texts", [0, 1])
def test_damage_raises_or_reads_no_more_rows(texts: int) -> None:
    """Flipped, cut and repeated bytes: never another exception, and never more rows than were sent."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    tail = [b"an id"] * texts
    whole = stream(*([key(n), vector([n, n + 1, n + 2]), *tail] for n in range(8)))
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            del data[dice.randrange(len(data)) :]
        try:
            assert parse(bytes(data), KEY_AND_VECTOR, texts).count <= 8
        except CopyFormatError:
            refused += 1
    assert refused > 1000
    for cut in range(len(whole)):
        with pytest.raises(CopyFormatError):
            kept = parse(whole[:cut], KEY_AND_VECTOR, texts)
            assert kept.count < 0, f"read {kept.count} rows of a stream cut at {cut}"
    assert HEADER_BYTES == 19
