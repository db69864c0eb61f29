"""A change feed in memory, for tests of what follows it; it passes tests/contract/test_change_feed.py."""

from __future__ import annotations

from feeder.changes import Key
from feeder.errors import FeedLost
from feeder.sources.change_feed import Backlog, ChangeBatch, Tier


class ListFeed:
    """Names the keys that it is given until they are acknowledged. Fits sources.change_feed.ChangeFeed.

    keys: what changed, in order. gap: why the keys do not tell everything. is_lost: every reading fails until
    a restart, as when a slot is dropped.
    """

    tier: Tier = "log"

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.is_lost = False
        self.gap: str | None = None

    def open(self, bookmark: str | None) -> None:
        if bookmark is None or self.is_lost:
            raise FeedLost("no place")

    def restart(self) -> str:
        self.is_lost = False
        self.keys.clear()
        return "begun"

    def read(self) -> ChangeBatch:
        if self.is_lost:
            raise FeedLost("the place is gone")
        keys = list(dict.fromkeys(self.keys))
        return ChangeBatch(keys, self.gap, "on" if keys or self.gap else None, len(self.keys))

    def acknowledge(self, batch: ChangeBatch) -> None:
        del self.keys[: batch.receipt]
        self.gap = None

    def wait_for_changes(self, seconds: float) -> None: ...

    def backlog(self) -> Backlog:
        return Backlog()

    def close(self) -> None: ...
