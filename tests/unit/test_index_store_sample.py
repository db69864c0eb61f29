"""Items drawn for a report: as many as are wanted, in few steps however many others lie between."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from index_store.contents.sample import draw_contents, draw_ids
from index_store.contents.table import KeptContent, keep_contents
from index_store.storage.schema import create_tables
from index_store.types import Content, Id

ROWS, LIMIT = 20_000, 50
FIRST_LIVE = ROWS * 9 // 10
STEPS_MAX = 4_000_000
"""Of SQLite's machine. Looking on for a live row from each place that is drawn takes more."""


@pytest.fixture
def store() -> Iterator[sqlite3.Connection]:
    """A catalogue of which all but the newest tenth was taken off sale."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection, "int64", {"id_kind": "int64", "seq": ROWS})
    connection.executemany(
        "INSERT INTO item VALUES(?,?,0,?,NULL,?,NULL,0,0,x'00')",
        ((number, number, number >= FIRST_LIVE, b"hash") for number in range(ROWS)),
    )
    kept: dict[Id, KeptContent | None] = dict.fromkeys(
        range(ROWS), KeptContent(Content("text", b"text"), b"hash")
    )
    keep_contents(connection, kept)
    yield connection
    connection.close()


def test_hidden_items_cost_no_more_steps_and_no_live_one_its_place(store: sqlite3.Connection) -> None:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1000
        return steps > STEPS_MAX

    store.set_progress_handler(count, 1000)
    ids = draw_ids(store, "seed", LIMIT)
    assert len(set(ids)) == LIMIT and ids == sorted(ids) == draw_ids(store, "seed", LIMIT)
    assert min(ids) >= FIRST_LIVE and ids != draw_ids(store, "another", LIMIT)
    contents = draw_contents(store, "seed", LIMIT, 1 << 20)
    assert len(contents) == LIMIT and {content.data for _, content in contents} == {b"text"}
    assert all(item_id >= FIRST_LIVE for item_id, _ in contents)
