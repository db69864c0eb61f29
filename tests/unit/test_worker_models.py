"""What workers tell each other of the models they have loaded; each worker is a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from service.app.generations.workers import OpenModels, WorkerModels


def _work(directory: Path, orders: Connection) -> None:
    worker, wishes = WorkerModels(directory), ExitStack()
    while (order := orders.recv()) != "end":
        if order == "want":
            wishes.enter_context(worker.wanting("recipes", "v2"))
        else:
            worker.tell({"recipes": OpenModels(**order)})
        orders.send("told")
    worker.withdraw()
    orders.send("gone")


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[[], tuple[Any, Connection]]]:
    context = multiprocessing.get_context("fork")
    hired: list[Any] = []

    def one() -> tuple[Any, Connection]:
        ours, its = context.Pipe()
        process = context.Process(target=_work, args=(tmp_path, its))
        process.start()
        hired.append(process)
        return process, ours

    yield one
    for process in hired:
        process.kill()
        process.join()


def say(orders: Connection, order: Any) -> None:
    orders.send(order)
    orders.recv()


def test_who_has_loaded_what(tmp_path: Path, hire: Callable[[], tuple[Any, Connection]]) -> None:
    here = WorkerModels(tmp_path)
    here.tell({"recipes": OpenModels(["v1", "v2"], {})})
    assert here.not_loaded("recipes", "v2") == [], "there is nobody else"
    (_, first), (second_process, second) = hire(), hire()
    say(first, {"loaded": ["v1"], "missing": {}})
    say(second, {"loaded": ["v1"], "missing": {"v2": "its files are gone"}})
    assert sorted(here.not_loaded("recipes", "v2")) == ["", "its files are gone"]
    assert here.not_loaded("recipes", "v1") == []
    assert here.not_loaded("products", "v9") == ["", ""], "of a collection that they do not know"
    say(first, {"loaded": ["v1", "v2"], "missing": {}})
    assert here.not_loaded("recipes", "v2") == ["its files are gone"]
    os.kill(second_process.pid, signal.SIGKILL)
    second_process.join()
    assert here.not_loaded("recipes", "v2") == [], "nobody waits for the dead"
    assert len(list(tmp_path.iterdir())) == 4, "what it left is removed"
    say(first, "end")
    here.withdraw()
    assert list(tmp_path.iterdir()) == []


def test_who_has_which_generation_in_memory_and_who_wants_it(
    tmp_path: Path, hire: Callable[[], tuple[Any, Connection]]
) -> None:
    here = WorkerModels(tmp_path)
    (process, other) = hire()
    say(other, {"loaded": ["v1", "v2"], "missing": {}})
    assert here.not_in_memory("recipes", "v2") == 1
    say(other, {"loaded": ["v1"], "missing": {}, "in_memory": ["v2"]})
    assert here.not_in_memory("recipes", "v2") == 0
    assert here.not_in_memory("products", "v2") == 1, "of a collection that it does not know"
    say(other, "want")
    with here.wanting("recipes", "v3"), here.wanting("recipes", "v3"), here.wanting("products", "v4"):
        assert here.wanted("recipes") == {"v2", "v3"}
    (tmp_path / "0-0.wanted").write_text("[half")
    assert here.wanted("recipes") == {"v2"} and here.wanted("products") == set()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert here.not_in_memory("recipes", "v2") == 0, "nobody waits for the dead"
    assert here.wanted("recipes") == set(), "and nobody does what they wanted"


def test_a_worker_that_has_told_nothing_yet_is_waited_for(
    tmp_path: Path, hire: Callable[[], tuple[Any, Connection]]
) -> None:
    _, orders = hire()
    say(orders, {"loaded": [], "missing": {}})
    next(tmp_path.glob("*.json")).write_text("{half")
    assert WorkerModels(tmp_path).not_loaded("recipes", "v2") == [""]


def test_a_lock_file_that_another_worker_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, hire: Callable[[], tuple[Any, Connection]]
) -> None:
    """Another worker takes a file that nobody holds yet for a dead worker's."""
    (_, other) = hire()
    say(other, {"loaded": ["v1"], "missing": {}})
    removed: list[Path] = []

    def open_then_lose(path: Path, flags: int, mode: int) -> int:
        descriptor = os.open(path, flags, mode)
        if not removed:
            removed.append(path)
            path.unlink()
        return descriptor

    here = WorkerModels(tmp_path, open_then_lose)
    here.tell({"recipes": OpenModels(["v1"], {})})
    (lock,) = removed
    assert lock.exists(), "the lock is one that others see"
    assert json.loads(lock.with_suffix(".json").read_text())["recipes"]["loaded"] == ["v1"]
    here.withdraw()
