"""What every change feed promises, whatever the database grants: five on real databases, and the fake.

The changes are those of a shop's items table; the feeder's user has the rights of docs/FEEDER.md and no more.
A feed names rows, so it is right if each change is named, or a gap says that everything must be compared.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.tcp_relay import Relay
from feeder.errors import FeedLost, SourceDown
from feeder.settings import Settings
from feeder.wiring_feeds import SourceBuilder
from tests.contract.change_source import WITHIN_S, Source
from tests.integration.conftest import mariadb, postgres  # noqa: F401  # pytest finds fixtures by name
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.follower import NAME, OTHER_STORE, STORE, prepared
from tests.integration.product_shop import COLLECTIONS, ProductShop

pytestmark = pytest.mark.slow  # `make test` runs these: they start two databases

KINDS = ("slot", "binlog", "postgres-triggers", "mariadb-triggers", "polling", "fake")
ON_A_DATABASE = tuple(kind for kind in KINDS if kind not in ("polling", "fake"))


@pytest.fixture(scope="module", params=KINDS)
def shop(
    request: pytest.FixtureRequest,
    postgres: PostgresServer,  # noqa: F811
    mariadb: MariaDBServer,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, ProductShop, Path]]:
    """One shop a kind of feed, prepared once."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    is_mariadb = kind in ("binlog", "mariadb-triggers")
    maria_name = mariadb.create_database() if is_mariadb else ""
    built = ProductShop(
        postgres, mariadb if is_mariadb else None, postgres.create_database(), maria_name, folder, 1
    )
    built.create()
    prepared(built, "triggers" if "triggers" in kind else "log", folder)
    yield kind, built, folder
    built.drop()
    if is_mariadb:
        mariadb.drop_database(maria_name)


@pytest.fixture
def source(shop: tuple[str, ProductShop, Path]) -> Iterator[Source]:
    kind, built, folder = shop
    built.item("DELETE FROM product")
    if "triggers" in kind:
        built.item("DELETE FROM vs_dirty")
    tier = "triggers" if "triggers" in kind else "log"
    environ = built.environ(tier) | {"FEEDER_RETRIES": "0", "FEEDER_CHANGES_MAX": "10"}
    relay = Relay(int(environ["SRC_DB_PORT"]))
    (folder / "collections.toml").write_text(COLLECTIONS, encoding="utf-8")
    environ |= {"SRC_DB_PORT": str(relay.port), "COLLECTIONS_FILE": str(folder / "collections.toml")}
    found = Source(kind, built, Settings.from_environ(environ), relay)
    yield found
    found.close()
    relay.close()


