"""How much each caller may ask for in a time: a sliding window, counted over all workers without a lock.

Each worker counts what it has granted in a table of its own, in memory that the others can read; before it
grants more it adds up all tables. Two that look at the same moment can grant one request too many each, and
none can ever hold another up.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from index_store.processes import is_running
from service.observing.shared_rows import memory_on_disk

_SLOTS: Final = 16_384
"""Callers of one window; a table of so many takes 512 KiB of each worker."""
_PROBES: Final = 8
_STEP: Final = 4
_TABLE_BYTES: Final = _SLOTS * _STEP * 8
_OTHERS_EVERY_S: Final = 1.0
_PLACES_MAX: Final = 10_000


class Grant(NamedTuple):
    """is_given: whether it may be done. left: units that the caller has left. renews_s: until the window
    ends. wait_s: after which as much would be granted, if nothing else is asked for meanwhile."""

    is_given: bool
    left: float
    renews_s: float
    wait_s: float


class _Table:
    """(hash of the caller, window, units of that window, units of the one before), slot after slot.

    Written by its own process alone; a slot is emptied before it is given to another caller, so that whoever
    reads meanwhile sees no units of the wrong one."""

    def __init__(self, memory: bytearray | mmap.mmap) -> None:
        view = memoryview(memory)
        self._whole = view.cast("q")
        self._units = view.cast("d")

    def units(self, caller: int, window: int) -> tuple[float, float]:
        """Return the units of this window and of the one before."""
        place = self._place(caller)
        return (0.0, 0.0) if place < 0 else self._at(place, window)

    def count_units(self, caller: int, window: int, units: float) -> None:
        """Count units of this window."""
        place = self._place(caller)
        if place < 0:
            place = self._free_place(caller, window)
            self._whole[place + 1] = 0
            self._whole[place] = caller
            now, before = 0.0, 0.0
        else:
            now, before = self._at(place, window)
        self._units[place + 3] = before
        self._units[place + 2] = max(0.0, now + units)
        self._whole[place + 1] = window

    def _at(self, place: int, window: int) -> tuple[float, float]:
        counted = self._whole[place + 1]
        if counted == window:
            return self._units[place + 2], self._units[place + 3]
        return (0.0, self._units[place + 2]) if counted == window - 1 else (0.0, 0.0)

    def _place(self, caller: int) -> int:
        for probe in range(_PROBES):
            place = (caller + probe) % _SLOTS * _STEP
            if self._whole[place] == caller:
                return place
        return -1

    def _free_place(self, caller: int, window: int) -> int:
        """A slot that nobody has used lately, else the one that was used least."""
        places = [(caller + probe) % _SLOTS * _STEP for probe in range(_PROBES)]
        return min(places, key=lambda place: sum(self._at(place, window)))


class RateLimit:
    """One quota. Belongs to the event loop of one worker."""

    def __init__(
        self,
        name: str,
        units_max: int,
        window_s: int,
        shared_dir: Path | None,
        clock: Callable[[], float] = time.monotonic,
        process: int | None = None,
    ) -> None:
        """units_max: of one caller in `window_s`. shared_dir: where the workers' tables stand; None for one
        worker. clock: the same for all processes of the machine, as the system's monotonic one is. process:
        whose table it is; None: this one's."""
        self._process = os.getpid() if process is None else process
        self.name = name
        self.units_max = units_max
        self.window_s = window_s
        self._shared_dir = shared_dir
        self._clock = clock
        self._places: dict[str, int] = {}
        path = None if shared_dir is None else shared_dir / f"quota-{name}-{self._process}.table"
        self._own = _Table(memory_on_disk(path, _TABLE_BYTES))
        self._others: dict[Path, _Table] = {}
        self._look_at = 0.0

    def spend(self, caller: str, units: float) -> Grant:
        """Count units, if the caller has as many left. More than the whole quota counts as that."""
        now = self._clock()
        window = int(now // self.window_s)
        passed = now / self.window_s - window
        hashed, units = self._hash(caller), min(units, float(self.units_max))
        used, before = self._used(hashed, window, now)
        left = self.units_max - used - before * (1.0 - passed)
        renews_s = (1.0 - passed) * self.window_s
        if units > left:
            return Grant(False, max(0.0, left), renews_s, self._wait_s(units, used, before, passed))
        self._own.count_units(hashed, window, units)
        return Grant(True, left - units, renews_s, 0.0)

    def count_overrun(self, caller: str, units: float) -> None:
        """Count what a request has turned out to take beyond its `spend`, whether it is left or not."""
        window = int(self._clock() // self.window_s)
        self._own.count_units(self._hash(caller), window, min(units, float(self.units_max)))

    def give_back(self, caller: str, units: float) -> None:
        """Undo a `spend` of this moment: the request is counted where it is answered."""
        window = int(self._clock() // self.window_s)
        self._own.count_units(self._hash(caller), window, -min(units, float(self.units_max)))

    def _used(self, hashed: int, window: int, now: float) -> tuple[float, float]:
        used, before = self._own.units(hashed, window)
        if self._shared_dir is None:
            return used, before
        if now >= self._look_at:
            self._look_at = now + _OTHERS_EVERY_S
            self._find_others(self._shared_dir)
        for table in self._others.values():
            more, more_before = table.units(hashed, window)
            used, before = used + more, before + more_before
        return used, before

    def _wait_s(self, units: float, used: float, before: float, passed: float) -> float:
        """What was used fades out over the window that follows its own."""
        if units <= self.units_max - used:
            enough = 1.0 - (self.units_max - used - units) / before
            return max(0.0, enough - passed) * self.window_s
        enough = 1.0 - (self.units_max - units) / used
        return (1.0 - passed + enough) * self.window_s

    def _hash(self, caller: str) -> int:
        known = self._places.get(caller)
        if known is None:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            digest = hashlib.blake2b(caller.encode(), digest_size=8).digest()
            known = self._places[caller] = int.from_bytes(digest, "big", signed=True) or 1
        return known

    def _find_others(self, shared_dir: Path) -> None:
        """Map the tables of workers that have come, let those go whose worker has ended."""
        found = {}
        for path in shared_dir.glob(f"quota-{self.name}-*.table"):
            process = int(path.stem.rpartition("-")[2])
            if process == self._process:
                continue
            if not is_running(process):
                path.unlink(missing_ok=True)
            elif path in self._others:
                found[path] = self._others[path]
            else:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size == _TABLE_BYTES:
                        found[path] = _Table(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._others = found
