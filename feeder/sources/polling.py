"""No feed at all: a timer that asks for a full comparison. Needs nothing but SELECT on the tables."""

from __future__ import annotations

from collections.abc import Callable

from feeder.sources.change_feed import Backlog, ChangeBatch, Tier


class PollingFeed:
    """Fits sources.change_feed.ChangeFeed. clock: monotonic seconds."""

    tier: Tier = "poll"

    def __init__(
        self, interval_s: float, clock: Callable[[], float], pause: Callable[[float], object]
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._pause = pause
        self._due_at = 0.0

    def open(self, bookmark: str | None) -> None:  # noqa: ARG002  # a timer resumes nowhere
        self._due_at = self._clock()

    def restart(self) -> str:
        self._due_at = self._clock() + self._interval_s
        return "poll"

    def read(self) -> ChangeBatch:
        if self._clock() < self._due_at:
            return ChangeBatch()
        return ChangeBatch(gap="the poll's interval is over", receipt=self._clock() + self._interval_s)

    def acknowledge(self, batch: ChangeBatch) -> None:
        if batch.receipt is not None:
            self._due_at = batch.receipt

    def wait_for_changes(self, seconds: float) -> None:
        self._pause(seconds)

    def backlog(self) -> Backlog:
        return Backlog()

    def close(self) -> None:
        """Nothing is open."""
