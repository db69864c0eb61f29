"""Scans of collections: one at a time in a process, the next one that of who had the least.

A scan reads rows from disk or counts them in memory, for milliseconds to a tenth of a second, on a thread;
what takes longer is cut into several. One at a time leaves other threads, and a core, to everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from service.admission import Admission, FairQueue, Pace
from service.errors import Overloaded

T = TypeVar("T")

_SECONDS_A_ROW = 5e-6
"""Until some were measured."""


class ScanQueue:
    """Event loop only, but for the scans, which run on a thread of `readers`."""

    def __init__(self, readers: Executor, *, queue_ms_max: int, clock: Callable[[], float]) -> None:
        """queue_ms_max: how long a scan may be expected to wait; more is refused."""
        self._readers = readers
        self._clock = clock
        self._admission = Admission(queue_ms_max / 1000, clock)
        self._pace = Pace(_SECONDS_A_ROW)
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._running_rows = 0.0

    async def run(self, scan: Callable[[], T], rows: float, caller: str, *, is_admitted: bool = False) -> T:
        """Return what `scan` returns. rows: how many it reads, about, as its weight in the queue. caller:
        whose turn it is. is_admitted: it goes on with what was begun, and waits however long the queue is.
        Raises Overloaded, and what `scan` raises."""
        if self._running_rows:
            await self._wait(rows, caller, is_admitted=is_admitted)
        self._running_rows = rows
        started = self._clock()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, scan)
        finally:
            self._pace.note(rows, self._clock() - started, is_all_busy=True)
            self._pass_on()

    async def _wait(self, rows: float, caller: str, *, is_admitted: bool) -> None:
        before = self._running_rows / 2 + self._waiting.units_before(rows, caller)
        wait_s = self._pace.seconds(before)
        if not is_admitted and not self._admission.admits(
            wait_s, is_free=self._waiting.is_below_others(rows, caller)
        ):
            raise Overloaded(
                "Too many listings and counts are waiting.", retry_after_s=max(1.0, wait_s), reason="scan"
            )
        self._admission.charge(wait_s, self._pace.seconds(rows))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.push(turn, rows, caller)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Let the next one run that still waits."""
        self._running_rows = 0.0
        while len(self._waiting):
            place = self._waiting.pop()
            if not place.entry.done():
                self._running_rows = place.units  # taken: who comes now must wait
                place.entry.set_result(None)
                return
