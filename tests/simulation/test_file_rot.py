"""Rotten bytes in any file of a data directory: found or harmless, never a crash, never a wrong answer.

The work is done in a child process, so that a crash of a native library would be seen as one.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE, decode, read_pointer
from index_store.catalog.registry import SnapshotEntry
from index_store.catalog.snapshots import (
    SEGMENTS,
    SNAPSHOTS,
    StoreIdentity,
    open_snapshot,
    registered_snapshots,
)
from index_store.engine.index import EmbeddedIndex
from index_store.errors import StoreDamaged, StoreUnavailable
from index_store.maintenance.backup import backup_data, restore_data
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.scrub import ScrubProgress
from index_store.maintenance.worker import Maintenance
from index_store.segment.builder import BuildOptions
from index_store.storage.commit_marks import ACKED_FILE
from index_store.storage.durable_files import publish
from index_store.storage.schema import STORE_FILE, connect_sqlite
from index_store.storage.scrub_state import SCRUB_FILE
from index_store.storage.sealed_directory import MANIFEST, Manifest, read_manifest, verify
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.sealing import SEED, SPECS, batch, copy_data, named, opened, vectors
from tests.simulation.forking import FORKING

pytestmark = pytest.mark.slow

SAMPLED_BYTES = 700
CUTS = 12
ROWS = 60
OPENED = 40
"""Every so many damages the whole snapshot is opened; else the check that opening begins with is asked."""
SCAN = BuildOptions(engine="scan")
GRAPH = BuildOptions(engine="hnsw", storage="float32", queries=4)


def in_child(work: Callable[[Path], None], folder: Path) -> None:
    """Run the work in another process; a segmentation fault there fails here."""
    child = FORKING.Process(target=work, args=(folder,))
    child.start()
    child.join(250)
    assert child.exitcode == 0, f"the child ended with {child.exitcode}"


def filled(data_dir: Path, build: BuildOptions) -> ReferenceIndex:
    """Rows of both collections in two segments, one of which has dead rows, and a tail after them."""
    index, reference = opened(data_dir), ReferenceIndex(SPECS)
    for spec, one in itertools.product(SPECS, (index, reference)):
        one.advance(spec.name, "begin", "v1")
        one.write(spec.name, batch(spec.name, range(ROWS), vectors(ROWS)))
    for start in (ROWS, 2 * ROWS):
        limits = MaintenanceLimits(1, 9, 1e9, disk_reserve_bytes=0, build=build)
        assert Maintenance(data_dir, limits=limits).run_once()
        for spec, one in itertools.product(SPECS, (index, reference)):
            one.write(spec.name, batch(spec.name, range(start, start + 20), vectors(20, start)))
            gone = [ItemDelete(named(spec.name, n)) for n in range(start - ROWS, start - ROWS + 9)]
            hidden = [ItemWrite(named(spec.name, start + 3), active=False)]
            one.write(spec.name, WriteBatch(hidden, gone, "v1"))
    index.close()
    return reference


@contextmanager
def changed(path: Path, offset: int, bit: int) -> Iterator[None]:
    """One bit flipped, in place."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte ^ 1 << bit]), offset)
        yield
        os.pwrite(descriptor, bytes([byte]), offset)
    finally:
        os.close(descriptor)


@contextmanager
def cut(path: Path, length: int) -> Iterator[None]:
    content = path.read_bytes()
    path.write_bytes(content[:length])
    yield
    path.write_bytes(content)


@contextmanager
def without(path: Path) -> Iterator[None]:
    content = path.read_bytes()
    path.unlink()
    yield
    path.write_bytes(content)


