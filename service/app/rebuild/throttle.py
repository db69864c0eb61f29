"""How fast a generation is filled beside searches: less while their slowest hundredth takes too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_SHARE_MIN = 0.02
_SLOWER, _FASTER = 0.5, 1.25
_SEARCHES_MIN = 20
"""Fewer say nothing of a hundredth; the share stays, and they count with those that come."""


class FillThrottle:
    """Shares time between embedding and rest. Used from one task."""

    def __init__(self, recent_searches: Callable[[], Sequence[float]], p99_ms_max: int) -> None:
        """recent_searches: the seconds that searches took since it was last asked."""
        self._recent_searches = recent_searches
        self._p99_s_max = p99_ms_max / 1000
        self._undecided: list[float] = []
        self.share = 1.0

    def rest_after(self, worked_s: float) -> float:
        """Return how long to rest after so many seconds of work, having looked at the searches meanwhile."""
        self._undecided += self._recent_searches()
        seconds = sorted(self._undecided)
        if not seconds:
            self.share = min(1.0, self.share * _FASTER)
        elif len(seconds) >= _SEARCHES_MIN or seconds[-1] > self._p99_s_max:
            p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
            factor = _SLOWER if p99 > self._p99_s_max else _FASTER
            self.share = min(1.0, max(_SHARE_MIN, self.share * factor))
            self._undecided.clear()
        return worked_s * (1 / self.share - 1)
