"""kill -9 and a failing disk after each step of a commit, by the names at the head of group_commit."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index_store.errors import WriteFailed
from index_store.maintenance.check import check_store
from index_store.record.batches import WriteJob
from index_store.record.digest import ShareHasher
from index_store.storage.commit_marks import SharedSeq, acked_seq
from index_store.storage.disk_guard import DiskGuard
from index_store.storage.group_commit import STEPS, GroupCommitter, WriterLimits
from index_store.storage.schema import STORE_FILE, connect_sqlite, create_store
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, WriteBatch
from tests.simulation.failing_calls import forked

SPEC = CollectionSpec("things", "int64", 4, "l2")
DURABLE = STEPS.index("committed")


def job(number: int) -> WriteJob:
    """Commit `number` changes one row, makes one and deletes the one that the commit before made."""
    vector = np.full(SPEC.dim, number + 1, np.float32)
    items = [ItemWrite(0, vector), ItemWrite(number + 10, vector)]
    return WriteJob(WriteBatch(items, [ItemDelete(number + 9)], "v1", {"commit": str(number)}))


def committer(directory: Path, step: Callable[[str], None] = lambda _name: None) -> GroupCommitter:
    found = GroupCommitter(
        directory, ShareHasher("v1"), connect_sqlite, DiskGuard(directory, 0), WriterLimits(), step
    )
    found.start()
    return found


def stored(directory: Path) -> tuple[int, int, list[int]]:
    """(last commit by its cursor, seq, known ids); the whole store was found sound."""
    assert list(check_store(directory / STORE_FILE, "v1")) == []
    connection = sqlite3.connect(directory / STORE_FILE)
    (commit,) = connection.execute("SELECT value FROM cursor").fetchone()
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    ids = [item_id for (item_id,) in connection.execute("SELECT id FROM item WHERE deleted=0 ORDER BY id")]
    connection.close()
    return int(commit), int(seq), ids


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    create_store(tmp_path, SPEC, "v1")
    first = committer(tmp_path)
    first.submit(job(0))
    first.close()
    return tmp_path


@pytest.mark.parametrize("name", STEPS)
def test_a_kill_after_a_step_keeps_all_of_a_commit_or_nothing(directory: Path, name: str) -> None:
    def end_at(step: str) -> None:
        if step == name:
            os.kill(os.getpid(), signal.SIGKILL)

    before = stored(directory)
    assert forked(lambda: committer(directory, end_at).submit(job(1)) and None) == -signal.SIGKILL
    commit, seq, ids = stored(directory)
    if name != "queued":  # the thread that commits may be ahead of the caller there
        assert commit == (1 if STEPS.index(name) >= DURABLE else 0)
    assert (commit, seq, ids) == (before if commit == 0 else (1, before[1] + 3, [0, 11]))
    connection = sqlite3.connect(directory / STORE_FILE)
    (store_uuid,) = connection.execute("SELECT value FROM meta WHERE key='store_uuid'").fetchone()
    connection.close()
    assert acked_seq(directory, store_uuid) <= seq, "the mark beside the store is never ahead of it"
    again = committer(directory)
    newest = again.submit(job(1)).seq
    shared = SharedSeq(directory)
    shared.open()
    assert shared.latest() == newest and acked_seq(directory, store_uuid) == newest
    shared.close()
    again.close()
    assert stored(directory)[0] == 1 and stored(directory)[2] == [0, 11]


@pytest.mark.parametrize("name", STEPS[1:])
def test_a_step_that_fails_is_told_and_repeating_the_batch_is_safe(directory: Path, name: str) -> None:
    is_broken = [True]

    def fail_at(step: str) -> None:
        if step == name and is_broken[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = committer(directory, fail_at)
    with pytest.raises(WriteFailed, match="repeating it is safe") as caught:
        writer.submit(job(1))
    assert "df -h" in caught.value.hint
    assert stored(directory)[0] == (1 if STEPS.index(name) >= DURABLE else 0)
    assert writer.trouble() is not None
    is_broken[0] = False
    writer.submit(job(1))
    assert writer.trouble() is None
    writer.close()
    assert stored(directory)[0] == 1 and stored(directory)[2] == [0, 11]


def test_the_steps_come_in_the_order_of_their_names(directory: Path) -> None:
    seen: list[str] = []
    writer = committer(directory, seen.append)
    writer.submit(job(1))
    writer.close()
    seen.remove("queued")  # said by the caller's thread
    assert tuple(seen) == STEPS[1:]
