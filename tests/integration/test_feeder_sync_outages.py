"""Databases that hang, that are another shop's, or that lost their triggers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from feeder.errors import BrakeOn, FeedLost, SettingsWrong, SourceDown
from feeder.settings import Settings
from feeder.sources.triggers.feed import TriggerFeed
from feeder.wiring_feeds import SourceBuilder
from tests.integration.databases import PostgresServer
from tests.integration.follower import COUNT, NAME, STORE, following, on_pg
from tests.integration.product_shop import PRODUCT, VECTORS, ProductShop


class Link:
    """A TCP link that can go half-open: both ends stay connected, no byte passes any more."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._passes = threading.Event()
        self._passes.set()
        self._is_over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._passes.clear()

    def repair(self) -> None:
        self._passes.set()

    def close(self) -> None:
        self._is_over.set()
        self._passes.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                if self._is_over.is_set():
                    break
                target.sendall(data)
        for each in (source, target):
            each.close()


@pytest.fixture
def link(products: ProductShop) -> Iterator[Link]:
    with closing(Link(products.postgres.port)) as built:
        yield built


@pytest.mark.parametrize("tier", ["log", "triggers"])
def test_a_half_open_link_is_given_up_and_mended(
    products: ProductShop, tmp_path: Path, link: Link, tier: str
) -> None:
    with closing(following(products, tier, tmp_path)) as follower:
        follower.environ |= {"TGT_DB_PORT": str(link.port), "SRC_DB_PORT": str(link.port)}
        follower.again()
        follower.follow()
        link.cut()
        began = time.monotonic()
        with pytest.raises(SourceDown):
            follower.follow()
        assert time.monotonic() - began < 20, "statement limit and watchdog end it"
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p1'")
        link.repair()
        follower.again()
        follower.follow()
        assert "p1" not in follower.held()


def test_a_silent_binary_log_is_given_up(maria_products: ProductShop, tmp_path: Path) -> None:
    """The heartbeat stops; nothing else would tell a quiet shop from a dead link."""
    assert maria_products.mariadb is not None
    with (
        closing(Link(maria_products.mariadb.port)) as link,
        closing(following(maria_products, "log", tmp_path)) as follower,
    ):
        follower.environ |= {"SRC_DB_PORT": str(link.port)}
        running = follower.again()
        follower.follow()
        link.cut()
        began = time.monotonic()
        with pytest.raises(SourceDown):
            while time.monotonic() - began < 40:
                running.step()
                time.sleep(0.05)
        link.repair()
        maria_products.item("DELETE FROM product WHERE id = 'p1'")
        follower.again()
        follower.follow()
        assert "p1" not in follower.held()


@pytest.mark.parametrize("tier", ["log", "triggers", "poll"])
def test_another_empty_database_empties_nothing(
    postgres: PostgresServer, products: ProductShop, tmp_path: Path, tier: str
) -> None:
    empty = postgres.create_database()
    with closing(postgres.connect(empty)) as db:
        db.execute(VECTORS)
        db.execute(PRODUCT)
        db.execute("GRANT SELECT ON product_vectors, product TO feeder")
    try:
        with closing(following(products, tier, tmp_path)) as follower:
            follower.environ |= {"TGT_DB_NAME": empty, "SRC_DB_NAME": empty}
            expected = BrakeOn if tier == "poll" else SettingsWrong  # the empty one grants no more
            with pytest.raises(expected):
                follower.again()
                follower.follow()
            assert len(follower.held()) == COUNT
            follower.stop()
    finally:
        with closing(postgres.connect(empty)) as db:
            db.execute("DROP OWNED BY feeder")
        postgres.drop_database(empty)


def test_triggers_that_are_gone_say_so(products: ProductShop, tmp_path: Path) -> None:
    with closing(following(products, "triggers", tmp_path)) as follower:
        follower.stop()
        on_pg(follower, "DELETE FROM vs_dirty_install")
        settings = Settings.from_environ(follower.environ)
        target = SourceBuilder(settings, settings.collections[NAME]).trigger_targets(time.sleep)[0]
        feed = TriggerFeed(target.statements, target.watched, 10, STORE)
        with pytest.raises(FeedLost, match="not installed"):
            feed.open("x")
        feed.close()


def test_triggers_installed_anew_ask_for_a_comparison(products: ProductShop, tmp_path: Path) -> None:
    """Nobody knows what was written while they were not there."""
    with closing(following(products, "triggers", tmp_path)) as follower:
        follower.stop()
        on_pg(
            follower,
            "ALTER TABLE product_vectors DISABLE TRIGGER USER",
            "DELETE FROM product_vectors WHERE product_id = 'p1'",
            "ALTER TABLE product_vectors ENABLE TRIGGER USER",
            "UPDATE vs_dirty_install SET install_id = '2:' || gen_random_uuid()",
        )
        follower.again()
        assert "p1" not in follower.held()


@pytest.mark.parametrize(
    "statement", ["DELETE FROM vs_dirty_install", "ALTER TABLE product_vectors DISABLE TRIGGER USER"]
)
def test_triggers_that_are_gone_are_missed_within_seconds(
    products: ProductShop, tmp_path: Path, statement: str
) -> None:
    with closing(following(products, "triggers", tmp_path)) as follower:
        on_pg(follower, statement)
        assert follower.running is not None
        follower.running._check_at = 0.0
        with pytest.raises(FeedLost, match="not installed"):
            follower.running.step()
        follower.environ["FEEDER_TIER"] = "auto"
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p1'")
        follower.again()
        follower.follow()
        assert follower.feeds["vectors"].tier == "poll"
        assert "p1" not in follower.held()


def test_a_log_that_is_lost_again_and_again_is_given_up(products: ProductShop, tmp_path: Path) -> None:
    """A slot can be made anew, a publication can't: comparison after comparison would mend nothing."""
    with closing(following(products, "log", tmp_path)) as follower:
        on_pg(follower, "DROP PUBLICATION vs_products_vectors")
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p1'")
        assert follower.running is not None
        with pytest.raises(FeedLost, match="publication"):
            for _ in range(3):
                follower.running.step()
        follower.environ["FEEDER_TIER"] = "auto"
        follower.again()
        follower.follow()
        assert {side: feed.tier for side, feed in follower.feeds.items()} == {
            "vectors": "poll",
            "items": "log",
        }
