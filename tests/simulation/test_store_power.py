"""Power loss and failing disks, simulated on the store's own schema and statements.

`--power-states N` (default 1,200; `make crash` 50,000) sets how many crash states are tried.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from index_store.errors import WriteFailed
from index_store.maintenance.check import check_store
from index_store.record.batches import WriteJob
from index_store.record.digest import ShareHasher
from index_store.storage.disk_guard import DiskGuard
from index_store.storage.group_commit import GroupCommitter, WriterLimits
from index_store.storage.schema import STORE_FILE, connect_sqlite, create_store, prepare
from index_store.storage.transaction import commit_jobs
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, WriteBatch
from tests.simulation.failing_disk import ApswConnection, Disk, FailingVFS, after_power_loss

SEED = 90_125
SPEC = CollectionSpec("things", "int64", 16, "l2")
COMMITS = 60
VARIANTS = ("dropped", "kept", "torn", "mixed")
State = dict[int, int]


def batch_of(number: int, chance: random.Random) -> WriteBatch:
    """Commit `number`: some upserts whose vectors tell the commit, sometimes a delete, always a cursor."""
    ids = chance.sample(range(40), chance.randrange(1, 12))
    vector = np.full(SPEC.dim, number + 1, dtype=np.float32)
    items = [
        ItemWrite(i, vector, metadata={"commit": number, "pad": "x" * chance.randrange(900)}) for i in ids
    ]
    deletes = [ItemDelete(chance.randrange(40))] if number % 3 == 0 else []
    return WriteBatch(items, deletes, "v1", {"commit": str(number)})


def applied(state: State, batch: WriteBatch, number: int) -> State:
    after = state | {int(item.id): number for item in batch.items}
    for delete in batch.deletes:
        after.pop(int(delete.id), None)
    return after


def stored_state(path: Path) -> tuple[int, State]:
    """(last commit by its cursor, commit of each known id)."""
    connection = connect_sqlite(path)
    try:
        found = connection.execute("SELECT value FROM cursor").fetchone()
        rows = connection.execute("SELECT id, vector FROM item WHERE deleted=0").fetchall()
    finally:
        connection.close()
    state = {item_id: int(np.frombuffer(vector, "<f4")[0]) - 1 for item_id, vector in rows}
    return (-1 if found is None else int(found[0])), state


def fresh(directory: Path) -> Path:
    directory.mkdir()
    create_store(directory, SPEC, "v1")
    return directory / STORE_FILE


@pytest.fixture
def disk() -> Iterator[Disk]:
    found = Disk()
    vfs = FailingVFS("failing", found)
    yield found
    vfs.unregister()


def test_no_power_loss_loses_an_acknowledged_commit(
    tmp_path: Path, disk: Disk, pytestconfig: pytest.Config
) -> None:
    chosen = pytestconfig.getoption("--seed", default=None) or SEED
    print(f"seed {chosen}")
    chance = random.Random(chosen)
    path = fresh(tmp_path / "store")
    start = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    connection = ApswConnection(path, "failing")
    prepare(connection)
    connection.execute("PRAGMA wal_autocheckpoint=24")  # many checkpoints in a short run
    states: list[State] = []
    acknowledged: list[int] = []
    for number in range(COMMITS):
        batch = batch_of(number, chance)
        connection.execute("BEGIN IMMEDIATE")
        commit_jobs(connection, ShareHasher("v1"), [WriteJob(batch)])
        connection.execute("COMMIT")
        states.append(applied(states[-1] if states else {}, batch, number))
        acknowledged.append(len(disk.events))
    connection.close()
    wanted = pytestconfig.getoption("--power-states", default=1200)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for number in range(wanted):
        point = chance.randrange(len(disk.events) + 1)
        files = after_power_loss(start, disk.events[:point], VARIANTS[number % len(VARIANTS)], chance)
        for old in crashed.iterdir():
            old.unlink()
        for name, content in files.items():
            (crashed / name).write_bytes(content)
        commit, state = stored_state(crashed / STORE_FILE)
        acked = sum(length <= point for length in acknowledged) - 1
        assert acked <= commit <= acked + 1, f"state {number} at event {point}"
        assert state == (states[commit] if commit >= 0 else {}), f"state {number} at event {point}"
        assert list(check_store(crashed / STORE_FILE, "v1")) == []
    print(f"{wanted} states of {len(disk.events)} disk events, 0 acknowledged commits lost")


@pytest.mark.parametrize("is_broken", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError], ids=["EIO", "ENOSPC"])
def test_no_disk_error_is_silent_or_loses_an_acknowledged_commit(
    tmp_path: Path, disk: Disk, error: type[Exception], is_broken: bool
) -> None:
    errors = indeterminate = 0
    for run, fail_at in enumerate(range(0, 120, 3)):
        path = fresh(tmp_path / f"run{run}")
        disk.operations, disk.fail_at, disk.is_broken, disk.error = 0, fail_at, is_broken, error
        chance = random.Random(SEED + run)
        acked, possible = _commit_through(path, disk, chance)
        commit, state = stored_state(path)
        assert commit in possible and state == possible[commit], f"operation {fail_at}"
        assert commit >= acked
        assert list(check_store(path, "v1")) == []
        errors += disk.operations > fail_at
        indeterminate += commit > acked
    assert errors > 20
    print(f"{errors} failing runs, {indeterminate} failed commits were durable after all, 0 lost")


def _commit_through(path: Path, disk: Disk, chance: random.Random) -> tuple[int, dict[int, State]]:
    """Commit until the disk failed and was mended: (last acknowledged, states that may be stored)."""
    writer = GroupCommitter(
        path.parent, ShareHasher("v1"), _connect, DiskGuard(path.parent, 0), WriterLimits()
    )
    writer.start()
    acked, failures = -1, 0
    possible: dict[int, State] = {-1: {}}
    state: State = {}
    number = 0
    while number < 12 and failures < 3:
        batch = batch_of(number, chance)
        try:
            writer.submit(WriteJob(batch))
        except WriteFailed:
            failures += 1
            # Indeterminate: either state may be on disk until the same batch is repeated with success.
            possible[number] = applied(state, batch, number)
            try:
                disk.fail_at = None if failures == 2 else disk.fail_at
                writer.submit(WriteJob(batch))
            except WriteFailed:
                continue_from_disk = failures >= 2
                assert not continue_from_disk, "a mended disk must take writes again without a restart"
                break
        state = applied(state, batch, number)
        possible = {number: state}
        acked = number
        number += 1
    disk.fail_at = None
    writer.close()
    return acked, possible


def _connect(path: Path) -> Any:
    connection = ApswConnection(path, "failing")
    connection.execute("PRAGMA wal_autocheckpoint=24")
    return connection
