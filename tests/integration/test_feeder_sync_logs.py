"""Traps of the logs: slots and binary logs that are gone, lost or ahead."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from feeder.changes import Changes
from feeder.errors import BrakeOn, ServiceDown
from feeder.sources.postgres.pgoutput import parse_lsn
from tests.integration.follower import COUNT, SLOT, FollowerHarness, following, on_pg
from tests.integration.product_shop import ProductShop
from tests.waiting import until


class TestSlot:
    def confirmed(self, follower: FollowerHarness) -> int:
        with closing(follower.shop.pg()) as db:
            row = db.execute(
                f"SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
            ).fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def test_it_stands_where_the_service_stands(self, log_follower: FollowerHarness) -> None:
        on_pg(log_follower, "UPDATE product_vectors SET note = 'a' WHERE product_id = 'p1'")
        log_follower.follow()
        stored = json.loads(log_follower.store.state().cursors["sync.vectors"])["lsn"]
        assert parse_lsn(stored) == self.confirmed(log_follower)

    def test_it_stays_while_the_service_is_down(self, log_follower: FollowerHarness) -> None:
        before = self.confirmed(log_follower)
        on_pg(log_follower, "UPDATE product_vectors SET note = 'a' WHERE product_id = 'p1'")
        log_follower.store.is_down = True
        with pytest.raises(ServiceDown):
            while True:
                assert log_follower.running is not None
                log_follower.running.step()
        assert self.confirmed(log_follower) == before

    @pytest.mark.parametrize("how", ["dropped", "made anew", "dropped under way"])
    def test_a_slot_that_is_gone_is_made_up_for(self, log_follower: FollowerHarness, how: str) -> None:
        drop = f"SELECT pg_drop_replication_slot('{SLOT}')"
        make = f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
        if how != "dropped under way":
            log_follower.stop()
        on_pg(log_follower, drop, "DELETE FROM product_vectors WHERE product_id = 'p1'",
              *([make] if how == "made anew" else []))  # fmt: skip
        if how != "dropped under way":
            log_follower.again()
        log_follower.follow()
        assert "p1" not in log_follower.held()

    def test_a_lost_slot_is_made_up_for(self, log_follower: FollowerHarness) -> None:
        log_follower.stop()
        on_pg(log_follower, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
        try:
            on_pg(log_follower, "DELETE FROM product_vectors WHERE product_id = 'p1'")
            for _ in range(3):
                on_pg(
                    log_follower,
                    "SELECT pg_switch_wal()",
                    "CREATE TABLE noise AS SELECT 1",
                    "DROP TABLE noise",
                )
            on_pg(log_follower, "CHECKPOINT")
            with closing(log_follower.shop.pg()) as db:
                states = db.execute("SELECT wal_status FROM pg_replication_slots").fetchall()
            assert ("lost",) in states
        finally:
            on_pg(log_follower, "ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
        log_follower.again()
        log_follower.follow()
        assert "p1" not in log_follower.held()

    def test_a_service_that_went_back_to_a_backup_is_noticed(self, log_follower: FollowerHarness) -> None:
        old = log_follower.store.state().cursors["sync.vectors"]
        on_pg(log_follower, "UPDATE product_vectors SET note = 'a' WHERE product_id = 'p1'")
        log_follower.follow()
        log_follower.stop()
        log_follower.store.apply(Changes(delete_ids=["p5"]), {"sync.vectors": old})
        log_follower.again()
        log_follower.follow()
        assert "p5" in log_follower.held()

    def test_another_s_log_is_let_go_and_an_open_transaction_is_not(
        self, log_follower: FollowerHarness
    ) -> None:
        with closing(log_follower.shop.pg()) as late:
            late.autocommit = False
            late.execute("DELETE FROM product_vectors WHERE product_id = 'p1'")
            on_pg(
                log_follower,
                "CREATE TABLE noise AS SELECT repeat(md5(g::text), 30) FROM generate_series(1, 60000) g",
            )
            before = self.confirmed(log_follower)
            assert log_follower.running is not None
            for _ in range(5):
                log_follower.running.step()
            assert self.confirmed(log_follower) > before + 16 * 2**20
            late.commit()
        log_follower.follow()
        assert "p1" not in log_follower.held()


class TestMariaDB:
    def test_items_go_and_come_back(self, maria_follower: FollowerHarness) -> None:
        shop = maria_follower.shop
        for statement in (
            "UPDATE product SET is_active = false WHERE id = 'p1'",
            "UPDATE product SET is_active = true WHERE id = 'p1'",
            "DELETE FROM product WHERE id = 'p1'",
            "INSERT INTO product VALUES ('p1', '다시', true)",
            "UPDATE product SET id = '새것' WHERE id = 'p2'",
        ):
            shop.item(statement)
            maria_follower.follow()
        assert maria_follower.held()["p1"][0] and "p2" not in maria_follower.held()

    def test_a_purged_binlog_is_made_up_for(
        self, maria_products: ProductShop, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        follower = following(maria_products, "log", tmp_path)
        follower.stop()
        maria_products.item("DELETE FROM product WHERE id = 'p1'")
        with closing(maria_products.maria()) as maria, maria.cursor() as cursor:

            def are_purged() -> bool:
                cursor.execute("FLUSH BINARY LOGS")
                cursor.execute("SHOW BINARY LOGS")
                last = cursor.fetchall()[-1][0]
                cursor.execute("PURGE BINARY LOGS TO %s", (last,))
                cursor.execute("SHOW BINARY LOGS")
                return len(cursor.fetchall()) == 1

            until(are_purged, "the end of the old files", 0.2)  # none that a reader uses is let go of
        with closing(follower):
            caplog.clear()
            running = follower.again()

            def has_said_so() -> bool:
                running.step()
                return any("no longer holds our place" in getattr(each, "why", "") for each in caplog.records)

            until(has_said_so, "a word on the gap")
            follower.follow()
            assert "p1" not in follower.held()

    def test_truncate_is_seen_in_the_log(self, maria_products: ProductShop, tmp_path: Path) -> None:
        with closing(following(maria_products, "log", tmp_path)) as follower:
            maria_products.item("TRUNCATE product")
            with pytest.raises(BrakeOn):
                follower.follow()
            assert len(follower.held()) == COUNT


def test_a_quiet_binary_log_is_left_at_once(maria_products: ProductShop, tmp_path: Path) -> None:
    """The lease is free as soon as a feeder stops, not when the server's next heartbeat wakes its reader."""
    with closing(following(maria_products, "log", tmp_path)) as follower:
        time.sleep(0.3)
        began = time.monotonic()
        follower.stop()
        assert time.monotonic() - began < 3, "its server's heartbeat comes every five seconds"
