"""Callers who write one item at the same moment leave every generation with the same item."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from index_store.catalog.identity import current_identity, record_origin
from index_store.engine.index import EmbeddedIndex, EngineLimits
from index_store.engine.write_order import LOCKS, WAITING_MAX
from index_store.errors import InvalidVector, WriteFailed
from index_store.maintenance.check import check
from index_store.storage.durable_files import locked, locked_within
from index_store.storage.group_commit import LOCK_FILE, WriterLimits
from index_store.storage.schema import connect_sqlite
from index_store.types import Ack, ItemWrite, NewGeneration, StoredItem, WriteBatch
from tests.unit.test_index_store_filling import SPEC, by, made
from tests.waiting import until

CALLERS = 6
ROUNDS = 12
IDS = (0, 1)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Sequence[EmbeddedIndex]]:
    """Two indexes of one directory, as two worker processes have them."""
    workers = [EmbeddedIndex(tmp_path, [SPEC]) for _ in range(2)]
    for each in workers:
        each.open()
    workers[0].advance("things", "begin", "v1")
    write(workers[0], "begin")
    yield workers
    for each in workers:
        each.close()
    assert check(tmp_path) == []


def write(index: EmbeddedIndex, text: str, active: bool | None = None) -> Ack:
    items = [made(item_id, text) for item_id in IDS]
    if active is not None:
        items = [ItemWrite(item_id, active=active) for item_id in IDS]
        return index.write("things", WriteBatch(items))
    vectors = {"v2": [by("v2", text) for _ in items]}
    return index.write("things", WriteBatch(items, embedding_version="v1", other_vectors=vectors))


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    gate = threading.Barrier(len(calls))
    raised: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        try:
            gate.wait()
            call()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []


def callers(workers: Sequence[EmbeddedIndex], turn: int) -> list[Callable[[], object]]:
    """Most write a text, two say whether the items are active."""

    def one(number: int) -> Callable[[], object]:
        index = workers[number % len(workers)]
        if number < 2:
            return lambda: write(index, "", active=number == 0)
        return lambda: write(index, f"{turn} {number}")

    return [one(number) for number in range(CALLERS)]


def facts(items: Sequence[StoredItem | None]) -> list[object]:
    return [item and (item.active, item.metadata, item.content_hash) for item in items]


def in_both(index: EmbeddedIndex, step: str, version: str) -> tuple[list[object], list[object]]:
    """What the current generation holds, and what the one that `step` makes current holds."""
    before = facts(index.get("things", IDS))
    index.advance("things", step, version)  # type: ignore[arg-type]
    return before, facts(index.get("things", IDS))


@pytest.mark.long
def test_writers_of_one_item_come_in_one_order_to_all_generations(workers: Sequence[EmbeddedIndex]) -> None:
    workers[0].advance("things", "begin", "v2")
    step, version = "promote", "v2"
    for turn in range(ROUNDS):
        at_once(callers(workers, turn))
        before, after = in_both(workers[0], step, version)
        assert before == after
        step, version = "rollback", "v1" if version == "v2" else "v2"


@pytest.mark.long
def test_writers_that_meet_the_beginning_of_a_generation_too(workers: Sequence[EmbeddedIndex]) -> None:
    for turn in range(ROUNDS // 3):
        version = f"v{turn + 2}"
        at_once([*callers(workers, turn), partial(workers[1].advance, "things", "begin", version)])
        before, after = in_both(workers[0], "promote", version)
        assert before == after
        workers[0].advance("things", "rollback", "v1")


class BeginsMeanwhile(list[ItemWrite]):
    """Items during whose check a generation of another dim begins."""

    begin: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[ItemWrite]:
        begin, self.begin = self.begin, None
        if begin is not None:
            begin()
        return super().__iter__()


def test_vectors_for_a_generation_that_begins_meanwhile_are_of_its_dim(
    workers: Sequence[EmbeddedIndex],
) -> None:
    items = BeginsMeanwhile([ItemWrite(0, by("v2", "of four"))])
    items.begin = partial(workers[1].advance, "things", "begin", "v2", NewGeneration(8))
    with pytest.raises(InvalidVector, match="must have 8 values, got 4"):
        workers[0].write("things", WriteBatch(items, embedding_version="v2"))
    (following,) = workers[0].status("things").others
    assert (following.dim, following.live) == (8, 0)


def test_a_lock_that_cannot_be_had_writes_nothing(workers: Sequence[EmbeddedIndex], tmp_path: Path) -> None:
    workers[0].advance("things", "begin", "v2")
    before = facts(workers[0].get("things", IDS))
    for number in range(LOCKS):
        (tmp_path / "collections/things" / f"write-{number:02}.lock").mkdir()
    with pytest.raises(WriteFailed, match=f"repeating it is safe.*{os.strerror(errno.EISDIR)}"):
        write(workers[0], "never")
    assert facts(workers[0].get("things", IDS)) == before


@contextmanager
def stuck(path: Path) -> Iterator[None]:
    """Somebody who holds the lock of `path` and does nothing."""
    with locked(path):
        yield


def impatient(directory: Path, **limits: Any) -> EmbeddedIndex:
    index = EmbeddedIndex(directory, [SPEC], limits=EngineLimits(**limits))
    index.open()
    return index


def waiting_threads() -> int:
    return sum(each.name == "lock-wait" for each in threading.enumerate())


def test_a_stuck_writer_of_an_item_ends_the_wait_of_others_with_an_error(
    workers: Sequence[EmbeddedIndex], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers[0].advance("things", "begin", "v2")
    index = impatient(tmp_path, item_lock_wait_s=0.01)
    with ExitStack() as held:
        for number in range(LOCKS):
            held.enter_context(stuck(tmp_path / f"collections/things/write-{number:02}.lock"))
        with pytest.raises(WriteFailed, match="nothing was written, repeating it is safe") as caught:
            write(index, "late")
        assert caught.value.hint and f"process {os.getpid()}" in str(caught.value)
        assert "write_order_stalled" in [record.message for record in caplog.records]
    until(lambda: not waiting_threads(), "the end of the thread that still waited")
    write(index, "in time")
    assert facts(index.get("things", IDS)) == facts(workers[0].get("things", IDS))
    index.close()


@pytest.mark.long
def test_few_wait_for_a_stuck_writer_at_once(workers: Sequence[EmbeddedIndex], tmp_path: Path) -> None:
    workers[0].advance("things", "begin", "v2")
    index = impatient(tmp_path, item_lock_wait_s=0.01)
    with ExitStack() as held:
        for number in range(LOCKS):
            held.enter_context(stuck(tmp_path / f"collections/things/write-{number:02}.lock"))
        for _ in range(WAITING_MAX + 3):
            with pytest.raises(WriteFailed):
                write(index, "late")
        assert waiting_threads() == WAITING_MAX
    until(lambda: not waiting_threads(), "the end of the threads that still waited")
    index.close()


@pytest.mark.usefixtures("workers")
def test_a_stuck_commit_ends_the_wait_of_who_notes_an_origin(tmp_path: Path) -> None:
    (store,) = tmp_path.glob("collections/things/*/store.sqlite")
    with stuck(store.parent / LOCK_FILE):
        with pytest.raises(WriteFailed, match=f"process {os.getpid()} has held") as caught:
            record_origin(store.parent, connect_sqlite, "a model", wait_s=0.01)
        assert caught.value.hint
        with pytest.raises(TimeoutError), locked_within(store.parent / LOCK_FILE, 0.01):
            pass
    until(lambda: not waiting_threads(), "the end of the threads that still waited")
    assert record_origin(store.parent, connect_sqlite, "a model") is not None
    assert current_identity(tmp_path / "collections/things").origin == "a model"  # type: ignore[union-attr]


def test_a_stuck_commit_ends_the_wait_of_writers_with_an_error(
    workers: Sequence[EmbeddedIndex], tmp_path: Path
) -> None:
    index = impatient(tmp_path, writer=WriterLimits(stall_s=0.01))
    with stuck(tmp_path / "collections/things/g000001" / LOCK_FILE):
        with pytest.raises(WriteFailed, match="may or may not be stored") as caught:
            write(index, "late")
        assert caught.value.hint
    write(workers[0], "in time")
    assert facts(index.get("things", IDS)) == facts(workers[0].get("things", IDS))
    index.close()
