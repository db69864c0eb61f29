"""Damage, failures around snapshots, and what comes of them; tests/simulation tries every byte and call."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from index_store.catalog.pointer import read_pointer
from index_store.errors import StoreDamaged, WriteFailed
from index_store.maintenance.backup import restore_data
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.scrub import Scrub
from index_store.maintenance.worker import Maintenance
from index_store.storage.commit_marks import ACKED_FILE
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.types import ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.sealing import (
    SMALL,
    SPECS,
    assert_same,
    base_of,
    batch,
    filled,
    opened,
    sealed,
    snapshots_of,
    vectors,
)
from tests.waiting import until

pytestmark = pytest.mark.slow  # `make test` runs these; a check before each commit must be quick


def generation_directory(data_dir: Path, collection: str = "numbers") -> Path:
    return data_dir / "collections" / collection / "g000001"


def flip(path: Path, offset: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["vectors.f32", "codes.faiss", "manifest.json", "metadata.utf8"])
def test_a_damaged_segment_is_set_aside_and_made_again(tmp_path: Path, file: str) -> None:
    reference = filled(tmp_path)
    sealed(tmp_path)
    (path,) = generation_directory(tmp_path).glob(f"segments/*/{file}")
    flip(path, path.stat().st_size // 2, 3)
    index = opened(tmp_path)
    assert base_of(index) == "" and base_of(index, "names") != ""
    assert_same(index, reference, "numbers", 1)
    assert [one for one in snapshots_of(tmp_path) if ".bad-" in one.name]
    sealed(tmp_path, MaintenanceLimits(disk_reserve_bytes=0))  # not due by its rows, but the last one is bad
    other = opened(tmp_path)
    assert base_of(other) != ""
    assert_same(other, reference, "numbers", 2)
    other.close()
    index.close()
    assert check(tmp_path) == []


def test_the_snapshot_before_serves_when_the_newest_is_damaged(tmp_path: Path) -> None:
    reference = filled(tmp_path)
    sealed(tmp_path)
    index = opened(tmp_path)
    before = base_of(index)
    more = WriteBatch([ItemWrite(n, vectors(1)[0]) for n in range(5)], [ItemDelete(9)], "v1")
    for one in (index, reference):
        one.write("numbers", more)
    index.close()
    sealed(tmp_path, MaintenanceLimits(seal_rows=1, waste_share=1e9, disk_reserve_bytes=0))
    newest = snapshots_of(tmp_path)[-1]
    assert newest.name != before
    flip(newest / "live-0.bits", 3, 1)
    index = opened(tmp_path)
    assert base_of(index) == before
    assert_same(index, reference, "numbers", 3)
    index.close()


def test_a_full_or_failing_disk_publishes_nothing_and_serving_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ENOSPC or EIO right after each effect on the disk."""
    reference = filled(tmp_path, rows=80)
    index = opened(tmp_path)
    names: list[str] = []
    short = Maintenance(tmp_path, limits=SMALL, free=lambda _path: 1000)
    for _ in range(3):
        assert short.run_once()
    assert snapshots_of(tmp_path) == []
    said = [one for one in caplog.records if one.getMessage() == "maintenance_waits"]
    assert len(said) == len(SPECS) and "df -h" in said[0].__dict__["hint"]
    assert not any(one.exc_info for one in caplog.records)
    steps = [0]
    while True:
        fail_at, seen = steps[0], [0]

        def step(name: str, fail_at: int = fail_at, seen: list[int] = seen) -> None:
            seen[0] += 1
            if seen[0] == fail_at + 1:
                names.append(name)
                raise OSError([errno.ENOSPC, errno.EIO][fail_at % 2], "injected")

        change = WriteBatch([ItemWrite(fail_at, vectors(1, fail_at)[0])], (), "v1")
        for one in (index, reference):
            one.write("numbers", change)
        assert Maintenance(tmp_path, limits=SMALL, step=step).run_once()
        assert_same(index, reference, "numbers", fail_at)
        other = opened(tmp_path)
        assert_same(other, reference, "numbers", fail_at)
        other.close()
        assert check(tmp_path) == []
        if seen[0] <= fail_at:
            break
        steps[0] += 1
    print(sorted(set(names)))
    assert {"segment_sealed", "segment_published", "snapshot_registered", "snapshot_published"} <= set(names)
    sealed(tmp_path)
    leftovers = list(generation_directory(tmp_path).rglob("*.tmp-*"))
    assert leftovers == []
    index.close()