CHANGES: dict[str, tuple[Callable[[Source], None], tuple[str, ...]]] = {
    "insert": (lambda source: source.insert("new"), ("new",)),
    "update": (lambda source: source.update("p1"), ("p1",)),
    "delete": (lambda source: source.delete("p2"), ("p2",)),
    "another key": (
        lambda source: source.change("UPDATE product SET id = 'q' WHERE id = 'p1'", keys=["p1", "q"]),
        ("p1", "q"),
    ),
    "many rows": (
        lambda source: source.change("DELETE FROM product", keys=["p1", "p2"]),
        ("p1", "p2"),
    ),
    "used again": (lambda source: (source.delete("p1"), source.insert("p1"))[1], ("p1",)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_after_the_start_is_named(source: Source, what: str) -> None:
    source.insert("p1", "p2")
    with closing(source.feed()) as feed:
        feed.restart()
        change, keys = CHANGES[what]
        change(source)
        source.taken(feed, *keys)
        source.drain(feed)
        source.nothing(feed)


def test_a_batch_comes_again_until_it_is_acknowledged(source: Source) -> None:
    with closing(source.feed()) as feed:
        feed.restart()
        source.insert("p1")
        first = source.something(feed)
        again = feed.read()
        assert set(again.keys) >= set(first.keys) and bool(again.gap) == bool(first.gap)
        feed.acknowledge(again)
        source.nothing(feed)


def test_only_what_was_read_is_acknowledged(source: Source) -> None:
    with closing(source.feed()) as feed:
        feed.restart()
        source.insert("p1")
        batch = source.something(feed)
        source.insert("p2")
        feed.acknowledge(batch)
        if batch.gap is None:
            source.taken(feed, "p2")
        else:  # a gap asks for a comparison, which reads p2 as well: it comes after the reading
            source.nothing(feed)


def test_what_changes_while_nobody_follows_is_named_afterwards(source: Source) -> None:
    feed = source.feed()
    bookmark = feed.restart()
    source.insert("p1")
    bookmark = source.taken(feed, "p1", bookmark=bookmark) or bookmark
    feed.close()
    source.insert("p2")
    source.delete("p1")
    with closing(source.feed()) as again:
        again.open(bookmark)
        source.taken(again, "p1", "p2")
        source.nothing(again)


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_feeder_that_is_killed_before_it_acknowledges_loses_nothing(
    source: Source, is_stored: bool
) -> None:
    """is_stored: the service stored what came of it, and the bookmark with it."""
    feed = source.feed()
    bookmark = feed.restart()
    source.insert("p1")
    batch = source.something(feed)
    if is_stored:
        bookmark = batch.bookmark or bookmark
    source.kill(feed)
    source.insert("p2")
    with closing(source.feed()) as again:
        again.open(bookmark)
        source.taken(again, *(["p2"] if is_stored else ["p1", "p2"]))
        source.nothing(again)


def test_a_transaction_that_commits_late_is_named(source: Source) -> None:
    if source.kind == "fake":
        pytest.skip("a list has no transactions")
    source.insert("p1", "p2")
    with closing(source.feed()) as feed, closing(source.late()) as late:
        feed.restart()
        late.cursor().execute("UPDATE product SET is_active = false WHERE id = 'p1'")
        source.update("p2")
        source.taken(feed, "p2")
        late.commit()
        source.taken(feed, "p1")


@pytest.mark.parametrize("shop", [kind for kind in KINDS if "triggers" in kind], indirect=True)
def test_a_writer_that_has_not_committed_holds_up_neither_of_two_services(source: Source) -> None:
    source.insert("p1", "p2")
    one, other = source.feed(), source.feed(OTHER_STORE)
    with closing(one), closing(other), closing(source.late()) as late:
        for feed in (one, other):
            feed.restart()
        late.cursor().execute("UPDATE product SET is_active = false WHERE id = 'p1'")
        source.update("p2")
        began = time.monotonic()
        for feed in (one, other):
            source.taken(feed, "p2")
            feed.backlog()  # drops what both have seen
        assert time.monotonic() - began < WITHIN_S, "InnoDB's own patience is 50 s"
        late.commit()
        for feed in (one, other):
            source.taken(feed, "p1")
    source.shop.item("DELETE FROM vs_dirty_readers")


def test_more_changes_than_one_batch_holds_are_all_named(source: Source) -> None:
    keys = [f"p{number}" for number in range(35)]
    with closing(source.feed()) as feed:
        bookmark = feed.restart()
        source.insert(*keys)
        source.taken(feed, *keys)
        source.nothing(feed)
        assert feed.backlog().rows == 0
    if source.kind == "slot":
        assert bookmark


def test_backlog_counts_until_everything_is_acknowledged(source: Source) -> None:
    with closing(source.feed()) as feed:
        feed.restart()
        source.insert("p1", "p2", "p3")
        source.something(feed)
        waiting = feed.backlog()
        assert min(waiting.rows, waiting.retained_bytes) >= 0 and waiting.oldest_s >= 0
        if "triggers" in source.kind:
            assert waiting.rows == 3
        source.taken(feed, "p1", "p2", "p3")
        assert feed.backlog().rows == 0


@pytest.mark.parametrize("bookmark", [None, "", "nobody wrote this", "0-77-999999999", "{}"])
def test_a_place_that_nobody_knows_is_never_taken_in_silence(source: Source, bookmark: str | None) -> None:
    if source.kind == "fake" and bookmark is not None:
        pytest.skip("a list knows any place")
    with closing(source.feed()) as feed:
        try:
            feed.open(bookmark)
            batch = source.something(feed)
            assert batch.gap, "it must ask for a comparison, or say FeedLost"
            feed.acknowledge(batch)
        except FeedLost:
            feed.restart()
        source.insert("p1")
        source.taken(feed, "p1")


def test_a_restart_begins_behind_what_was_there(source: Source) -> None:
    source.insert("p1")
    with closing(source.feed()) as feed:
        feed.restart()
        source.insert("p2")
        batch = source.something(feed)
        assert batch.gap or "p2" in batch.keys
        feed.acknowledge(batch)
        feed.restart()
        source.nothing(feed)


def test_truncate_asks_for_a_comparison(source: Source) -> None:
    if source.kind == "mariadb-triggers":
        pytest.skip("MariaDB fires no trigger for TRUNCATE: docs/FEEDER.md says so")
    source.insert("p1")
    with closing(source.feed()) as feed:
        feed.restart()
        source.change("TRUNCATE TABLE product", keys=[])
        source.fake.gap = "the table was truncated"
        deadline = time.monotonic() + WITHIN_S
        while not (batch := source.something(feed, deadline)).gap:
            feed.acknowledge(batch)
        feed.acknowledge(batch)
        source.nothing(feed)


def test_a_wait_ends_by_itself_and_with_a_change(source: Source) -> None:
    with closing(source.feed()) as feed:
        feed.restart()
        source.nothing(feed)
        began = time.monotonic()
        feed.wait_for_changes(0.05)
        assert time.monotonic() - began < WITHIN_S
        writer = threading.Thread(target=source.insert, args=("p1",))
        writer.start()
        source.taken(feed, "p1")
        writer.join()


def test_a_feed_may_be_closed_twice_and_opened_again(source: Source) -> None:
    feed = source.feed()
    bookmark = feed.restart()
    feed.close()
    feed.close()
    source.insert("p1")
    feed.open(bookmark)
    source.taken(feed, "p1")


def test_a_feed_that_is_closed_while_it_connects_never_comes_back(source: Source) -> None:
    """A reader that is still connecting would take the place of the next one."""
    feed = source.feed()
    bookmark = feed.restart()
    for _ in range(5):
        feed.close()
        feed.open(bookmark)
    source.insert("p1")
    source.taken(feed, "p1")


@pytest.mark.parametrize("shop", ["binlog"], indirect=True)
def test_a_reader_that_is_replaced_once_goes_on(source: Source) -> None:
    """What a request does that the server comes to after its connection is gone."""
    feed, other = source.feed(), source.feed()
    feed.restart()
    source.insert("p1")
    source.taken(feed, "p1")
    other.restart()
    source.insert("p2")
    source.taken(other, "p2")
    other.close()
    source.insert("p3")
    source.taken(feed, "p2", "p3")


@pytest.mark.parametrize("shop", ["binlog"], indirect=True)
def test_two_readers_of_one_server_id_are_told_of_each_other(source: Source) -> None:
    feeds = source.feed(), source.feed()
    for feed in feeds:
        feed.restart()

    def read() -> None:
        for turn in range(10_000):
            source.insert(f"p{turn}")
            for feed in feeds:
                feed.acknowledge(feed.read())
                feed.wait_for_changes(0.05)

    with pytest.raises(SourceDown, match=r"another reader of the binary log uses our server id \d{10}"):
        read()


@pytest.mark.parametrize("shop", ["slot"], indirect=True)
def test_a_slot_that_another_connection_reads_is_told_and_loses_nothing(source: Source) -> None:
    with closing(source.feed()) as feed:
        slot = json.loads(feed.restart())["slot"]
        source.insert("p1")
        with (
            source.shop.streaming(slot),
            pytest.raises(SourceDown, match=f"{slot}.* is active for PID") as told,
        ):
            feed.read()
        assert "pg_stat_activity" in told.value.hint
        source.taken(feed, "p1")


@pytest.mark.parametrize("shop", ON_A_DATABASE, indirect=True)
def test_a_database_that_is_gone_says_so_and_loses_nothing(source: Source) -> None:
    with closing(source.feed()) as feed:
        bookmark = feed.restart()
        source.relay.down()
        source.insert("p1")
        deadline = time.monotonic() + WITHIN_S
        with pytest.raises(SourceDown):
            while time.monotonic() < deadline:  # a binary log's thread says it once it has heard of it
                feed.read()
                feed.wait_for_changes(0.05)
        with pytest.raises(SourceDown):
            source.feed()
        source.relay.up()
    with closing(source.feed()) as again:
        again.open(bookmark)
        source.taken(again, "p1")


@pytest.mark.parametrize("shop", ON_A_DATABASE, indirect=True)
def test_what_is_not_granted_is_not_followed(source: Source) -> None:
    """Without its right a feed is not chosen, and `auto` goes on with the next one that is granted."""
    shop, is_log = source.shop, source.kind in ("slot", "binlog")
    revoked, given = {
        "slot": ("ALTER ROLE feeder NOREPLICATION", "ALTER ROLE feeder REPLICATION"),
        "binlog": (
            "REVOKE REPLICATION SLAVE ON *.* FROM feeder@'%'",
            "GRANT REPLICATION SLAVE ON *.* TO feeder@'%'",
        ),
        "postgres-triggers": ("REVOKE DELETE ON vs_dirty FROM feeder", "GRANT DELETE ON vs_dirty TO feeder"),
        "mariadb-triggers": (
            f"REVOKE DELETE ON {shop.maria_name}.vs_dirty FROM feeder@'%'",
            f"GRANT DELETE ON {shop.maria_name}.vs_dirty TO feeder@'%'",
        ),
    }[source.kind]
    environ = shop.environ("auto") | {"COLLECTIONS_FILE": str(shop.folder / "collections.toml")}
    settings = Settings.from_environ(environ)
    sources = SourceBuilder(settings, settings.collections[NAME], STORE)
    tiers = {}
    for statement in (revoked, given):
        shop.item(statement.replace("%", "%%"))
        feeds = sources.feeds(time.sleep)
        tiers[statement] = feeds["items"].tier
        for feed in feeds.values():
            feed.close()
    assert tiers == {revoked: "poll", given: "log" if is_log else "triggers"}
