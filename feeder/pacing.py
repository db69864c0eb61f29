"""How a comparison that nobody waits for stands back: it takes the processor when nobody else wants it, and
reads a little at a time, because the databases that it reads from do not stand back.

What either is worth: docs/decisions/0024-comparisons-stand-back.md.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Aside(Protocol):
    """Does some work, wherever, and returns what came of it."""

    def __call__(self, work: Callable[[], T], /) -> T: ...


def at_once(work: Callable[[], T], /) -> T:
    return work()


def when_idle(work: Callable[[], T], /) -> T:
    """Do it in a thread of its own that any other on this machine goes before. A thread can't come back from
    there without rights that a feeder does not have, so it ends with the work."""
    with ThreadPoolExecutor(1, thread_name_prefix="idle", initializer=_stand_back) as thread:
        return thread.submit(work).result()


def _stand_back() -> None:
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: FEEDER_NICE still holds
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Pacer:
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

    def begin(self) -> None:
        self._left_s = self._pauses_s_max
        self._began = self._ticks()

    def rest(self) -> None:
        """Wait as long as the share asks for after what was done since the last rest."""
        worked_s = self._ticks() - self._began
        pause_s = min(self._left_s, worked_s / self._share - worked_s)
        if pause_s > 0:
            self._left_s -= pause_s
            self._pause(pause_s)
        self._began = self._ticks()
