"""A lost pointer, and generations that no role names: what holds rows is set aside, not deleted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index_store.__main__ import main
from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE, read_pointer
from index_store.catalog.quarantine import generations_in, quarantined_in
from index_store.engine.index import EmbeddedIndex
from index_store.errors import GenerationConflict, StoreDamaged, UnknownCollection
from index_store.maintenance.check import check, notes
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.repoint import repoint
from index_store.maintenance.worker import Maintenance
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, WriteBatch

NAME, DIM = "recipes", 8
SPEC = CollectionSpec(NAME, "int64", DIM, "l2")
DAY_S = 86_400.0


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "collections" / NAME


def opened(data_dir: Path, clock: Clock) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, [SPEC], now=clock)
    for failure in index.open().values():
        raise failure
    return index


def batch(count: int, version: str) -> WriteBatch:
    vectors = np.random.default_rng(count).standard_normal((count, DIM)).astype(np.float32)
    return WriteBatch([ItemWrite(n, vector) for n, vector in enumerate(vectors)], (), version)


def ids_of(index: EmbeddedIndex) -> list[object]:
    return [hit.id for hit in index.search(NAME, [SearchRequest(np.ones(DIM, np.float32), 1000)])[0].hits]


def filled(data_dir: Path, clock: Clock, *sizes: int) -> None:
    """Generations v1, v2, ... of so many items; each but the first is begun, filled and promoted."""
    index = opened(data_dir, clock)
    for number, size in enumerate(sizes, start=1):
        index.advance(NAME, "begin", f"v{number}")
        if size:
            index.write(NAME, batch(size, f"v{number}"))
        if number > 1:
            index.advance(NAME, "promote", f"v{number}")
    index.close()


def lose_pointer(directory: Path) -> None:
    (directory / POINTER_FILE).unlink()
    (directory / BACKUP_FILE).unlink()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


def test_a_lost_pointer_is_refused_by_name_and_nothing_is_touched(
    tmp_path: Path, directory: Path, clock: Clock
) -> None:
    filled(tmp_path, clock, 300)
    lose_pointer(directory)
    before = contents(directory)
    with pytest.raises(StoreDamaged, match=r"generations\.json.*g000001") as refused:
        opened(tmp_path, clock)
    assert refused.value.hint == f"python -m index_store repoint {tmp_path} {NAME}"
    (problem,) = check(tmp_path)
    assert "g000001" in problem and problem.endswith(refused.value.hint)
    assert contents(directory) == before


def test_a_running_index_refuses_when_its_pointer_is_lost(
    tmp_path: Path, directory: Path, clock: Clock
) -> None:
    filled(tmp_path, clock, 300)
    index = opened(tmp_path, clock)
    lose_pointer(directory)
    for call in (
        lambda: ids_of(index),
        lambda: index.write(NAME, batch(2, "v1")),
        lambda: index.advance(NAME, "begin", "v2"),
    ):
        with pytest.raises(StoreDamaged):
            call()
    repoint(tmp_path, NAME)
    assert len(ids_of(index)) == 300, "it follows without being opened again"
    index.close()


def test_two_damaged_files_tell_what_helps(tmp_path: Path, directory: Path, clock: Clock) -> None:
    filled(tmp_path, clock, 20)
    for name in (POINTER_FILE, BACKUP_FILE):
        (directory / name).write_bytes(b"{}\nno checksum\n")
    with pytest.raises(StoreDamaged) as refused:
        read_pointer(directory)
    assert refused.value.hint.endswith(f"repoint {tmp_path} {NAME}")
    repoint(tmp_path, NAME)
    assert len(list(directory.glob("generations*.bad-*"))) == 2
    index = opened(tmp_path, clock)
    assert len(ids_of(index)) == 20
    index.close()
    assert check(tmp_path) == []


def test_what_a_first_begin_left_is_no_lost_pointer(tmp_path: Path, directory: Path, clock: Clock) -> None:
    """A power cut between the store's name and the pointer's."""
    filled(tmp_path, clock, 0)
    lose_pointer(directory)
    assert generations_in(directory)
    index = opened(tmp_path, clock)
    assert generations_in(directory) == [] and quarantined_in(directory) == []
    index.advance(NAME, "begin", "v1")
    index.write(NAME, batch(5, "v1"))
    assert len(ids_of(index)) == 5
    index.close()


@pytest.mark.parametrize("left", ["tombstone", "cursor", "unreadable", "acked", "segments"])
def test_whatever_may_hold_something_counts_as_a_store(
    tmp_path: Path, directory: Path, clock: Clock, left: str
) -> None:
    filled(tmp_path, clock, 0)
    generation = directory / "g000001"
    if left == "unreadable":
        (generation / "store.sqlite").write_bytes(b"half")
    elif left == "acked":
        (generation / "acked.seq").write_bytes(b"")
    elif left == "segments":
        (generation / "segments").mkdir()
    else:
        index = opened(tmp_path, clock)
        tombstone = WriteBatch((), [ItemDelete(7, 3)])
        index.write(NAME, tombstone if left == "tombstone" else WriteBatch(cursors={"a": "1"}))
        index.close()
        (generation / "acked.seq").unlink(missing_ok=True)
    lose_pointer(directory)
    with pytest.raises(StoreDamaged, match="g000001"):
        opened(tmp_path, clock)


def test_repoint_brings_everything_back(
    tmp_path: Path, directory: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, clock, 300, 300)
    lose_pointer(directory)
    assert main(["check", str(tmp_path)]) == 1
    assert main(["repoint", str(tmp_path), NAME]) == 0
    assert "current: g000002, v2\nformer: g000001, v1\n" in capsys.readouterr().out
    assert read_pointer(directory).counter == 2
    index = opened(tmp_path, clock)
    assert len(ids_of(index)) == 300
    status = index.status(NAME)
    assert status.current is not None and status.current.embedding_version == "v2"
    index.advance(NAME, "rollback", "v1")
    assert len(ids_of(index)) == 300
    index.close()
    assert main(["check", str(tmp_path)]) == 0


def test_repoint_leaves_a_sound_pointer_alone(tmp_path: Path, directory: Path, clock: Clock) -> None:
    filled(tmp_path, clock, 10)
    before = contents(directory)
    with pytest.raises(GenerationConflict, match="sound"):
        repoint(tmp_path, NAME)
    with pytest.raises(UnknownCollection):
        repoint(tmp_path, "other")
    assert contents(directory) == before


def test_repoint_does_not_serve_an_unfinished_generation_unasked(
    tmp_path: Path, directory: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, clock, 300)
    index = opened(tmp_path, clock)
    index.advance(NAME, "begin", "v2")
    index.write(NAME, batch(40, "v2"))
    index.close()
    lose_pointer(directory)
    assert main(["repoint", str(tmp_path), NAME]) == 1
    told = capsys.readouterr().err
    assert "g000001: 'v1', 300 live items" in told and "g000002: 'v2', 40 live items" in told
    command = told.rpartition("what helps: python -m index_store ")[2].split()
    assert main(command) == 0
    assert "current: g000001, v1\nnext: g000002, v2\n" in capsys.readouterr().out
    index = opened(tmp_path, clock)
    assert len(ids_of(index)) == 300
    index.close()


def test_repoint_tells_of_a_damaged_store_and_keeps_it(tmp_path: Path, directory: Path, clock: Clock) -> None:
    filled(tmp_path, clock, 300, 300)
    lose_pointer(directory)
    store = directory / "g000002" / "store.sqlite"
    store.write_bytes(b"\xff" * 4096 + store.read_bytes()[4096:])
    with pytest.raises(StoreDamaged, match="g000002, is damaged") as refused:
        repoint(tmp_path, NAME)
    assert refused.value.hint.endswith("--generation g000001")
    with pytest.raises(StoreDamaged, match="can't be read"):
        repoint(tmp_path, NAME, "g000002")
    repoint(tmp_path, NAME, "g000001")
    index = opened(tmp_path, clock)
    assert len(ids_of(index)) == 300
    index.advance(NAME, "begin", "v3")
    index.close()
    assert [path.name for path in generations_in(directory)] == ["g000001", "g000003"]
    assert [aside.retired_at for aside in quarantined_in(directory)] == [None]
    clock.now += 400 * DAY_S
    Maintenance(tmp_path, now=clock).run_once()
    assert [aside.generation for aside in quarantined_in(directory)] == ["g000002"]


def test_a_retired_generation_is_kept_counted_and_removed_in_time(
    tmp_path: Path, directory: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, clock, 30, 30, 30)
    (aside,) = quarantined_in(directory)
    assert (aside.generation, aside.retired_at) == ("g000001", clock.now)
    (note,) = notes(tmp_path)
    assert aside.path.name in note and "2027-01-15T08:00:00+00:00" in note
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"note: {note}\nsound\n"
    worker = Maintenance(tmp_path, limits=MaintenanceLimits(quarantine_keep_s=3 * DAY_S), now=clock)
    clock.now += 3 * DAY_S - 1
    worker.run_once()
    assert quarantined_in(directory) == [aside]
    clock.now += 1
    worker.run_once()
    assert quarantined_in(directory) == [] and notes(tmp_path) == []
    assert check(tmp_path) == []


def test_an_aborted_generation_can_be_brought_back_by_its_name(
    tmp_path: Path, directory: Path, clock: Clock
) -> None:
    filled(tmp_path, clock, 30)
    index = opened(tmp_path, clock)
    index.advance(NAME, "begin", "v2")
    index.write(NAME, batch(30, "v2"))
    index.advance(NAME, "abort", "v2")
    index.close()
    (aside,) = quarantined_in(directory)
    lose_pointer(directory)
    with pytest.raises(StoreDamaged, match=aside.path.name.replace(".", r"\.")):
        read_pointer(directory)
    aside.path.rename(directory / "g000002")
    assert repoint(tmp_path, NAME, "g000002").current is not None
    index = opened(tmp_path, clock)
    assert len(ids_of(index)) == 30
    index.close()
    assert check(tmp_path) == []


def test_a_pointer_that_counts_too_little_costs_no_store(
    tmp_path: Path, directory: Path, clock: Clock
) -> None:
    """A pointer file put back from an older copy: the next begin takes a name that is in use."""
    filled(tmp_path, clock, 30)
    old = (directory / POINTER_FILE).read_bytes()
    index = opened(tmp_path, clock)
    index.advance(NAME, "begin", "v2")
    index.write(NAME, batch(30, "v2"))
    for name in (POINTER_FILE, BACKUP_FILE):
        (directory / name).write_bytes(old)
    index.advance(NAME, "begin", "v2")
    index.close()
    assert [aside.generation for aside in quarantined_in(directory)] == ["g000002"]
    assert check(tmp_path) == []


def test_an_index_whose_generation_is_retired_goes_on_until_it_looks(tmp_path: Path, clock: Clock) -> None:
    """Another process drops a generation that this one searches: its files stay readable."""
    filled(tmp_path, clock, 30)
    index, other = opened(tmp_path, clock), opened(tmp_path, clock)
    other.advance(NAME, "begin", "v2")
    other.write(NAME, batch(30, "v2"))
    with index._collections[NAME].members() as members:
        current = members.current
        assert current is not None
        for version in ("v2", "v3"):
            if version == "v3":
                other.advance(NAME, "begin", version)
            other.advance(NAME, "promote", version)
        assert current.store.counters().live == 30
    assert ids_of(index) == []
    index.close()
    other.close()
    assert check(tmp_path) == []
