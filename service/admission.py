"""Which work may queue before a resource: decided by its expected wait, with a fair share for each caller.

A bound on the number of requests says nothing: 256 short texts wait a second, 256 long ones half a minute,
and all of them are answered too late. So the server measures how long a unit of work takes and refuses, on
arrival and at almost no cost, what would wait too long. What it admits is answered in time.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Entry = TypeVar("Entry")

_PACE_MEMORY = 0.9
"""What one note leaves of the notes before: the last ten or so count."""
_SHARE_WHEN_IDLE = 0.1
_STANDING_SHARE = 0.25
_BURST_EARNED = 0.1
"""Of real time: how fast a burst that was used up may be repeated."""
_FINISHED_KEPT = 64


class Pace:
    """Seconds that a unit of work takes, as measured lately. Any thread may read, one may write at a time."""

    def __init__(self, seconds_a_unit: float) -> None:
        """seconds_a_unit: what is assumed before anything was measured."""
        self._took_s = seconds_a_unit
        self._units = 1.0

    def note(self, units: float, took_s: float, *, is_all_busy: bool) -> None:
        """Record that `units` of work took `took_s` seconds.

        is_all_busy: everything else that serves was busy too, as it is when waits matter. With cores to spare
        work is faster, so it counts less then.
        """
        share = 1.0 if is_all_busy else _SHARE_WHEN_IDLE
        kept = 1.0 - share * (1.0 - _PACE_MEMORY)
        self._took_s = kept * self._took_s + share * took_s
        self._units = kept * self._units + share * units

    def seconds(self, units: float) -> float:
        """Return how long `units` of work are expected to take."""
        return units * self._took_s / self._units


class Admission:
    """Decides by expected waits. For one thread, or under the lock of its owner.

    A burst may wait up to `wait_s_max`. A queue that is always that long would delay every answer and gain
    nothing, so beyond a quarter of it each admitted second is paid from a credit, which quiet times refill.
    Callers who have less waiting than the others do not pay: it is the others who make the queue long.
    """

    def __init__(self, wait_s_max: float, clock: Callable[[], float]) -> None:
        self._wait_s_max = wait_s_max
        self._standing_s = wait_s_max * _STANDING_SHARE
        self._clock = clock
        self._credit_s = wait_s_max - self._standing_s
        self._credit_at = clock()

    def admits(self, wait_s: float, *, is_free: bool) -> bool:
        """Return whether work may queue that is expected to wait `wait_s`. is_free: needs no credit."""
        if wait_s <= self._standing_s:
            return True
        return wait_s <= self._wait_s_max and (is_free or self._credit() > 0)

    def charge(self, wait_s: float, work_s: float) -> None:
        """Count work in that was admitted. work_s: by how much it makes others wait longer."""
        if wait_s > self._standing_s:
            self._credit_s = self._credit() - work_s

    def _credit(self) -> float:
        now = self._clock()
        earned = _BURST_EARNED * (now - self._credit_at)
        self._credit_s = min(self._wait_s_max - self._standing_s, self._credit_s + earned)
        self._credit_at = now
        return self._credit_s


@dataclass(frozen=True, slots=True, order=True)
class _Place(Generic[Entry]):
    """start: on the clock of work, see FairQueue. number: first come first, where starts are equal."""

    start: float
    number: int
    units: float
    caller: str
    entry: Entry


class FairQueue(Generic[Entry]):
    """Entries in an order that gives each caller the same share of the work (start-time fair queueing).

    An entry starts where its caller's last one ends, on a clock that shows the start of what was taken last;
    the earliest start goes first. For one caller that is first come first served. For one thread, or under a
    lock.
    """

    def __init__(self) -> None:
        self._heap: list[_Place[Entry]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._ends: dict[str, float] = {}
        self._waiting: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, entry: Entry, units: float, caller: str) -> None:
        """Queue an entry. units: how much work it is. caller: whose share it counts against."""
        if not self._heap:  # here, not in `pop`: what it took out may be put back
            self._ends.clear()
            self._now = 0.0
        start = max(self._now, self._ends.get(caller, 0.0))
        self._ends[caller] = start + units
        self._waiting[caller] = self._waiting.get(caller, 0.0) + units
        heapq.heappush(self._heap, _Place(start, next(self._numbers), units, caller, entry))

    def put_back(self, place: _Place[Entry]) -> None:
        """Undo `pop`."""
        self._waiting[place.caller] = self._waiting.get(place.caller, 0.0) + place.units
        heapq.heappush(self._heap, place)

    def pop(self) -> _Place[Entry]:
        """Take out what goes first. Raises IndexError."""
        place = heapq.heappop(self._heap)
        self._now = max(self._now, place.start)
        left = self._waiting[place.caller] - place.units
        if left > 1e-9:
            self._waiting[place.caller] = left
        else:
            del self._waiting[place.caller]
        if len(self._ends) > _FINISHED_KEPT + 2 * len(self._waiting):
            self._ends = {caller: end for caller, end in self._ends.items() if end > self._now}
        return place

    def units_before(self, units: float, caller: str) -> float:
        """Return how much work goes before a new entry of `caller`: its own, and as much of each other
        one."""
        own = self._waiting.get(caller, 0.0)
        return own + sum(
            min(waiting, own + units) for other, waiting in self._waiting.items() if other != caller
        )

    def is_below_others(self, units: float, caller: str) -> bool:
        """Return whether `caller`, with a new entry, has less work waiting than the others on average."""
        own = self._waiting.get(caller, 0.0)
        others = [waiting for other, waiting in self._waiting.items() if other != caller]
        return (own + units) * len(others) < sum(others)

    def drain(self) -> Iterator[Entry]:
        """Take out everything."""
        while self._heap:
            yield self.pop().entry
