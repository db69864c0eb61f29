"""Pauses of what works beside the searches, in turns: quiet and busy seconds of one machine, a moment apart.

A quiet time before a rebuild says little on a machine that others use: it may be busier a minute later. Here
the processes that fill and seal are stopped (SIGSTOP) and let go on, so that each busy turn has a quiet one
beside it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import command_of
from index_store.storage.durable_files import holder_of
from service.observing.processes import process_tree
from service.server.job_worker import COMMAND

_WORKERS_BESIDE = (COMMAND.encode(), b"maintain")
_WAIT_S = 0.002
_TRIES = 100

Span = tuple[float, float]


class Turns:
    """Stops and continues in turns, in a thread of its own. paused: when they stood still, on `clock`."""

    def __init__(
        self, root: int, data_dir: Path, turn_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """root: the service's first process. turn_s: of a quiet turn and of a busy one; 0 for no pauses."""
        self._root = root
        self._data_dir = data_dir
        self._turn_s = turn_s
        self._clock = clock
        self.paused: list[Span] = []

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take turns meanwhile; on return everybody works again."""
        stop = threading.Event()
        thread = threading.Thread(target=self._take, args=(stop,))
        if self._turn_s:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            if self._turn_s:
                thread.join()

    def _take(self, stop: threading.Event) -> None:
        while not stop.wait(self._turn_s):
            stopped = [each for each in self._beside() if self._is_stopped_unlocked(each)]
            began = self._clock()
            try:
                stop.wait(self._turn_s)
            finally:
                ended = self._clock()
                for each in stopped:
                    _send(each, signal.SIGCONT)
            if stopped:
                self.paused.append((began, ended))

    def _beside(self) -> list[int]:
        found = process_tree(self._root)
        return [each for each in found if any(part in command_of(each) for part in _WORKERS_BESIDE)]

    def _is_stopped_unlocked(self, process: int) -> bool:
        """Stop it at a moment in which no writer waits for it."""
        for _ in range(_TRIES):
            _send(process, signal.SIGSTOP)
            if not self._locked_by(process):
                return True
            _send(process, signal.SIGCONT)
            time.sleep(_WAIT_S)
        return False

    def _locked_by(self, process: int) -> bool:
        """Whether it holds the lock of a store or of items."""
        files = [*self._data_dir.glob("collections/*/*.lock"), *self._data_dir.glob("collections/*/*/*.lock")]
        return any(holder_of(path) == process for path in files)


def parts(span: Span, paused: Sequence[Span]) -> tuple[list[Span], list[Span]]:
    """Return the busy and the quiet parts of a span, in order. Pure."""
    busy, quiet, at = [], [], span[0]
    for first, last in paused:
        first, last = max(first, span[0]), min(last, span[1])
        if first >= last:
            continue
        if at < first:
            busy.append((at, first))
        quiet.append((first, last))
        at = last
    if at < span[1]:
        busy.append((at, span[1]))
    return busy, quiet


def _send(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
