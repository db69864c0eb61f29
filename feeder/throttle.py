"""Run comparisons at idle priority, a little at a time.

Their thread gives way to every other on this machine. The databases that they read from have no such
priority, so work is kept to a share of the time for their sake. What either is worth:
docs/decisions/0024-full-comparisons-at-idle-priority.md.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Protocol, TypeAlias, TypeVar

T = TypeVar("T")

IsWanted: TypeAlias = Callable[[], bool]
"""Tells work whether anybody still waits for what comes of it."""
Meanwhile: TypeAlias = Callable[[], bool]
"""Does a little of something else, and returns whether there was anything to do."""
LOOK_S = 0.05


class Runner(Protocol):
    """Runs a piece of work, in this thread or another. meanwhile: what this thread can do until it is done;
    what it raises leaves the work alone."""

    def __call__(self, work: Callable[[IsWanted], T], meanwhile: Meanwhile | None, /) -> T:
        """Return what `work` returns; raise what it raises."""


def run_inline(work: Callable[[IsWanted], T], _meanwhile: Meanwhile | None, /) -> T:
    """Do the work in this thread, with nothing meanwhile."""
    return work(lambda: True)


def run_at_idle_priority(work: Callable[[IsWanted], T], meanwhile: Meanwhile | None, /) -> T:
    """Do it in a thread of its own that any other on this machine goes before. A thread can't come back from
    there without rights that a feeder does not have, so it ends with the work.

    Without `meanwhile` it is done here: whatever changes waits for this work, on a busy machine without end.
    """
    if meanwhile is None:
        return run_inline(work, None)
    done: Future[T] = Future()
    given_up = threading.Event()

    def run() -> None:
        try:
            _lower_priority()
            done.set_result(work(lambda: not given_up.is_set()))
        except BaseException as exc:  # it is raised where it is waited for
            done.set_exception(exc)

    # A daemon: work that is given up may hang in a statement, and must not keep the process alive.
    threading.Thread(target=run, name="idle", daemon=True).start()
    try:
        while not done.done():
            if not meanwhile():
                with contextlib.suppress(NotYet):
                    done.exception(LOOK_S)
        return done.result()
    finally:
        given_up.set()


def _lower_priority() -> None:
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: FEEDER_NICE still holds
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Throttle:
    """Keeps work to a share of the time. For one thread. share: 0..1. pauses_s_max: in one piece of work."""

    def __init__(
        self,
        share: float,
        ticks: Callable[[], float],
        pause: Callable[[float], object],
        pauses_s_max: float = math.inf,
    ) -> None:
        self._share = share
        self._ticks = ticks
        self._pause = pause
        self._pauses_s_max = pauses_s_max
        self._left_s = 0.0
        self._began = 0.0

    def reset(self) -> None:
        """Begin another piece of work, with all of its pauses left."""
        self._left_s = self._pauses_s_max
        self._began = self._ticks()

    def slow_down(self) -> None:
        """Pause as long as the share asks for, after the work since the last pause."""
        worked_s = self._ticks() - self._began
        pause_s = min(self._left_s, worked_s / self._share - worked_s)
        if pause_s > 0:
            self._left_s -= pause_s
            self._pause(pause_s)
        self._began = self._ticks()
