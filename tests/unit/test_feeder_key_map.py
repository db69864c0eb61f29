"""What a feeder remembers of the vector table's rows outlives a kill at any moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from feeder.read.vector_reader import VectorReader
from feeder.state.key_map import KeyMap
from feeder.state.state_file import follower_of
from tests.unit.test_feeder_reconciler import ListItems, ListVectors


class Source:
    """A vector table, an items table, and the file of who follows them."""

    def __init__(self, folder: Path) -> None:
        self.vectors, self.items = ListVectors(), ListItems()
        self._path = str(folder / "products.sqlite")

    def put(self, key: int, item_id: str) -> None:
        self.vectors.rows[key] = (item_id, np.array([1, 0, 0, key], dtype=np.float32))
        self.items.active[item_id] = True

    def begun(self) -> VectorReader:
        reader = VectorReader(self.vectors, self.items, KeyMap(self._path), id_kind="string", page_rows=7)
        reader.open()
        return reader

    def followed(self) -> VectorReader:
        """One that has read everything, and whose index holds it."""
        reader = self.begun()
        scan = reader.scan()
        list(scan.chunks())
        scan.finish()
        return reader


def test_a_row_that_is_gone_again_after_a_kill_takes_its_id_along(tmp_path: Path) -> None:
    """The service may have stored the item; the row can't be asked for its id any more."""
    source = Source(tmp_path)
    source.put(1, "a")
    reader = source.followed()
    source.put(2, "b")
    assert [item.id for item in reader.current_state(keys=[2]).items] == ["b"]
    reader.close()  # killed: the service stored b, nothing was noted
    del source.vectors.rows[2]
    again = source.begun()
    assert again.is_ready
    assert list(again.current_state(keys=[2]).absent) == ["b"]
    again.close()


def test_a_row_that_moved_twice_around_a_kill_leaves_no_id_behind(tmp_path: Path) -> None:
    source = Source(tmp_path)
    source.put(1, "a")
    reader = source.followed()
    source.put(1, "b")
    reader.current_state(keys=[1])
    reader.close()  # killed: the service holds b and not a
    source.put(1, "c")
    again = source.begun()
    known = again.current_state(keys=[1])
    assert [item.id for item in known.items] == ["c"]
    assert set(known.absent) == {"a", "b"}
    again.note_stored(known, {})
    assert set(again.current_state(keys=[1]).absent) == set(), "forgotten once the service has stored it"
    again.close()


def test_a_file_of_the_former_form_is_made_anew(tmp_path: Path) -> None:
    source = Source(tmp_path)
    import sqlite3

    with sqlite3.connect(tmp_path / "products.sqlite") as db:
        db.executescript(
            "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
            "CREATE TABLE row(source_key PRIMARY KEY NOT NULL, id NOT NULL) WITHOUT ROWID;"
            "INSERT INTO meta VALUES('identity', 'list')"
        )
    reader = source.begun()
    assert not reader.is_ready
    reader.close()


def test_a_state_directory_has_one_name_whoever_asks_first(tmp_path: Path) -> None:
    """Each collection is followed by a thread of its own, and all begin at once."""
    for turn in range(50):
        directory = tmp_path / str(turn)
        directory.mkdir()
        with ThreadPoolExecutor(8) as pool:
            names = set(pool.map(lambda _, where=directory: follower_of(where), range(8)))
        assert len(names) == 1 and [path.name for path in directory.iterdir()] == ["follower"]


def test_a_scan_is_finished_only_behind_its_last_chunk(tmp_path: Path) -> None:
    source = Source(tmp_path)
    source.put(1, "a")
    reader = source.begun()
    scan = reader.scan()
    with pytest.raises(AssertionError, match="comes first"):
        scan.finish()
    chunks = scan.chunks()
    next(chunks)
    chunks.close()
    with pytest.raises(AssertionError, match="to its end"):
        scan.finish()
    assert not reader.is_ready
    reader.close()
