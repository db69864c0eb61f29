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
        """Ask for a comparison at once: nobody knows what changed before."""
        self._due_at = self._clock()

    def restart(self) -> str:
        """Ask for the next comparison after one interval; return a bookmark that says nothing."""
        self._due_at = self._clock() + self._interval_s
        return "poll"

    def read(self) -> ChangeBatch:
        """Return a gap when the interval is over."""
        if self._clock() < self._due_at:
            return ChangeBatch()
        return ChangeBatch(gap="the poll's interval is over", receipt=self._clock() + self._interval_s)

    def acknowledge(self, batch: ChangeBatch) -> None:
        """Begin the next interval."""
        if batch.receipt is not None:
            self._due_at = batch.receipt

    def wait_for_changes(self, seconds: float) -> None:
        """Wait `seconds`."""
        self._pause(seconds)

    def backlog(self) -> Backlog:
        """Return that nothing waits."""
        return Backlog()

    def close(self) -> None:
        """Nothing is open."""
