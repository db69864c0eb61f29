"""kill -9 at each step of seal, merge, rebuild and publish: what is left opens, is right, and goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.types import ItemDelete, ItemWrite, WriteBatch
from tests.sealing import assert_same, base_of, filled, named, opened, sealed, snapshots_of, vectors
from tests.simulation.forking import FORKING
from tests.simulation.sealing_child import maintain_until

COLLECTIONS = ("numbers", "names")
STEPS = {
    "segment_begun",
    "segment_engines_written",
    "segment_metadata_written",
    "segment_sealed",
    "segment_published",
    "snapshot_written",
    "snapshot_sealed",
    "snapshot_registered",
    "snapshot_published",
    "snapshots_unregistered",
    "old_removed",
}


@pytest.mark.parametrize(
    ("segments_max", "waste_share"), [(9, 1e9), (2, 1e9), (9, 0.0)], ids=["seal", "merge", "rebuild"]
)
def test_kill_at_each_step(tmp_path: Path, segments_max: int, waste_share: float) -> None:
    reference = filled(tmp_path, rows=150)
    index = opened(tmp_path)

    def change(number: int) -> None:
        for collection in COLLECTIONS:
            items = [ItemWrite(named(collection, 150 + number), vectors(1, number)[0])]
            batch = WriteBatch(items, [ItemDelete(named(collection, number))], "v1")
            for one in (index, reference):
                one.write(collection, batch)

    for number in range(3):  # three snapshots: the next one drops an old one
        change(100 + number)
        sealed(tmp_path, MaintenanceLimits(1, 9, 1e9, disk_reserve_bytes=0))
    died_at: set[str] = set()
    fatal = 0
    while not died_at >= STEPS:
        change(fatal)
        arguments = (str(tmp_path), fatal, segments_max, waste_share)
        child = FORKING.Process(target=maintain_until, args=arguments)
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        died_at.add((tmp_path / "died_at").read_text())
        other = opened(tmp_path)
        for handle in (index, other):
            assert_same(handle, reference, COLLECTIONS[fatal % 2], fatal, queries=1)
        other.close()
        assert check(tmp_path) == []
        fatal += 1
    print(f"{fatal} kills at {sorted(died_at)}")
    sealed(tmp_path)
    other = opened(tmp_path)
    assert base_of(other) == snapshots_of(tmp_path)[-1].name
    assert_same(other, reference, "numbers", 99)
    other.close()
    index.close()
    assert check(tmp_path) == [] and len(snapshots_of(tmp_path)) == 2
