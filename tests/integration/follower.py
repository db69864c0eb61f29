"""A feeder in this process, one step at a time, with the real index behind it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from feeder.changes import Changes
from feeder.compare.reconciler import Reconciler
from feeder.follow.activity_only import ActivityFollower
from feeder.follow.dependencies import FollowerDependencies, Pace, TimedChecks
from feeder.follow.follower import Follower
from feeder.follow.versions import vector_version
from feeder.read.pages import PAGES_AHEAD
from feeder.read.vector_reader import VectorReader, VectorScanSources
from feeder.settings import Settings
from feeder.sink.brake import Brake
from feeder.sources.triggers.dirty_set import install
from feeder.state.key_map import KeyMap
from feeder.state.state_file import forget
from feeder.table_mapping import CollectionTables
from feeder.telemetry.metrics import Metrics
from feeder.throttle import Throttle, run_at_idle_priority, run_inline
from feeder.wiring import SCAN_PAGE_ROWS
from feeder.wiring_feeds import SourceBuilder, name_of_slot
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.index_side import IndexStore
from tests.integration.product_shop import COLLECTIONS, DIM, ProductShop
from tests.waiting import until

VERSION, NAME, COUNT = "space-1", "products", 30
STORE, OTHER_STORE = "1f" * 16, "2e" * 16
SLOT = name_of_slot(NAME, "vectors", STORE)
STATEMENT_SECONDS = "2"


class FollowerHarness:
    """A feeder in this process, one step at a time. `again()` is a restart: everything is built anew from
    what the databases, the index and the state directory hold. pacer: compare aside, in its pace."""

    def __init__(self, shop: ProductShop, tier: str, folder: Path, store_id: str = STORE) -> None:
        self.shop = shop
        self.store_id = store_id
        (folder / "collections.toml").write_text(COLLECTIONS, encoding="utf-8")
        self.environ = shop.environ(tier) | {
            "COLLECTIONS_FILE": str(folder / "collections.toml"),
            "FEEDER_SOURCE_TIMEOUT_S": STATEMENT_SECONDS,
            "FEEDER_RETRIES": "0",
        }
        self.index = EmbeddedIndex(folder / "index", [CollectionSpec(NAME, "string", DIM, "l2")])
        self.index.open()
        self.index.advance(NAME, "begin", VERSION)
        self.store = IndexStore(self.index, NAME)
        self.store.apply(Changes(), {"import": json.dumps({"version": VERSION})})
        self.brake = Brake(5.0)
        self.throttle: Throttle | None = None
        self.registry = CollectorRegistry()
        self.running: Follower | None = None

    def again(self, *, start: bool = True) -> Follower:
        self.stop()
        settings = Settings.from_environ(self.environ)
        tables = settings.collections[NAME]
        settings.state_dir.mkdir(exist_ok=True)
        key_map = KeyMap(str(settings.state_dir / "products.sqlite"))
        sources = SourceBuilder(settings, tables, self.store_id)
        self.reader = self._reader(settings, tables, sources, key_map)
        self.feeds = sources.feeds(time.sleep)
        self.registry = CollectorRegistry()
        reconciler = Reconciler(
            NAME, self.store, self.reader, self.brake, batch_items=500, clock=time.time, pause=time.sleep,
            run_scan=run_inline if self.throttle is None else run_at_idle_priority,
        )  # fmt: skip
        parts = FollowerDependencies(
            NAME, self.store, self.reader, self.feeds, sources.lease(is_followed=True), reconciler,
            Metrics(self.registry), time.time, time.monotonic, vector_version, "here",
            self._activity(settings, sources), timed_checks=TimedChecks(
                "", lambda: sources.unread_rows(self.feeds), lambda: sources.better_tier(self.feeds)
            ),
        )  # fmt: skip
        self.running = Follower(parts, Pace(poll_s=0.02, compare_s=3600), 500)
        if start:
            self.running.start()
        return self.running

    def _reader(
        self, settings: Settings, tables: CollectionTables, sources: SourceBuilder, key_map: KeyMap
    ) -> VectorReader:
        is_alone = self.throttle is None
        return VectorReader(
            sources.vector_source(), sources.item_source(), key_map, id_kind=tables.id_kind,
            page_rows=settings.bounds.page_rows if is_alone else SCAN_PAGE_ROWS,
            pages_ahead=PAGES_AHEAD if is_alone else 0, throttle=self.throttle,
            scan_sources=None if is_alone else VectorScanSources(
                sources.vector_source(), sources.item_source()
            ),
        )  # fmt: skip

    def _activity(self, settings: Settings, sources: SourceBuilder) -> ActivityFollower:
        items = sources.item_source()
        assert items is not None
        key_map = str(settings.state_dir / "products.sqlite")
        return ActivityFollower(
            NAME, items, self.store, self.brake, batch_items=500, forget=lambda: forget(key_map)
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"collection": NAME, **labels})

    def stop(self) -> None:
        if self.running is not None:
            self.running.close()
            self.running = None

    def close(self) -> None:
        self.stop()
        self.index.close()

    def held(self) -> dict[str, tuple[bool, bytes]]:
        """Return what the index holds: by id, active and the vector's bytes."""
        ids = [row.id for row in self.index.digest_rows(NAME, range(4096))]
        items = [item for item in self.index.get(NAME, ids) if item is not None and item.vector is not None]
        return {str(item.id): (item.active, np.asarray(item.vector, "<f4").tobytes()) for item in items}

    def follow(self) -> None:
        """Step until the index equals the source."""
        running = self.running
        assert running is not None
        until(lambda: not running.step() and self.held() == self.shop.expected(), "the source's state")


def prepared(shop: ProductShop, tier: str, folder: Path) -> None:
    """Install and grant what a tier needs."""
    if tier == "triggers":
        (folder / "collections.toml").write_text(COLLECTIONS, encoding="utf-8")
        environ = shop.environ(as_owner=True) | {"COLLECTIONS_FILE": str(folder / "collections.toml")}
        settings = Settings.from_environ(environ)
        for target in SourceBuilder(settings, settings.collections[NAME]).trigger_targets(time.sleep):
            install(target.statements, target.watched)
            target.statements.close()
    if tier != "poll":
        shop.grant("log" if tier == "log" else "triggers")


def following(shop: ProductShop, tier: str, folder: Path) -> FollowerHarness:
    """Return a follower that has seen the whole shop."""
    prepared(shop, tier, folder)
    follower = FollowerHarness(shop, tier, folder)
    follower.again()
    assert follower.held() == shop.expected()
    return follower


def on_pg(follower: FollowerHarness, *statements: str) -> None:
    with closing(follower.shop.pg()) as db:
        for statement in statements:
            db.execute(statement.encode())
