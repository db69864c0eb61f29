"""An items table under change and the feeds that follow it, for tests/contract/test_change_feed.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tcp_relay import Relay
from feeder.changes import Key
from feeder.settings import Settings
from feeder.sources.change_feed import ChangeBatch, ChangeFeed
from feeder.sources.polling import PollingFeed
from feeder.wiring_feeds import SourceBuilder
from tests.integration.follower import NAME, STORE
from tests.integration.product_shop import ProductShop
from tests.list_feed import ListFeed

WITHIN_S = 40.0
"""Less than InnoDB's own patience with a lock, which is 50 s."""
QUIET_S = 0.3
POLL_S = 5.0


@dataclass
class Source:
    """An items table and whoever follows it. Each `feed()` is what a new process would build."""

    kind: str
    shop: ProductShop
    settings: Settings
    relay: Relay
    now: float = 1000.0
    fake: ListFeed = field(default_factory=ListFeed)
    built: list[ChangeFeed] = field(default_factory=list)

    def feed(self, store_id: str = STORE) -> ChangeFeed:
        if self.kind == "fake":
            return self.fake
        if self.kind == "polling":
            feed: ChangeFeed = PollingFeed(POLL_S, lambda: self.now, self._pass_time)
        else:
            sources = SourceBuilder(self.settings, self.settings.collections[NAME], store_id)
            feeds = sources.feeds(time.sleep)
            feed = feeds["items"]
            feeds["vectors"].close()
            assert feed.tier == ("triggers" if "triggers" in self.kind else "log")
        self.built.append(feed)
        return feed

    def change(self, statement: str, *values: Any, keys: Sequence[Key]) -> None:
        """Run a statement in a transaction of its own. keys: of the rows that it changes."""
        self.shop.item(statement, *values)
        self.fake.keys += keys

    def insert(self, *keys: str) -> None:
        for key in keys:
            self.change("INSERT INTO product VALUES (%s, %s, true)", key, "상품", keys=[key])

    def update(self, *keys: str) -> None:
        for key in keys:
            self.change("UPDATE product SET is_active = NOT is_active WHERE id = %s", key, keys=[key])

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.change("DELETE FROM product WHERE id = %s", key, keys=[key])

    def late(self) -> Any:
        """A transaction that the test commits when it wants."""
        if self.shop.mariadb is None:
            connection: Any = self.shop.pg()
            connection.autocommit = False
        else:
            connection = self.shop.maria()
            connection.autocommit(False)
        return connection

    def taken(self, feed: ChangeFeed, *keys: Key, bookmark: str | None = None) -> str | None:
        """Read and acknowledge until every key was named or a gap says so; return the newest bookmark."""
        missing, deadline = set(keys), time.monotonic() + WITHIN_S
        while missing:
            batch = self.something(feed, deadline)
            missing = set() if batch.gap else missing - set(batch.keys)
            bookmark = batch.bookmark or bookmark
            feed.acknowledge(batch)
        return bookmark

    def something(self, feed: ChangeFeed, deadline: float | None = None) -> ChangeBatch:
        """Return the next batch that names anything."""
        deadline = deadline or time.monotonic() + WITHIN_S
        while True:
            batch = feed.read()
            if batch.keys or batch.gap:
                return batch
            assert time.monotonic() < deadline, "a change was not named"
            feed.wait_for_changes(0.05)

    def drain(self, feed: ChangeFeed) -> None:
        """Acknowledge all that was written: a row written behind it comes last."""
        if self.kind in ("polling", "fake"):
            feed.acknowledge(feed.read())
        else:
            self.insert("behind")
            self.taken(feed, "behind")

    def nothing(self, feed: ChangeFeed) -> None:
        """Check that nothing is waiting; what others wrote into the same log counts as nothing."""
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            batch = feed.read()
            assert not batch.keys and not batch.gap, batch
            feed.acknowledge(batch)
            if self.kind in ("polling", "fake"):
                return
            feed.wait_for_changes(0.05)

    def kill(self, feed: ChangeFeed) -> None:
        """End the feed as a killed process ends: its connections break, nobody closes anything in order."""
        self.relay.down()
        self.relay.up()
        if self.kind == "binlog":
            feed.close()  # its thread is of this process, which lives on

    def _pass_time(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        for feed in self.built:
            feed.close()