def test_the_store_fails_while_a_snapshot_is_registered(tmp_path: Path) -> None:
    filled(tmp_path)

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *more: object) -> sqlite3.Cursor:  # type: ignore[override]
            if sql == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *more)  # type: ignore[arg-type]

    def connect(path: Path) -> sqlite3.Connection:
        uri = f"{path.as_uri()}?mode=rw"
        return sqlite3.connect(uri, uri=True, isolation_level=None, factory=Failing)

    assert Maintenance(tmp_path, limits=SMALL, connect=connect).run_once()
    assert snapshots_of(tmp_path) == [] and check(tmp_path) == []


def test_an_older_store_under_a_newer_snapshot_is_found_out(tmp_path: Path) -> None:
    reference = filled(tmp_path)
    directory = generation_directory(tmp_path)
    shutil.copy(directory / STORE_FILE, tmp_path / "older.sqlite")
    index = opened(tmp_path)
    index.write("numbers", batch("numbers", range(300, 400), vectors(100, 9)))
    index.close()
    sealed(tmp_path)
    shutil.copy(tmp_path / "older.sqlite", directory / STORE_FILE)
    index = opened(tmp_path)
    assert base_of(index) == ""  # the snapshot is not this store's, though its uuid is
    assert_same(index, reference, "numbers", 1)
    problem = index.status("numbers").problem
    assert problem is not None and "100 commits behind" in problem
    index.write("numbers", batch("numbers", range(500, 700), vectors(200, 9)))  # beyond the snapshot's seq
    index.close()
    index = opened(tmp_path)
    assert base_of(index) == ""
    index.close()


def test_the_side_file_of_another_store_or_a_damaged_one_alarms_nobody(tmp_path: Path) -> None:
    filled(tmp_path)
    path = generation_directory(tmp_path) / ACKED_FILE
    content = path.read_bytes()
    for offset in range(len(content)):
        flip(path, offset, offset % 8)
        index = opened(tmp_path)
        assert index.status("numbers").problem is None, f"byte {offset}"
        index.close()
        path.write_bytes(content)


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
@pytest.mark.parametrize("role", ["next", "former"])
def test_a_generation_beside_the_current_one_may_be_lost(tmp_path: Path, damage: str, role: str) -> None:
    reference = filled(tmp_path)
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v2")
    if role == "former":
        index.advance("numbers", "promote", "v2")
        index.advance("numbers", "rollback", "v1")
    index.close()
    store = tmp_path / "collections" / "numbers" / "g000002" / STORE_FILE
    for beside in ("-wal", "-shm"):
        store.with_name(STORE_FILE + beside).unlink(missing_ok=True)
    if damage == "gone":
        store.unlink()
    else:
        store.write_bytes(b"" if damage == "cut" else b"x" * 100_000)
    index = opened(tmp_path)
    assert_same(index, reference, "numbers", 1)
    status = index.status("numbers")
    assert status.current is not None and status.others == []
    index.write("numbers", WriteBatch([ItemWrite(1, active=False)]))
    index.close()
    assert [one.name for one in read_pointer(tmp_path / "collections" / "numbers").members] == ["g000001"]
    assert list((tmp_path / "collections" / "numbers").glob("g000002.bad-*"))
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v2")
    index.close()
    assert check(tmp_path) == []


def test_the_scrub_finds_rotten_rows_and_goes_on_where_it_was(tmp_path: Path) -> None:
    filled(tmp_path, rows=3000)
    sealed(tmp_path)
    directory = generation_directory(tmp_path)
    index = opened(tmp_path)
    sound = index.digest("numbers").items
    index.close()
    connection = sqlite3.connect(directory / STORE_FILE)
    (vector,) = connection.execute("SELECT vector FROM item WHERE id=2500").fetchone()
    rotten = bytes([vector[0] ^ 4]) + vector[1:]
    connection.execute("UPDATE item SET vector=? WHERE id=2500", (rotten,))
    connection.execute("UPDATE item SET metadata='{}' WHERE id=7")
    connection.commit()
    (directory / "scrub.json").unlink(missing_ok=True)
    watching = opened(tmp_path)
    assert watching.status("numbers").problem is None
    first = Scrub(directory)
    assert not first.step(connect_sqlite(directory / STORE_FILE))
    assert first.progress.damaged == (7,) and first.progress.after == 2047
    second = Scrub(directory)  # another process, later
    assert second.progress.after == 2047
    assert second.step(connect_sqlite(directory / STORE_FILE))
    assert second.progress.rounds == 1 and set(second.progress.damaged) == {7, 2500}
    connection.close()
    until(lambda: bool(base_of(watching)) and watching.status("numbers").problem is not None)
    watching.close()
    index = opened(tmp_path)
    assert base_of(index) != ""
    problem = index.status("numbers").problem
    assert problem is not None and "rows fail their checksum" in problem
    assert index.digest("numbers").items < sound
    query = vectors(3000)[2500]
    assert (
        index.search("numbers", [SearchRequest(query, 1)])[0].hits[0].id == 2500
    )  # the segment has it whole
    index.close()


