"""Rows that rot in the store: found by the scrub and by whoever loads them, never served, mended by a write.

Sealed rows are a segment's files: `test_file_rot` damages those.
"""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.maintenance.scrub import Scrub
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.types import ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.sealing import SEED, SPECS, assert_same, base_of, opened, sealed, vectors

ROWS = 1500
FLIPS = 200
COLUMNS = ("vector", "metadata", "content_hash", "source_version", "share", "crc", "active", "seq")


def item(number: int) -> ItemWrite:
    return ItemWrite(number, vectors(ROWS)[number], True, {"n": number}, number, b"hash of it")


def filled(data_dir: Path) -> tuple[EmbeddedIndex, ReferenceIndex]:
    index, reference = opened(data_dir), ReferenceIndex(SPECS)
    items = [item(number) for number in range(ROWS)]
    for one in (index, reference):
        one.advance("numbers", "begin", "v1")
        one.write("numbers", WriteBatch(items, [ItemDelete(n, n) for n in range(0, ROWS, 50)], "v1"))
    return index, reference


def flipped(value: Any, chance: random.Random) -> Any:
    """The value with one bit changed."""
    if isinstance(value, int):
        return value ^ 1 << chance.randrange(60 if abs(value) > 1 else 1)
    content = bytearray(value.encode() if isinstance(value, str) else value)
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(7)
    return content.decode() if isinstance(value, str) else bytes(content)


def rot(store: Path, chance: random.Random) -> set[int]:
    """Flip a bit of one column of `FLIPS` rows; return their ids."""
    connection = sqlite3.connect(store)
    ids = chance.sample([n for n in range(ROWS) if n % 50], FLIPS)
    for place, number in enumerate(ids):
        column = COLUMNS[place % len(COLUMNS)]
        (value,) = connection.execute(f"SELECT {column} FROM item WHERE id=?", (number,)).fetchone()
        changed = flipped(value, chance) if column != "seq" else value + 10**6
        connection.execute(f"UPDATE item SET {column}=? WHERE id=?", (changed, number))
    connection.commit()
    connection.close()
    return set(ids)


def test_the_scrub_finds_every_rotten_row(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    index, _ = filled(tmp_path)
    index.close()
    store = tmp_path / "collections" / "numbers" / "g000001" / STORE_FILE
    rotten = rot(store, random.Random(SEED))
    scrub, connection = Scrub(store.parent), connect_sqlite(store)
    while not scrub.step(connection):
        pass
    connection.close()
    assert set(scrub.progress.damaged) == rotten
    index = opened(tmp_path)
    problem = index.status("numbers").problem
    assert problem is not None and f"{FLIPS} rows fail their checksum" in problem
    index.close()


def test_loading_finds_every_rotten_row_and_writing_mends_it(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    index, reference = filled(tmp_path)
    index.close()
    rotten = rot(tmp_path / "collections" / "numbers" / "g000001" / STORE_FILE, random.Random(SEED))
    index = opened(tmp_path)
    problem = index.status("numbers").problem
    assert problem is not None and f"{FLIPS} rows fail their checksum" in problem
    everything = SearchRequest(vectors(1)[0], 2 * ROWS, exact=True)
    served = {hit.id for hit in index.search("numbers", [everything])[0].hits}
    wanted = {hit.id for hit in reference.search("numbers", [everything])[0].hits}
    assert served == wanted - rotten
    assert index.get("numbers", sorted(rotten)) == [None] * FLIPS
    assert index.digest("numbers").root != reference.digest("numbers").root
    again = WriteBatch([item(number) for number in sorted(rotten)], (), "v1")
    for one in (index, reference):
        one.write("numbers", again)
    assert index.status("numbers").problem is None
    assert index.digest("numbers").root == reference.digest("numbers").root
    assert_same(index, reference, "numbers", 1)
    index.close()
    assert check(tmp_path) == []


def test_a_rotten_row_is_served_as_it_was_sealed(tmp_path: Path) -> None:
    """Where a segment holds it whole, nothing is lost."""
    print(f"seed {SEED}")
    index, reference = filled(tmp_path)
    index.close()
    sealed(tmp_path)
    store = tmp_path / "collections" / "numbers" / "g000001" / STORE_FILE
    connection = sqlite3.connect(store)
    connection.execute("UPDATE item SET vector=zeroblob(64) WHERE id%7=1")
    connection.commit()
    connection.close()
    index = opened(tmp_path)
    assert base_of(index) != ""
    assert_same(index, reference, "numbers", 2)
    index.close()
    assert any("fails its checksum" in problem for problem in check(tmp_path))
