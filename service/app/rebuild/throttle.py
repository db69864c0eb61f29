"""How fast a generation is filled beside searches: less while their slowest hundredth takes too long.

Too long is half as long again as it takes without filling. To know that, filling stops for a few seconds now
and then: any share of it above a hundredth decides the slowest hundredth (docs/decisions/0078).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

SLOWDOWN_MAX = 1.5
_SHARE_MIN = 0.02
_KNOWN_SHARE_MIN = 0.1
"""The least share while it is known what searches take at rest: nobody's rebuild takes fifty times as long to
win what few milliseconds more would cost."""
_FIRST_SHARE = 0.25
_SLOWER, _FASTER = 0.5, 1.25
_SEARCHES_MIN = 20
"""Fewer say nothing of a hundredth; the share stays, and they count with those that come."""
_KNOWN_SEARCHES_MIN = 300
"""As many, while the limit is a multiple of what was measured: of 20 searches at rest one in five times the
slowest would be above it."""
_NOBODY_S = 5.0
"""Without a search for so long nobody is held up. Most looks find none: they come between two batches."""
_BREAK_EVERY_S = 30.0
_SETTLE_S = 1.5
"""A worker tells of its searches once a second."""
_LISTEN_S = 3.0
_BREAKS = 6
_AT_REST_MIN = 200


class FillThrottle:
    """Shares time between embedding and rest. Used from one task."""

    def __init__(
        self,
        recent_searches: Callable[[], Sequence[float]],
        p99_ms_max: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """recent_searches: the seconds that searches took since it was last asked. p99_ms_max: holds until
        enough searches were seen at rest. clock: seconds that only go forward."""
        self._recent_searches = recent_searches
        self._p99_s_max = self._limit_s = p99_ms_max / 1000
        self._clock = clock
        self._undecided: list[float] = []
        self._searched_at = clock() - _NOBODY_S
        self._break: Literal["", "settling", "listening"] = ""
        self._break_at = -math.inf
        self._at_rest: deque[Sequence[float]] = deque(maxlen=_BREAKS)
        self._is_rest_known = False
        self.share = _FIRST_SHARE

    async def rest(self, worked_s: float, most_s: float = math.inf) -> None:
        """Rest after so many seconds of work. most_s: no single rest is longer."""
        while rest_s := self.rest_after(worked_s):
            await asyncio.sleep(min(rest_s, most_s))
            worked_s = 0.0

    def rest_after(self, worked_s: float) -> float:
        """Return how long to rest after so many seconds of work, having looked at the searches meanwhile; ask
        again after that rest, with no work in between, until it is 0."""
        found, now = self._recent_searches(), self._clock()
        if found:
            self._searched_at = now
        is_searched = now < self._searched_at + _NOBODY_S
        if self._break or (is_searched and now >= self._break_at + _BREAK_EVERY_S):
            return self._listen(found, now)
        if found:
            self._undecided += found
            self._decide()
        elif not is_searched:
            self.share = min(1.0, self.share * _FASTER)
        return worked_s * (1 / self.share - 1)

    def _listen(self, found: Sequence[float], now: float) -> float:
        """Take a step of a break, and return how long it lasts."""
        if not self._break:
            self._break = "settling"
            return _SETTLE_S
        if self._break == "settling":
            self._break = "listening"
            return _LISTEN_S
        self._break, self._break_at = "", now
        self._undecided.clear()
        self._at_rest.append(found)
        at_rest = sorted(each for some in self._at_rest for each in some)
        self._is_rest_known = len(at_rest) >= _AT_REST_MIN
        self._limit_s = self._p99_s_max
        if self._is_rest_known:
            self._limit_s = SLOWDOWN_MAX * at_rest[int(len(at_rest) * 0.99)]
        return 0.0

    def _decide(self) -> None:
        """Change the share, once the searches seen are enough to tell."""
        seen = self._undecided
        enough = _KNOWN_SEARCHES_MIN if self._is_rest_known else _SEARCHES_MIN
        too_long = sum(each > self._limit_s for each in seen)
        if len(seen) < enough and too_long <= enough // 100:
            return
        factor = _SLOWER if too_long > len(seen) // 100 else _FASTER
        share_min = _KNOWN_SHARE_MIN if self._is_rest_known else _SHARE_MIN
        self.share = min(1.0, max(share_min, self.share * factor))
        seen.clear()
