"""The slowest searches of the last minutes, with where their time went."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from index_store.processes import is_running

log = logging.getLogger(__name__)

KEPT_MAX: Final = 50
PERIOD_S: Final = 300.0
_FILE: Final = "slow-{}.json"


class SlowSearches:
    """The slowest of this period and of the one before, `KEPT_MAX` of each. Event loop only, but for
    `slowest`.

    Several workers share a folder: each writes its own list there, at most once a second, in `share`.
    """

    def __init__(
        self, now: Callable[[], datetime], clock: Callable[[], float], shared_dir: Path | None = None
    ) -> None:
        """clock: seconds that only go forward."""
        self._now = now
        self._clock = clock
        self._shared_dir = shared_dir
        self._numbers = itertools.count()
        self._current: list[tuple[float, int, Mapping[str, Any]]] = []
        self._before: list[tuple[float, int, Mapping[str, Any]]] = []
        self._ends_at = clock() + PERIOD_S
        self._is_changed = False
        self.floor_s = 0.0
        """A search that took no longer is none of the slowest: there is nothing to note of it."""

    def keep_if_slow(self, seconds: float, about: Mapping[str, Any]) -> None:
        """Keep a search if it is one of the slowest. about: what is told of it, plain JSON values."""
        if seconds <= self.floor_s:
            return
        self.turn()
        told = {"at": self._now().isoformat(timespec="milliseconds"), "took_ms": _ms(seconds), **about}
        entry = (seconds, next(self._numbers), {**told, "process": os.getpid()})
        if len(self._current) < KEPT_MAX:
            heapq.heappush(self._current, entry)
        else:
            heapq.heapreplace(self._current, entry)
        if len(self._current) == KEPT_MAX:
            self.floor_s = self._current[0][0]
        self._is_changed = True

    def turn(self) -> None:
        """Begin a new period if the current one is over."""
        now = self._clock()
        if now < self._ends_at:
            return
        is_just_over = now < self._ends_at + PERIOD_S
        self._before, self._current = self._current if is_just_over else [], []
        self._ends_at = now + PERIOD_S
        self.floor_s = 0.0
        self._is_changed = True

    def share(self) -> None:
        """Let other workers read what is new."""
        self.turn()
        if self._shared_dir is None or not self._is_changed:
            return
        self._is_changed = False
        file = self._shared_dir / _FILE.format(os.getpid())
        unfinished = file.with_suffix(".new")
        try:
            unfinished.write_bytes(orjson.dumps(self._own()))
            unfinished.replace(file)
        except OSError as exc:  # a full disk: what is counted beside it must go on
            log.warning("slow_searches_not_shared", extra={"file": str(file), "error": str(exc)})

    def slowest(self, limit: int) -> list[Mapping[str, Any]]:
        """Return the slowest of all workers, slowest first. From any thread."""
        found = self._own()
        if self._shared_dir is not None:
            own = self._shared_dir / _FILE.format(os.getpid())
            for file in self._shared_dir.glob(_FILE.format("*")):
                if file != own:
                    found += _read(file)
        return sorted(found, key=lambda each: -each["took_ms"])[:limit]

    def _own(self) -> list[Mapping[str, Any]]:
        return [about for _, _, about in (*self._current, *self._before)]


def _read(file: Path) -> list[Mapping[str, Any]]:
    """What another worker wrote; nothing of one that has ended, whose file is removed."""
    try:
        if not is_running(int(file.stem.rpartition("-")[2])):
            file.unlink(missing_ok=True)
            return []
        found: list[Mapping[str, Any]] = orjson.loads(file.read_bytes())
    except (OSError, ValueError) as exc:
        log.warning("slow_searches_not_read", extra={"file": str(file), "error": str(exc)})
        return []
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
