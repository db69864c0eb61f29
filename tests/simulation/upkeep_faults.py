"""Runs upkeep of a small data directory and lets each of its calls on files fail, or be its last.

    LD_PRELOAD=LIBRARY python -m tests.simulation.upkeep_faults LIBRARY FOLDER JOB FAULT STRIDE

JOB: one of `JOBS`. FAULT: `kill`, or `errors` (ENOSPC, then EIO). STRIDE: 1 tries every call.
"""

from __future__ import annotations

import errno
import logging
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from index_store.catalog.quarantine import quarantined_in
from index_store.catalog.snapshots import SEGMENTS, SNAPSHOTS
from index_store.engine.index import EmbeddedIndex
from index_store.errors import IndexStoreError
from index_store.maintenance.backup import backup_data, restore_data
from index_store.maintenance.check import check, check_store
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.segment.builder import BuildOptions
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.storage.sealed_directory import TEMPORARY_MARK, read_manifest
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.sealing import SPECS, assert_same, base_of, batch, copy_data, named, vectors
from tests.simulation.failing_calls import Calls, forked, unsynced_renames

NAME = "names"
SPEC = SPECS[1]
ROWS = 120
_BUILD = BuildOptions(engine="hnsw", storage="float32", queries=6)
"""Every kind of file that a segment may have."""


def limits(segments_max: int, waste_share: float) -> MaintenanceLimits:
    return MaintenanceLimits(
        1, segments_max, waste_share, disk_reserve_bytes=0, scrub_pause_s=0, build=_BUILD
    )


SEAL, MERGE, REBUILD = limits(9, 1e9), limits(2, 1e9), limits(9, 0.0)


@dataclass(frozen=True, slots=True)
class Bench:
    """A copy of the prepared directory, and what it must answer."""

    folder: Path
    reference: ReferenceIndex

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def generation(self) -> Path:
        return self.data / "collections" / NAME / "g000001"

    def opened(self, data: Path | None = None) -> EmbeddedIndex:
        index = EmbeddedIndex(data or self.data, [SPEC])
        index.open()
        return index

    def change(self, index: EmbeddedIndex, number: int) -> None:
        """One row comes, one changes, one goes."""
        fresh = vectors(2, number)
        items = [ItemWrite(named(NAME, ROWS + number), fresh[0]), ItemWrite(named(NAME, number), fresh[1])]
        for one in (index, self.reference):
            one.write(NAME, WriteBatch(items, [ItemDelete(named(NAME, 50 + number))], "v1"))

    def snapshots(self) -> list[str]:
        found = [path for path in sorted((self.generation / SNAPSHOTS).glob("n*")) if path.is_dir()]
        return [path.name for path in found if ".bad-" not in path.name]

    def assert_whole(self, data: Path | None = None) -> str:
        """A process that opens it now finds everything, and every byte is sound. Return what is served."""
        index = self.opened(data)
        base = base_of(index, NAME)
        assert index.status(NAME).problem is None
        assert_same(index, self.reference, NAME, 5, queries=1)
        index.close()
        assert check(data or self.data) == []
        return base

    def assert_serves(self, index: EmbeddedIndex) -> None:
        """Searches and writes go on; a version without vectors, if one is current now, has no answers."""
        current = index.status(NAME).current
        assert current is not None
        if current.embedding_version == "v1":
            assert_same(index, self.reference, NAME, 7, queries=1)
        self.change(index, 1)  # as it was changed before: the content stays
        if current.embedding_version == "v1":
            assert_same(index, self.reference, NAME, 8, queries=1)

    def assert_tidy(self) -> None:
        """Two snapshots, the segments that they name, and nothing that a crash has left."""
        assert [str(path) for path in self.folder.rglob(f"*{TEMPORARY_MARK}*")] == []
        kept = self.snapshots()
        assert len(kept) == 2
        manifests = [read_manifest(self.generation / SNAPSHOTS / name) for name in kept]
        named_ = {one["name"] for manifest in manifests for one in manifest.facts["segments"]}
        there = {path.name for path in (self.generation / SEGMENTS).iterdir()}
        assert there == named_, (there, named_)


@dataclass(frozen=True, slots=True)
class Job:
    """act: what is interrupted; raises only IndexStoreError. settle: what follows a crash or an error, on a
    disk that is well again, and must leave everything right."""

    act: Callable[[Bench], None]
    settle: Callable[[Bench], None]


def upkeep(how: MaintenanceLimits) -> Job:
    def act(bench: Bench) -> None:
        before = bench.snapshots()
        heard = _Errors()
        logging.getLogger("index_store").addHandler(heard)
        assert Maintenance(bench.data, limits=how).run_once()
        assert heard.events or bench.snapshots()[-1:] != before[-1:], "it failed in silence"

    def settle(bench: Bench) -> None:
        bench.assert_whole()
        index = bench.opened()
        bench.change(index, 40)
        index.close()
        before = bench.snapshots()
        assert Maintenance(bench.data, limits=how).run_once()
        assert bench.snapshots()[-1] > before[-1]
        bench.assert_tidy()
        assert bench.assert_whole() == bench.snapshots()[-1]

    return Job(act, settle)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.events: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append(record.getMessage())


def _copies(bench: Bench) -> list[Path]:
    return sorted((bench.folder / "copies").glob("copy-?"))


def _back_up(bench: Bench) -> None:
    target = bench.folder / "copies" / f"copy-{len(_copies(bench))}"
    try:
        backup_data(bench.data, target)
    except IndexStoreError:
        assert not target.exists()
        raise