def damages(path: Path, chance: random.Random) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """Every damage that a file is to survive: its name, and the context in which it is done."""
    size = path.stat().st_size
    everything = path.name in (MANIFEST, POINTER_FILE, BACKUP_FILE)
    places = range(size) if everything else sorted(chance.sample(range(size), min(SAMPLED_BYTES, size)))
    for place in places:
        yield f"{path.name}: byte {place} of {size}", changed(path, place, chance.randrange(8))
    lengths = range(size) if everything else sorted(chance.sample(range(size), min(CUTS, size)))
    for length in lengths:
        yield f"{path.name}: cut from {size} to {length}", cut(path, length)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest one of a collection, and what opening it checks."""

    generation: Path
    owner: StoreIdentity
    entry: SnapshotEntry

    def directories(self) -> list[Path]:
        path = self.generation / SNAPSHOTS / self.entry.name
        return [
            path,
            *(self.generation / SEGMENTS / str(one["name"]) for one in read_manifest(path).facts["segments"]),
        ]

    def is_refused(self) -> bool:
        try:
            open_snapshot(self.generation, self.owner, self.entry, {}, trusts=False, quarantines=False)
        except StoreDamaged:
            return True
        return False


def is_manifest_refused(path: Path, sha256: str) -> bool:
    """Whoever opens a manifest knows its checksum: a snapshot's by the store, a segment's by the snapshot."""
    try:
        return read_manifest(path.parent).sha256 != sha256
    except StoreDamaged:
        return True


def is_file_refused(directory: Path, manifest: Manifest) -> bool:
    try:
        verify(directory, manifest)
    except StoreDamaged:
        return True
    return False


def look_through_directories(folder: Path) -> None:
    """Sealed segments and snapshots, one file after the other."""
    chance = random.Random(SEED)
    tried = 0
    for build, spec in ((SCAN, SPECS[0]), (GRAPH, SPECS[1])):
        filled(folder / spec.name, build)
        generation = folder / spec.name / "collections" / spec.name / "g000001"
        owner, entries = registered_snapshots(generation, connect_sqlite)
        snapshot = Snapshot(generation, owner, entries[0])
        assert not snapshot.is_refused()
        for directory in snapshot.directories():
            manifest = read_manifest(directory)
            for path in sorted(directory.iterdir()):
                for number, (name, damage) in enumerate(damages(path, chance)):
                    with damage:
                        if path.name == MANIFEST:
                            assert is_manifest_refused(path, manifest.sha256), name
                        else:
                            assert is_file_refused(directory, manifest), name
                        assert number % OPENED or snapshot.is_refused(), name
                    tried += 1
                with without(path):
                    assert snapshot.is_refused(), f"{path.name} is gone"
        assert not snapshot.is_refused()
    (folder / "tried").write_text(str(tried))


def test_segments_and_snapshots(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    in_child(look_through_directories, tmp_path)
    tried = int((tmp_path / "tried").read_text())
    print(f"{tried} damaged files, 0 undetected")
    assert tried > 20_000


EVERYTHING = SearchRequest(vectors(1)[0], 1000, with_vectors=True, with_metadata=True, exact=True)


class Outcome(Enum):
    REFUSED = "refused"
    TOLD = "told"
    HARMLESS = "harmless"


def outcome(data: Path, spec: CollectionSpec, reference: ReferenceIndex) -> Outcome:
    """Open and ask for everything. Raises AssertionError for a wrong answer that nobody was told of."""
    index = EmbeddedIndex(data, [spec])
    try:
        index.open()
        hits = index.search(spec.name, [EVERYTHING])[0].hits
        problem = index.status(spec.name).problem
    except (StoreDamaged, StoreUnavailable):
        return Outcome.REFUSED
    finally:
        index.close()
    wanted = reference.search(spec.name, [EVERYTHING])[0].hits
    right = {hit.id: hit for hit in wanted}
    for hit in hits:
        assert hit.id in right, f"{hit.id} is not live: {problem}"
        same = right[hit.id]
        assert math.isclose(hit.distance, same.distance, abs_tol=1e-9) and hit.metadata == same.metadata
        assert np.array_equal(hit.vector, same.vector)  # type: ignore[arg-type]
    if problem is not None:
        return Outcome.TOLD
    assert [hit.id for hit in hits] == [hit.id for hit in wanted], "rows are missing and nobody was told"
    return Outcome.HARMLESS


@contextmanager
def copied(folder: Path, name: str) -> Iterator[Path]:
    """A copy of one folder, gone afterwards."""
    copy = folder.with_name(name)
    copy_data(folder, copy)
    yield copy
    shutil.rmtree(copy)


def look_through_stores(folder: Path) -> None:
    """The store of record, with changes after a snapshot and without any; the small files beside it."""
    chance = random.Random(SEED)
    seen: Counter[str] = Counter()
    for way, spec in (("sealed", SPECS[0]), ("alone", SPECS[1])):
        data = folder / way
        reference = filled(data, SCAN)
        generation = Path("collections", spec.name, "g000001")
        if way == "alone":
            shutil.rmtree(data / generation / SEGMENTS)
            shutil.rmtree(data / generation / SNAPSHOTS)
        publish(
            data / generation / SCRUB_FILE, json.dumps(asdict(ScrubProgress(7, 7, 1, (8, 2**62)))).encode()
        )
        for file in (STORE_FILE, SCRUB_FILE, ACKED_FILE):
            with copied(data, "sound") as sound:
                for name, damage in damages(sound / generation / file, chance):
                    with damage, copied(sound, "damaged") as damaged:
                        try:
                            result = outcome(damaged, spec, reference)
                        except BaseException as exc:
                            raise AssertionError(f"{way} {name}: {exc}") from exc
                    seen[f"{file} {way}: {result.value}"] += 1
    (folder / "seen").write_text(json.dumps(seen))


def test_stores_and_what_lies_beside_them(tmp_path: Path) -> None:
    """An answer is right, or short by what the status tells of, or the store is refused."""
    print(f"seed {SEED}")
    in_child(look_through_stores, tmp_path)
    seen = json.loads((tmp_path / "seen").read_text())
    print(*(f"{times} {what}" for what, times in seen.items()), sep="\n")
    assert all("harmless" in what for what in seen if STORE_FILE not in what)
    assert seen[f"{STORE_FILE} alone: told"] > 20


def test_every_byte_of_the_pointer(tmp_path: Path) -> None:
    """Of either of its files: the other one is answered from, and check tells which is damaged."""
    filled(tmp_path, SCAN)
    directory = tmp_path / "collections" / "names"
    sound = read_pointer(directory)
    assert sound.current is not None
    tried = 0
    for name in (POINTER_FILE, BACKUP_FILE):
        for what, damage in damages(directory / name, random.Random(SEED)):
            with damage:
                with pytest.raises(ValueError):
                    decode((directory / name).read_bytes())
                assert read_pointer(directory) == sound, what
                assert tried % OPENED or any(name in problem for problem in check(tmp_path)), what
            tried += 1
    print(f"{tried} damaged pointers, 0 undetected")


def look_through_a_backup(folder: Path) -> None:
    chance = random.Random(SEED)
    filled(folder / "data", SCAN)
    manifest = backup_data(folder / "data", folder / "copy")
    tried = 0
    for path in sorted((folder / "copy").iterdir()):
        for number, (name, damage) in enumerate(damages(path, chance)):
            with damage:
                if path.name == MANIFEST:
                    assert is_manifest_refused(path, manifest.sha256), name
                else:
                    assert is_file_refused(folder / "copy", manifest), name
                if number % OPENED == 0:
                    with pytest.raises(StoreDamaged):
                        restore_data(folder / "copy", folder / "restored")
            tried += 1
    restore_data(folder / "copy", folder / "restored")
    (folder / "tried").write_text(str(tried))


def test_backups(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    in_child(look_through_a_backup, tmp_path)
    print(f"{(tmp_path / 'tried').read_text()} damaged files, 0 undetected")
