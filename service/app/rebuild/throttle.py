"""How fast a generation is filled beside searches: less while their slowest hundredth takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

_SHARE_MIN = 0.02
_SLOWER, _FASTER = 0.5, 1.25
_SEARCHES_MIN = 20
"""Fewer say nothing of a hundredth; the share stays, and they count with those that come."""
_NOBODY_S = 5.0
"""Without a search for so long nobody is held up. Most looks find none: they come between two batches."""


class FillThrottle:
    """Shares time between embedding and rest. Used from one task."""

    def __init__(
        self,
        recent_searches: Callable[[], Sequence[float]],
        p99_ms_max: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """recent_searches: the seconds that searches took since it was last asked. clock: seconds that only
        go forward."""
        self._recent_searches = recent_searches
        self._p99_s_max = p99_ms_max / 1000
        self._clock = clock
        self._undecided: list[float] = []
        self._searched_at = clock() - _NOBODY_S
        self.share = 1.0

    def rest_after(self, worked_s: float) -> float:
        """Return how long to rest after so many seconds of work, having looked at the searches meanwhile."""
        found, now = self._recent_searches(), self._clock()
        self._undecided += found
        if found:
            self._searched_at = now
        elif now >= self._searched_at + _NOBODY_S:
            self.share = min(1.0, self.share * _FASTER)
        seconds = sorted(self._undecided)
        if not seconds:
            return worked_s * (1 / self.share - 1)
        if len(seconds) >= _SEARCHES_MIN or seconds[-1] > self._p99_s_max:
            p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
            factor = _SLOWER if p99 > self._p99_s_max else _FASTER
            self.share = min(1.0, max(_SHARE_MIN, self.share * factor))
            self._undecided.clear()
        return worked_s * (1 / self.share - 1)