def _settle_backup(bench: Bench) -> None:
    for copy in _copies(bench):
        restore_data(copy, bench.folder / "again" / copy.name)  # what has its name is whole
    _back_up(bench)
    restore_data(_copies(bench)[-1], bench.folder / "last")
    bench.assert_whole(bench.folder / "last")
    assert sorted((bench.folder / "copies").iterdir()) == _copies(bench)


def _restore(bench: Bench) -> None:
    restore_data(bench.folder / "copy", bench.folder / "restored")


def _settle_restore(bench: Bench) -> None:
    restored = bench.folder / "restored"
    if not any(restored.glob("collections/*")):
        restore_data(bench.folder / "copy", restored)
    # Of a restore that ended after its last rename nothing may be left but an empty directory. Looked at
    # before an index opens it, which leaves files of its own there.
    left = [path for path in restored.iterdir() if path.name != "collections"]
    assert len(left) <= 1 and [file for path in left for file in path.iterdir()] == []
    bench.assert_whole(restored)


def _advance(bench: Bench) -> None:
    """A new generation comes, takes over, and the old one is kept."""
    index = EmbeddedIndex(bench.data, [SPEC])
    try:
        index.open()
        index.advance(NAME, "begin", "v2")
        index.advance(NAME, "promote", "v2")
        index.advance(NAME, "rollback", "v1")
        index.advance(NAME, "begin", "v3")
        index.advance(NAME, "abort", "v3")
    except OSError as exc:
        raise IndexStoreError(str(exc)) from exc
    finally:
        index.close()


def _settle_advance(bench: Bench) -> None:
    index = bench.opened()
    status = index.status(NAME)
    assert status.current is not None
    if status.current.embedding_version != "v1":
        status = index.advance(NAME, "rollback", "v1")
    for other in status.others:
        if other.role == "next":
            status = index.advance(NAME, "abort", other.embedding_version)
    index.close()
    asides = quarantined_in(bench.generation.parent)
    for aside in asides:  # a store with rows, whole, whatever call was hit
        connection = connect_sqlite(aside.path / STORE_FILE)
        (version,) = connection.execute("SELECT value FROM meta WHERE key='embedding_version'").fetchone()
        connection.close()
        assert list(check_store(aside.path / STORE_FILE, version)) == []
    there = {path.name for path in bench.generation.parent.iterdir() if path.is_dir()}
    there -= {aside.path.name for aside in asides}
    assert status.current is not None and status.current.embedding_version == "v1"
    assert there == {"g000001", *(other.generation for other in status.others)}
    bench.assert_whole()


JOBS = {
    "seal": upkeep(SEAL),
    "merge": upkeep(MERGE),
    "rebuild": upkeep(REBUILD),
    "backup": Job(_back_up, _settle_backup),
    "restore": Job(_restore, _settle_restore),
    "advance": Job(_advance, _settle_advance),
}


def prepared(folder: Path) -> Bench:
    """Two snapshots, so that the next drops one, and a change that asks for it; a copy to restore."""
    bench = Bench(folder, ReferenceIndex([SPEC]))
    index = bench.opened()
    for one in (index, bench.reference):
        one.advance(NAME, "begin", "v1")
        one.write(NAME, batch(NAME, range(ROWS), vectors(ROWS)))
    for number in range(3):
        assert number == 0 or Maintenance(bench.data, limits=SEAL).run_once()
        bench.change(index, number)
    index.close()
    backup_data(bench.data, folder / "copy")
    return bench


def interrupted(calls: Calls, bench: Bench, job: Job, at: int) -> None:
    """Kill the job at one call."""

    def work() -> None:
        calls.arm(bench.folder, at)
        job.act(bench)

    ended = forked(work)
    assert ended in (0, -signal.SIGKILL), f"call {at}: {ended}"
    assert forked(lambda: job.settle(bench)) == 0, f"after a kill at call {at}"


def failed(calls: Calls, bench: Bench, job: Job, at: int) -> None:
    """Let one call of the job fail for want of room, then again by an error, beside an index that serves."""

    def work() -> None:
        index = bench.opened()
        for error in (errno.ENOSPC, errno.EIO):
            calls.arm(bench.folder, at, error)
            try:
                job.act(bench)
            except IndexStoreError as exc:
                assert str(exc)
            calls.disarm()
            bench.assert_serves(index)
        index.close()
        job.settle(bench)

    assert forked(work) == 0, f"after an error at call {at}"


def main(library: str, folder: str, job: str, fault: str, stride: str) -> None:
    calls = Calls(library)
    template = prepared(Path(folder) / "template")
    bench = Bench(Path(folder) / "bench", template.reference)

    def renew() -> None:
        shutil.rmtree(bench.folder, ignore_errors=True)
        copy_data(template.folder, bench.folder)

    renew()
    log = Path(folder) / "calls.log"
    calls.arm(bench.folder, -1, log=log)  # in this process: its children find every module loaded
    JOBS[job].act(bench)
    calls.disarm()
    made = log.read_text().splitlines()
    unsynced = unsynced_renames(made)
    assert unsynced == [], unsynced
    total = sum(not line.startswith("from ") for line in made)
    for at in range(0, total, int(stride)):
        renew()
        if fault == "kill":
            interrupted(calls, bench, JOBS[job], at)
        else:
            failed(calls, bench, JOBS[job], at)
    tried = len(range(0, total, int(stride)))
    print(
        f"{job}: {fault} at {tried} of {total} calls that change files: all is there, the next try succeeds"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
