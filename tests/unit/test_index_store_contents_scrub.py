"""The slow reading of everything finds a kept content that has rotted, before a rebuild needs it."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from index_store.contents.table import scan_contents
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.maintenance.scrub import Scrub
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.storage.scrub_state import SCRUB_FILE, read_scrub_state
from index_store.types import Content, ItemWrite, WriteBatch
from tests.sealing import SPECS, vectors

ITEMS = 40


def items(numbers: range) -> WriteBatch:
    made = []
    for number, vector in zip(numbers, vectors(len(numbers)), strict=True):
        text = f"상품 {number} ".encode() * 20
        digest = hashlib.sha256(text).digest()
        made.append(ItemWrite(number, vector, content_hash=digest, content=Content("text", text)))
    return WriteBatch(made, embedding_version="v1")


@pytest.fixture
def index(tmp_path: Path) -> EmbeddedIndex:
    opened = EmbeddedIndex(tmp_path, SPECS)
    opened.open()
    opened.advance("numbers", "begin", "v1")
    opened.write("numbers", items(range(ITEMS)))
    return opened


def store_of(tmp_path: Path) -> Path:
    return tmp_path / "collections" / "numbers" / "g000001"


def rot(tmp_path: Path, item_id: int) -> None:
    connection = sqlite3.connect(store_of(tmp_path) / STORE_FILE)
    (data,) = connection.execute("SELECT data FROM content WHERE id=?", (item_id,)).fetchone()
    connection.execute("UPDATE content SET data=? WHERE id=?", (data[:-1] + b"\x00\x00", item_id))
    connection.commit()
    connection.close()


def scrubbed(tmp_path: Path, steps_max: int = 1000, contents_bytes: int = 1 << 20) -> int:
    reading, connection = (
        Scrub(store_of(tmp_path), contents_bytes),
        connect_sqlite(store_of(tmp_path) / STORE_FILE),
    )
    steps = 1
    while steps < steps_max and not reading.step(connection):
        steps += 1
    connection.close()
    return steps


def test_a_rotten_content_is_told_until_it_is_written_again(tmp_path: Path, index: EmbeddedIndex) -> None:
    rot(tmp_path, 7)
    assert index.status("numbers").troubles == []
    scrubbed(tmp_path)
    assert list(read_scrub_state(store_of(tmp_path)).damaged_contents) == [7]
    index.close()
    index.open()
    (trouble,) = index.status("numbers").troubles
    assert trouble.code == "contents_damaged" and "1 kept" in trouble.reason
    assert check(tmp_path) != []
    index.write("numbers", items(range(7, 8)))
    assert index.status("numbers").troubles == []
    scrubbed(tmp_path)
    assert list(read_scrub_state(store_of(tmp_path)).damaged_contents) == []
    index.close()
    assert check(tmp_path) == []


def test_it_reads_a_little_at_a_time_and_goes_on_where_it_was(tmp_path: Path, index: EmbeddedIndex) -> None:
    for item_id in (3, 30):
        rot(tmp_path, item_id)
    assert scrubbed(tmp_path, steps_max=4, contents_bytes=100) == 4
    state = read_scrub_state(store_of(tmp_path))
    assert state.is_at_contents and state.after is not None and state.rounds == 0
    scrubbed(tmp_path)
    state = read_scrub_state(store_of(tmp_path))
    assert (state.rounds, state.is_at_contents, list(state.damaged_contents)) == (1, False, [3, 30])
    index.close()


def test_a_state_of_before_and_a_store_without_contents(tmp_path: Path, index: EmbeddedIndex) -> None:
    before = {"after": 3, "rows": 4, "rounds": 2, "damaged": [1]}
    (store_of(tmp_path) / SCRUB_FILE).write_text(json.dumps(before))
    state = read_scrub_state(store_of(tmp_path))
    assert (state.after, state.is_at_contents, list(state.damaged_contents)) == (3, False, [])
    index.close()
    connection = sqlite3.connect(":memory:")
    assert scan_contents(connection, None, 10).last is None
