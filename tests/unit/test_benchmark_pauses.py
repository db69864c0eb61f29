"""Quiet and busy turns of a benchmark: what stands still, and which seconds count as what."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.model_change_pauses import Span, Turns, parts
from index_store.storage.durable_files import locked

WAIT_S_MAX = 30


@pytest.mark.parametrize(
    ("span", "paused", "busy", "quiet"),
    [
        ((0, 10), [], [(0, 10)], []),
        ((0, 10), [(2, 4), (6, 8)], [(0, 2), (4, 6), (8, 10)], [(2, 4), (6, 8)]),
        ((3, 7), [(2, 4), (6, 8)], [(4, 6)], [(3, 4), (6, 7)]),
        ((3, 4), [(2, 5)], [], [(3, 4)]),
        ((5, 6), [(0, 1), (8, 9)], [(5, 6)], []),
    ],
)
def test_parts_of_a_span(span: Span, paused: list[Span], busy: list[Span], quiet: list[Span]) -> None:
    assert parts(span, paused) == (busy, quiet)


def state_of(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_what_fills_stands_still_in_turns_and_goes_on_at_the_end(tmp_path: Path) -> None:
    beside = "import time; print('ready', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", beside, "do-jobs"], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            turns = Turns(child.pid, tmp_path, 0.02)
            give_up = time.monotonic() + WAIT_S_MAX
            with turns.taken():
                while state_of(child.pid) != "T" or len(turns.paused) < 2:
                    assert time.monotonic() < give_up
            assert state_of(child.pid) != "T"
            assert turns.paused == sorted(turns.paused)
        finally:
            child.kill()


@pytest.mark.long
def test_who_holds_the_lock_of_a_store_is_not_stopped(tmp_path: Path) -> None:
    store = tmp_path / "collections" / "recipes" / "g000001"
    store.mkdir(parents=True)
    held = (
        "import sys, time; from pathlib import Path; from index_store.storage.durable_files import locked\n"
        f"with locked(Path({str(store / 'store.lock')!r})): print('ready', flush=True); sys.stdin.read()\n"
        "print('let go', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", held, "do-jobs"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None and child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            turns = Turns(child.pid, tmp_path, 0.02)
            with turns.taken():
                time.sleep(0.1)
            assert turns.paused == []
            child.stdin.close()
            assert child.stdout.readline() == b"let go\n"
            with locked(store / "store.lock"):
                pass
        finally:
            child.kill()
