"""A generation that can't be opened for a while misses no write: it is tried again, and writes wait."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from index_store.catalog.pointer import read_pointer
from index_store.engine.index import EmbeddedIndex
from index_store.errors import StoreUnavailable
from index_store.maintenance.check import check
from index_store.storage.schema import STORE_FILE, Connection, connect_sqlite
from index_store.types import ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.unit.test_index_store_filling import SPEC, by, fill, made, store


class FailingDisk:
    """Opens stores as ever, but for those below a directory of the name `fails`."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self._error = error
        self.fails = ""
        self.tries = 0

    def connect(self, path: Path) -> Connection:
        if path.parent.name == self.fails:
            self.tries += 1
            raise self._error()
        return connect_sqlite(path)


def io_error() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error


class Workers:
    """Two indexes of one directory, as two worker processes have them; the disk fails the second one."""

    def __init__(self, directory: Path, error: Callable[[], Exception]) -> None:
        self.now = 0.0
        self.directory = directory / "collections" / "things"
        self.disk = FailingDisk(error)
        self.sound = EmbeddedIndex(directory, [SPEC])
        self.failing = EmbeddedIndex(directory, [SPEC], connect=self.disk.connect, clock=lambda: self.now)
        for each in (self.sound, self.failing):
            assert each.open() == {}

    def close(self) -> None:
        self.sound.close()
        self.failing.close()


@pytest.fixture(
    params=[io_error, lambda: OSError(errno.EMFILE, "Too many open files"), lambda: OSError(errno.EIO, "x")]
)
def workers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Workers]:
    found = Workers(tmp_path, request.param)
    found.sound.advance("things", "begin", "v1")
    store(found.sound, made(1, "one"), made(2, "two"), made(3, "three"))
    yield found
    found.close()
    assert check(tmp_path) == []


def both(index: EmbeddedIndex, text: str) -> None:
    """Write one item, delete another, and hide a third one."""
    batch = WriteBatch([made(4, text)], embedding_version="v1", other_vectors={"v2": [by("v2", text)]})
    index.write("things", batch)
    index.write("things", WriteBatch([ItemWrite(2, active=False)], [ItemDelete(3)]))


def shown(index: EmbeddedIndex, version: str) -> set[object]:
    request = SearchRequest(by(version, "one"), 10)
    (found,) = index.replay_source().search_version("things", version, [request])
    return {hit.id for hit in found.hits}


def test_writes_wait_for_a_generation_that_cannot_be_opened_and_miss_nothing(workers: Workers) -> None:
    workers.disk.fails = "g000002"
    workers.sound.advance("things", "begin", "v2")
    fill(workers.sound)
    assert len(workers.failing.search("things", [SearchRequest(by("v1", "one"), 10)])[0].hits) == 3
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="g000002"):
            both(workers.failing, "four")
        workers.now += 2
    workers.disk.fails = ""
    both(workers.failing, "four")
    assert shown(workers.sound, "v1") == shown(workers.sound, "v2") == {1, 4}
    for version in ("v1", "v2"):
        ours, theirs = (each.digest("things", 64, version) for each in (workers.failing, workers.sound))
        assert (ours.root, ours.items) == (theirs.root, theirs.items)


def test_it_is_not_tried_at_every_write_but_told(workers: Workers) -> None:
    workers.disk.fails = "g000002"
    workers.sound.advance("things", "begin", "v2")
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            both(workers.failing, "four")
    assert workers.disk.tries == 1
    status = workers.failing.status("things")
    (trouble,) = status.troubles
    assert trouble.code == "generation_not_open" and "g000002" in trouble.reason and trouble.hint
    (unopened,) = status.unopened
    assert (unopened.role, unopened.embedding_version) == ("next", "v2")
    with pytest.raises(StoreUnavailable):
        workers.failing.digest("things", 64, "v2")
    with pytest.raises(StoreUnavailable):
        workers.failing.awaiting("things", "v2", None, 5)
    workers.disk.fails = ""
    workers.now += 2
    workers.failing.catch_up_others("things")
    status = workers.failing.status("things")
    assert not status.troubles and not status.unopened
    assert [each.role for each in status.generations] == ["current", "next"]


def test_the_former_one_is_waited_for_as_well_and_can_be_given_up(workers: Workers) -> None:
    workers.sound.advance("things", "begin", "v2")
    fill(workers.sound)
    workers.sound.advance("things", "promote", "v2")
    workers.failing.close()
    workers.disk.fails = "g000001"
    assert workers.failing.open() == {}
    with pytest.raises(StoreUnavailable, match="g000001"):
        both(workers.failing, "four")
    workers.failing.advance("things", "retire", "v1")
    batch = WriteBatch([ItemWrite(9, by("v2", "nine"), True, {})], embedding_version="v2")
    assert workers.failing.write("things", batch).upserted == 1


def test_a_damaged_one_is_quarantined_by_the_next_write_of_a_worker_that_finds_it_so(
    workers: Workers,
) -> None:
    workers.sound.advance("things", "begin", "v2")
    path = workers.directory / "g000002" / STORE_FILE
    workers.sound.close()
    for side in (path.with_name(f"{STORE_FILE}-wal"), path.with_name(f"{STORE_FILE}-shm")):
        side.unlink(missing_ok=True)
    path.write_bytes(b"x" * 5000)
    batch = WriteBatch([made(4, "four")], embedding_version="v1", is_for_current=True)
    assert workers.failing.write("things", batch).upserted == 1
    assert read_pointer(workers.directory).next is None
    assert not workers.failing.status("things").unopened