def test_a_scrub_that_cannot_be_saved_reads_on_and_keeps_what_it_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, rows=100)
    directory = generation_directory(tmp_path)
    connection = sqlite3.connect(directory / STORE_FILE)
    connection.execute("UPDATE item SET metadata='{}' WHERE id=7")
    connection.commit()
    blocked = directory / "scrub.json.tmp-"
    blocked.mkdir()
    scrub = Scrub(directory)
    assert scrub.step(connection) and scrub.step(connection)
    assert scrub.progress.rounds == 2 and list(scrub.progress.damaged) == [7]
    assert [one.getMessage() for one in caplog.records].count("scrub_not_saved") == 1
    blocked.rmdir()
    assert scrub.step(connection)
    connection.close()
    assert Scrub(directory).progress.damaged == (7,)


def test_the_scrub_finds_rotten_files_and_maintenance_makes_them_again(tmp_path: Path) -> None:
    reference = filled(tmp_path)
    sealed(tmp_path)
    (path,) = generation_directory(tmp_path).glob("segments/*/vectors.f32")
    maintenance = Maintenance(tmp_path, limits=MaintenanceLimits(scrub_pause_s=0, disk_reserve_bytes=0))
    assert maintenance.run_once()
    old = snapshots_of(tmp_path)
    flip(path, 1000, 1)
    for _ in range(4):
        assert maintenance.run_once()
    assert not path.exists()
    fresh = [one for one in snapshots_of(tmp_path) if ".bad-" not in one.name]
    assert len(fresh) == 1 and fresh != old
    index = opened(tmp_path)
    assert base_of(index) == fresh[0].name
    assert_same(index, reference, "numbers", 1)
    index.close()


def test_a_hot_backup_comes_back_whole(tmp_path: Path) -> None:
    reference = filled(tmp_path / "data")
    sealed(tmp_path / "data")
    index = opened(tmp_path / "data")
    index.advance("names", "begin", "v2")
    seqs = index.backup(tmp_path / "copies" / "one")
    assert seqs == {"numbers.g000001.sqlite": 300, "names.g000001.sqlite": 300, "names.g000002.sqlite": 300}
    with pytest.raises(WriteFailed, match="exists"):
        index.backup(tmp_path / "copies" / "one")
    digest = index.digest("numbers").root
    index.write("numbers", WriteBatch(deletes=[ItemDelete(3)]))
    index.close()
    assert restore_data(tmp_path / "copies" / "one", tmp_path / "restored") == ["names", "numbers"]
    assert check(tmp_path / "restored") == []
    with pytest.raises(WriteFailed, match="holds collections"):
        restore_data(tmp_path / "copies" / "one", tmp_path / "restored")
    index = opened(tmp_path / "restored")
    assert_same(index, reference, "numbers", 1)
    assert index.digest("numbers").root == digest and index.status("numbers").problem is None
    assert len(index.status("names").others) == 1
    index.close()
    sealed(tmp_path / "restored")
    assert check(tmp_path / "restored") == []


def test_a_damaged_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "data", rows=40)
    index = opened(tmp_path / "data")
    index.backup(tmp_path / "copy")
    index.close()
    for path in sorted((tmp_path / "copy").iterdir()):
        content = path.read_bytes()
        flip(path, len(content) // 3, 2)
        with pytest.raises(StoreDamaged):
            restore_data(tmp_path / "copy", tmp_path / "restored")
        path.write_bytes(content)
    assert not (tmp_path / "restored").exists() or list((tmp_path / "restored").iterdir()) == []
    restore_data(tmp_path / "copy", tmp_path / "restored")
    assert np.array(check(tmp_path / "restored")).size == 0
