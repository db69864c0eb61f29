"""The new path is left by itself when too many of its calls fail or are slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from vector_client.settings import StepBack

SLOW_SHARE = 0.05
"""The 95th percentile is over a limit when more than this share of calls is."""


class StepBackGuard:
    """Watches the last calls of one path. For one event loop."""

    def __init__(self, limits: StepBack, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._calls: deque[tuple[float, bool, bool]] = deque()
        self._failed = 0
        self._slow = 0
        self._left_at: float | None = None

    def allows(self) -> bool:
        """Return whether the path may be asked."""
        return self._left_at is None or self._clock() - self._left_at >= self._limits.rest_s

    def note(self, seconds: float, failed: bool) -> str:
        """Note a call; return why the path is left because of it, or nothing."""
        now = self._clock()
        if self._left_at is not None:
            if not self.allows():
                return ""  # a call that began before
            self._forget()
        limit_ms = self._limits.latency_ms_p95
        slow = bool(limit_ms) and seconds * 1000 > limit_ms
        self._calls.append((now, failed, slow))
        self._failed += failed
        self._slow += slow
        while len(self._calls) > self._limits.calls or now - self._calls[0][0] > self._limits.window_s:
            _, failed_then, slow_then = self._calls.popleft()
            self._failed -= failed_then
            self._slow -= slow_then
        reason = self._reason()
        if reason:
            self._left_at = now
        return reason

    def _reason(self) -> str:
        count = len(self._calls)
        if count < self._limits.calls:
            return ""
        if self._failed * 100 > self._limits.errors_percent * count:
            return f"{self._failed} of the last {count} calls failed"
        if self._slow > SLOW_SHARE * count:
            return f"{self._slow} of the last {count} calls took over {self._limits.latency_ms_p95:g} ms"
        return ""

    def _forget(self) -> None:
        self._calls.clear()
        self._failed = self._slow = 0
        self._left_at = None
