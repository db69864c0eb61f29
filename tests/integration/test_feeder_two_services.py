"""Two services that follow one source, what older releases left there, and what triggers leave behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from feeder.errors import AnotherFeeder
from feeder.settings import Settings
from feeder.sources.triggers.dirty_set import install, remove
from feeder.wiring_feeds import SourceBuilder, name_of_slot
from tests.integration.follower import NAME, OTHER_STORE, STORE, FollowerHarness, following, on_pg
from tests.integration.product_shop import COLLECTIONS, ProductShop, Tier
from tests.waiting import until

OLD_PG = (
    "DROP TABLE vs_dirty_readers, vs_dirty_seen",
    "UPDATE vs_dirty_install SET install_id = substr(install_id, 3)",
)


def second_service(
    follower: FollowerHarness, tier: str, folder: Path, store: str = OTHER_STORE
) -> FollowerHarness:
    """Another service's feeder on the same source."""
    folder.mkdir()
    other = FollowerHarness(follower.shop, tier, folder, store)
    other.environ["FEEDER_STATE_DIR"] = str(folder / "state")
    return other


@pytest.fixture(params=["postgresql", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Iterator[ProductShop]:
    yield request.getfixturevalue("products" if request.param == "postgresql" else "maria_products")


def change(shop: ProductShop, number: int) -> None:
    with closing(shop.pg()) as db:
        db.execute("DELETE FROM product_vectors WHERE product_id = %s", (f"p{number}",))
    shop.item("UPDATE product SET is_active = NOT is_active WHERE id = %s", f"p{number + 1}")


def dirty_rows(shop: ProductShop) -> int:
    count = "SELECT COUNT(*) FROM vs_dirty"
    with closing(shop.pg()) as db:
        (rows,) = db.execute(count).fetchone() or (0,)
    if shop.mariadb is not None:
        with closing(shop.maria()) as maria, maria.cursor() as cursor:
            cursor.execute(count)
            rows += cursor.fetchone()[0]
    return int(rows)


def looked_out(follower: FollowerHarness) -> None:
    assert follower.running is not None
    follower.running._check_at, follower.running._timed_checks_at = 0.0, -1e9
    follower.running.step()


@pytest.mark.parametrize("tier", ["log", "triggers", "poll"])
def test_each_service_sees_every_change(shop: ProductShop, tmp_path: Path, tier: Tier) -> None:
    with ExitStack() as stack:
        blue = stack.enter_context(closing(following(shop, tier, tmp_path)))
        green = stack.enter_context(closing(second_service(blue, tier, tmp_path / "green")))
        green.again()
        for number in (1, 3, 5):
            change(shop, number)
            for each in (blue, green) if number != 3 else (green, blue):
                each.follow()
        green.stop()
        change(shop, 7)
        blue.follow()
        green.again()
        green.follow()
        assert "p7" not in green.held(), "what came while it was away was kept for it"
        if tier == "triggers":
            looked_out(blue)
            looked_out(green)
            assert dirty_rows(shop) == 0


@pytest.mark.parametrize("tier", ["log", "triggers"])
def test_a_reader_that_comes_compares_and_one_that_was_struck_out_too(
    products: ProductShop, tmp_path: Path, tier: Tier, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        blue = stack.enter_context(closing(following(products, tier, tmp_path)))
        green = stack.enter_context(closing(second_service(blue, tier, tmp_path / "green")))
        green.again()
        green.stop()
        if tier == "triggers":
            on_pg(blue, "UPDATE vs_dirty_readers SET seen_at = now() - interval '8 days'"
                  f" WHERE reader = '{OTHER_STORE}'")  # fmt: skip
        change(products, 1)
        blue.follow()
        looked_out(blue)
        if tier == "triggers":
            assert dirty_rows(products) == 0, "nobody waits for a reader that is gone for good"
        caplog.clear()
        green.again()
        assert any("does not name" in str(record.__dict__.get("why")) for record in caplog.records) == (
            tier == "triggers"
        )
        green.follow()


def test_an_older_release_s_slot_is_taken_over_without_a_comparison(
    products: ProductShop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(following(products, "log", tmp_path)) as follower:
        follower.store_id = ""  # as that release named things
        follower.again()
        follower.stop()
        for side in ("vectors", "items"):
            position = json.loads(follower.store.state().cursors[f"sync.{side}"])
            del position["slot"]
            forget(follower, side, json.dumps(position))
        on_pg(follower, f"SELECT pg_drop_replication_slot('{name_of_slot(NAME, 'vectors', STORE)}')",
              f"SELECT pg_drop_replication_slot('{name_of_slot(NAME, 'items', STORE)}')")  # fmt: skip
        change(products, 1)
        follower.store_id = STORE
        caplog.clear()
        follower.again()
        follower.follow()
        assert "p1" not in follower.held()
        assert not [record for record in caplog.records if record.message in ("starting_anew", "comparing")]
        with closing(products.pg()) as db:
            slots = {name for (name,) in db.execute("SELECT slot_name FROM pg_replication_slots")}
        assert slots == {name_of_slot(NAME, "vectors", STORE), name_of_slot(NAME, "items", STORE)}


def forget(follower: FollowerHarness, side: str, bookmark: str) -> None:
    from feeder.changes import Changes

    follower.store.apply(Changes(), {f"sync.{side}": bookmark})


def test_an_older_release_s_triggers_serve_one_service_until_they_are_installed_again(
    products: ProductShop, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        blue = stack.enter_context(closing(following(products, "triggers", tmp_path)))
        blue.stop()
        on_pg(blue, *OLD_PG)
        blue.again()
        change(products, 1)
        blue.follow()
        assert {feed.tier for feed in blue.feeds.values()} == {"triggers"}
        assert dirty_rows(products) == 0

        green = stack.enter_context(closing(second_service(blue, "auto", tmp_path / "green")))
        green.again()
        assert {feed.tier for feed in green.feeds.values()} == {"poll"}, "it takes nothing from the first"
        looked_out(green)
        change(products, 3)
        looked_out(green)
        blue.follow()
        assert "p3" not in blue.held()

        installed(products, tmp_path)
        products.grant("triggers")
        blue.again()
        looked_out(green)
        assert green.running is not None and green.running._is_outdated
        green.again()
        assert {feed.tier for feed in green.feeds.values()} == {"triggers"}
        change(products, 5)
        blue.follow()
        green.follow()


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_an_older_feeder_that_still_runs_is_not_overlooked(
    maria_products: ProductShop, tmp_path: Path, engine: str
) -> None:
    with closing(FollowerHarness(maria_products, "poll", tmp_path)) as follower:
        if engine == "mariadb":
            tables = COLLECTIONS.split("[collections.products.source.vectors]")
            items = tables[1].split("[collections.products.source.items]")[1]
            text = (
                f"{tables[0]}[collections.products.source.items]{items}\ncontent = {{ image_url = 'name' }}"
            )
            (tmp_path / "collections.toml").write_text(text, encoding="utf-8")
        settings = Settings.from_environ(follower.environ)
        products = settings.collections[NAME]
        older, ours, other = (
            SourceBuilder(settings, products, store).lease() for store in ("", STORE, OTHER_STORE)
        )
        older.hold()
        with pytest.raises(AnotherFeeder, match="older release"):
            ours.hold()
        older.release()
        eventually_held(ours.hold)
        other.hold()
        twin = SourceBuilder(settings, products, STORE).lease()
        with pytest.raises(AnotherFeeder, match="of this service"):
            twin.hold()
        for lease in (ours, other, twin):
            lease.release()


def eventually_held(hold: Callable[[], None]) -> None:
    """A server takes a moment to notice that a connection is closed."""

    def is_held() -> bool:
        try:
            hold()
        except AnotherFeeder:
            return False
        return True

    until(is_held, "the lease", 0.05)


def installed(shop: ProductShop, folder: Path) -> None:
    for dirty in owner_s(shop, folder):
        install(dirty.statements, dirty.watched)
        dirty.statements.close()


def owner_s(shop: ProductShop, folder: Path) -> list[Any]:
    environ = shop.environ(as_owner=True) | {"COLLECTIONS_FILE": str(folder / "collections.toml")}
    settings = Settings.from_environ(environ)
    return SourceBuilder(settings, settings.collections[NAME]).trigger_targets(time.sleep)


def test_rows_that_nobody_reads_go_and_are_counted_until_then(shop: ProductShop, tmp_path: Path) -> None:
    """Triggers are installed, and the log is followed: the rows stayed for ever, and the metric said 0."""
    with closing(following(shop, "log", tmp_path)) as follower:
        installed(shop, tmp_path)
        change(shop, 1)
        assert dirty_rows(shop) == 2
        looked_out(follower)  # it has no right to the tables yet, which is no reason not to follow
        follower.follow()
        with closing(shop.pg()) as db:
            db.execute("GRANT SELECT ON vs_dirty TO feeder")
        change(shop, 3)
        looked_out(follower)
        assert follower.value("feeder_dirty_rows", side="vectors") == 2
        shop.grant("triggers")
        looked_out(follower)
        assert dirty_rows(shop) == 0
        assert follower.value("feeder_dirty_rows", side="vectors") == 0
        follower.follow()


def test_another_service_s_rows_stay(products: ProductShop, tmp_path: Path) -> None:
    with ExitStack() as stack:
        blue = stack.enter_context(closing(following(products, "triggers", tmp_path)))
        products.grant("log")
        green = stack.enter_context(closing(second_service(blue, "log", tmp_path / "green")))
        green.again()
        change(products, 1)
        looked_out(green)
        assert dirty_rows(products) == 2
        blue.follow()
        assert "p1" not in blue.held() and dirty_rows(products) == 0


def test_a_running_feeder_notices_new_triggers(shop: ProductShop, tmp_path: Path) -> None:
    with closing(following(shop, "poll", tmp_path)) as follower:
        follower.environ["FEEDER_TIER"] = "auto"
        follower.again()
        looked_out(follower)
        assert follower.running is not None and not follower.running._is_outdated
        installed(shop, tmp_path)
        shop.grant("triggers")
        looked_out(follower)
        assert follower.running._is_outdated
        follower.again()
        assert {feed.tier for feed in follower.feeds.values()} == {"triggers"}
        change(shop, 1)
        follower.follow()


def test_remove_leaves_nothing_behind(shop: ProductShop, tmp_path: Path) -> None:
    with closing(following(shop, "triggers", tmp_path)) as follower:
        follower.stop()
        change(shop, 1)
        for _ in range(2):  # again is harmless
            for dirty in owner_s(shop, tmp_path):
                remove(dirty.statements, dirty.watched)
                dirty.statements.close()
        with closing(shop.pg()) as db:
            left = db.execute(
                "SELECT relname FROM pg_class WHERE relname LIKE 'vs\\_%' UNION ALL"
                " SELECT tgname FROM pg_trigger WHERE tgname LIKE 'vs\\_%' UNION ALL"
                " SELECT proname FROM pg_proc WHERE proname LIKE 'vs\\_%'"
            ).fetchall()
        assert left == []
        if shop.mariadb is not None:
            with closing(shop.maria()) as maria, maria.cursor() as cursor:
                for statement in ("SHOW TABLES LIKE 'vs\\_%'", "SHOW TRIGGERS"):
                    cursor.execute(statement)
                    assert not cursor.fetchall()


def test_removing_one_collection_leaves_the_others(products: ProductShop, tmp_path: Path) -> None:
    with closing(following(products, "triggers", tmp_path)) as follower:
        first, second = owner_s(products, tmp_path)
        remove(first.statements, first.watched)
        first.statements.close()
        second.statements.close()
        change(products, 1)
        with closing(products.pg()) as db:
            found = db.execute("SELECT DISTINCT side FROM vs_dirty").fetchall()
        assert found == [("items",)]
        follower.stop()
