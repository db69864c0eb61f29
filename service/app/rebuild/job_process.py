"""A process beside the workers that does the jobs, while there are any.

Copying, embedding and comparing 100,000 items in a process that answers holds its searches up: they wait for
the interpreter's lock, and for threads of lower priority that have it when they lose their core
(docs/decisions/0089). The process may be killed at any moment, as a worker that does jobs may. It ends when
its standard input does, so it never outlives the worker that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_SEARCHES_MAX = 256
"""Told in one line, which fits into a pipe whole or not at all."""


class JobProcess:
    """The worker's side. One call at a time, from any thread."""

    def __init__(
        self,
        command: Sequence[str],
        recent_searches: Callable[[], Sequence[float]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """recent_searches: the seconds that searches of this worker took since it was last asked; told to the
        process, which paces itself by them. clock: seconds that only go forward."""
        self._command = list(command)
        self._recent_searches = recent_searches
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._next_start_at = 0.0
        self._problem: str | None = None

    def attend(self, *, is_wanted: bool) -> str | None:
        """Start the process if there is work and none runs, and tell it of the searches. Return why none runs
        although it is wanted; None otherwise."""
        self._note_end()
        if not is_wanted:
            return None
        if self._child is None and self._clock() >= self._next_start_at:
            self._start()
        if self._child is None:
            return self._problem or "the process that does the jobs does not run"
        self._tell(self._recent_searches())
        return None

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            _close(child)
            child.wait()

    def _start(self) -> None:
        try:
            self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        except OSError as exc:
            self._fail(f"the process that does the jobs can't be started: {exc}")
            return
        assert self._child.stdin is not None
        os.set_blocking(self._child.stdin.fileno(), False)

    def _note_end(self) -> None:
        child = self._child
        if child is None or (status := child.poll()) is None:
            return
        self._child = None
        _close(child)
        if status == 0:
            self._pause_s = _FIRST_PAUSE_S
        else:
            how = f"by signal {-status}" if status < 0 else f"with status {status}"
            self._fail(f"the process that does the jobs has ended {how}")

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._next_start_at = self._clock() + self._pause_s
        log.error("job_process_ended", extra={"problem": problem, "next_start_s": self._pause_s})
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _tell(self, seconds: Sequence[float]) -> None:
        """What does not fit, because the process is busy starting, is left out."""
        assert self._child is not None and self._child.stdin is not None
        line = " ".join(f"{each:.4f}" for each in seconds[-_SEARCHES_MAX:])
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._child.stdin.fileno(), line.encode() + b"\n")


class WorkerSearches:
    """The process's side: how long the searches of its worker took. `take_reported` from one thread."""

    def __init__(self, lines: IO[str], at_end: Callable[[], object]) -> None:
        """lines: standard input. at_end: called on a thread when the worker has ended."""
        self._seconds: deque[float] = deque(maxlen=1024)
        threading.Thread(target=self._read, args=(lines, at_end), name="worker", daemon=True).start()

    def take_reported(self) -> list[float]:
        """Return the seconds of each search that was told since the last call."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._seconds.popleft())
        return found

    def _read(self, lines: IO[str], at_end: Callable[[], object]) -> None:
        for line in lines:
            self._seconds.extend(map(float, line.split()))
        at_end()


def _close(child: subprocess.Popen[bytes]) -> None:
    """Close the pipe to a process that may be gone."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
