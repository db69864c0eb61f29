"""The process that does the jobs: when it is started, what it is told, how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.app.rebuild.job_process import JobProcess, WorkerSearches

WAIT_S_MAX = 30
STAYS = ["sh", "-c", 'echo $$ >> "$0"; exec cat > "$0.told"']
"""Notes its process id, then what it is told, until its input ends."""


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def note(tmp_path: Path) -> Path:
    return tmp_path / "started"


@pytest.fixture
def staying(note: Path) -> Iterator[JobProcess]:
    made = JobProcess([*STAYS, str(note)], lambda: [0.01, 0.25], clock=Clock())
    yield made
    made.close()


def until(is_so: Callable[[], object]) -> None:
    give_up = time.monotonic() + WAIT_S_MAX
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def started(note: Path) -> list[int]:
    return [int(line) for line in note.read_text().splitlines()] if note.exists() else []


def is_running(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


def test_it_is_started_once_for_all_jobs_and_ended_with_its_worker(staying: JobProcess, note: Path) -> None:
    assert staying.attend(is_wanted=False) is None
    assert not note.exists()
    assert staying.attend(is_wanted=True) is None
    until(lambda: started(note))
    assert staying.attend(is_wanted=True) is None
    (process_id,) = started(note)
    staying.close()
    assert not is_running(process_id)


def test_it_is_told_what_searches_took(staying: JobProcess, note: Path) -> None:
    staying.attend(is_wanted=True)
    told = note.with_suffix(".told")
    until(lambda: told.exists() and told.read_text() == "0.0100 0.2500\n")


def test_searches_are_not_held_up_by_a_process_that_does_not_listen() -> None:
    deaf = JobProcess(["sleep", "60"], lambda: [0.01] * 2000, clock=Clock())
    try:
        for _ in range(200):  # 300 kB, and a pipe holds 64
            assert deaf.attend(is_wanted=True) is None
    finally:
        deaf.close()


def test_one_that_was_killed_is_told_and_started_again_after_a_pause(note: Path) -> None:
    clock = Clock()
    process = JobProcess([*STAYS, str(note)], list, clock=clock)
    try:
        process.attend(is_wanted=True)
        until(lambda: started(note))
        os.kill(started(note)[0], signal.SIGKILL)
        until(lambda: process.attend(is_wanted=True))
        problem = process.attend(is_wanted=True)
        assert problem is not None and "signal 9" in problem
        assert len(started(note)) == 1
        clock.at += 1.0
        assert process.attend(is_wanted=True) is None
        until(lambda: len(started(note)) == 2)
    finally:
        process.close()


def test_one_that_has_nothing_left_to_do_is_started_again_at_once(tmp_path: Path) -> None:
    note = tmp_path / "runs"
    process = JobProcess(["sh", "-c", f"echo >> {note}"], list, clock=Clock())
    until(lambda: process.attend(is_wanted=True) is None and note.exists() and len(note.read_text()) > 1)
    process.close()


def test_one_that_cannot_be_started_is_told() -> None:
    clock = Clock()
    process = JobProcess(["/nowhere/python"], list, clock=clock)
    for _ in range(3):
        problem = process.attend(is_wanted=True)
        assert problem is not None and "/nowhere/python" in problem
        clock.at += 100


def test_the_process_hears_of_searches_and_of_the_end_of_its_worker() -> None:
    reading, writing = os.pipe()
    ended = threading.Event()
    with os.fdopen(reading) as lines:
        searches = WorkerSearches(lines, ended.set)
        os.write(writing, b"0.0100 0.2500\n\n0.5000\n")
        found: list[float] = []
        until(lambda: found.extend(searches.take_reported()) or len(found) == 3)
        assert found == [0.01, 0.25, 0.5]
        assert searches.take_reported() == []
        os.close(writing)
        assert ended.wait(WAIT_S_MAX)
