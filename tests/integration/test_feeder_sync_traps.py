"""Traps of the real servers, one by one: what writers do."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from feeder.errors import AnotherFeeder, BrakeOn, ServiceDown
from tests.integration.follower import COUNT, FollowerHarness, on_pg
from tests.integration.product_shop import vector_for


def add_vector(follower: FollowerHarness, item_id: str, seed: int) -> None:
    vector = vector_for(Random(seed))
    on_pg(follower, f"INSERT INTO product_vectors(product_id, vector) VALUES ('{item_id}', '{vector}')")


def test_an_update_beside_a_toasted_vector_keeps_the_vector(follower: FollowerHarness) -> None:
    before = follower.held()["p1"]
    on_pg(follower, "UPDATE product_vectors SET note = 'new' WHERE product_id = 'p1'")
    follower.follow()
    assert follower.held()["p1"] == before


def test_a_delete_that_names_only_the_primary_key_removes_the_id(follower: FollowerHarness) -> None:
    on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p1'")
    follower.follow()
    assert "p1" not in follower.held()


def test_the_primary_key_s_id_is_known_after_a_restart(follower: FollowerHarness) -> None:
    add_vector(follower, "new", 5)
    on_pg(follower, "INSERT INTO product VALUES ('new', 'x', true)")
    follower.follow()
    follower.stop()
    on_pg(follower, "DELETE FROM product_vectors WHERE product_id IN ('new', 'p2')")
    follower.again()
    follower.follow()
    assert not {"new", "p2"} & follower.held().keys()


def test_of_two_rows_of_an_id_the_last_wins_until_it_goes(follower: FollowerHarness) -> None:
    first = follower.held()["p1"]
    add_vector(follower, "p1", 6)
    follower.follow()
    assert follower.held()["p1"] != first
    on_pg(follower, "DELETE FROM product_vectors WHERE product_vector_id ="
          " (SELECT max(product_vector_id) FROM product_vectors WHERE product_id = 'p1')")  # fmt: skip
    follower.follow()
    assert follower.held()["p1"] == first


def test_a_row_that_moves_to_another_id_leaves_the_old_one(follower: FollowerHarness) -> None:
    on_pg(follower, "UPDATE product_vectors SET product_id = 'p2' WHERE product_id = 'p1'")
    follower.follow()
    assert "p1" not in follower.held()


def test_null_id_and_null_vector_take_an_item_away_and_back(follower: FollowerHarness) -> None:
    on_pg(follower, "UPDATE product_vectors SET product_id = NULL WHERE product_vector_id = 1",
          "UPDATE product_vectors SET vector = NULL WHERE product_vector_id = 2")  # fmt: skip
    follower.follow()
    assert not {"p0", "p1"} & follower.held().keys()
    on_pg(follower, "UPDATE product_vectors SET product_id = 'p0' WHERE product_vector_id = 1")
    follower.follow()
    assert "p0" in follower.held()


def test_deactivated_reactivated_hard_deleted_and_used_again(follower: FollowerHarness) -> None:
    for statement in (
        "UPDATE product SET is_active = false WHERE id = 'p1'",
        "UPDATE product SET is_active = true WHERE id = 'p1'",
        "DELETE FROM product WHERE id = 'p1'",
        "INSERT INTO product VALUES ('p1', 'again', true)",
    ):
        on_pg(follower, statement)
        follower.follow()
    assert follower.held()["p1"][0]


def test_late_commits_and_rollbacks(follower: FollowerHarness) -> None:
    with closing(follower.shop.pg()) as late, closing(follower.shop.pg()) as never:
        late.autocommit = never.autocommit = False
        late.execute("UPDATE product SET is_active = false WHERE id = 'p1'")
        never.execute("UPDATE product SET is_active = false WHERE id = 'p2'")
        on_pg(follower, "UPDATE product SET is_active = false WHERE id = 'p3'")
        follower.follow()
        assert [follower.held()[name][0] for name in ("p1", "p2", "p3")] == [True, True, False]
        late.commit()
        never.rollback()
    follower.follow()
    assert [follower.held()[name][0] for name in ("p1", "p2", "p3")] == [False, True, False]


def test_truncate_asks_for_a_comparison_and_the_brake_holds(follower: FollowerHarness) -> None:
    on_pg(follower, "TRUNCATE product_vectors")
    with pytest.raises(BrakeOn):
        for _ in range(50):
            assert follower.running is not None
            follower.running.step()
            time.sleep(0.02)
    assert len(follower.held()) == COUNT


def test_a_primary_key_that_changes(follower: FollowerHarness) -> None:
    on_pg(follower, "UPDATE product_vectors SET product_vector_id = 5000 WHERE product_id = 'p1'",
          "UPDATE product SET id = 'renamed' WHERE id = 'p3'")  # fmt: skip
    follower.follow()
    on_pg(follower, "DELETE FROM product_vectors WHERE product_vector_id = 5000")
    follower.follow()
    assert not {"p1", "p3"} & follower.held().keys()


def test_the_source_forgets_nothing_before_the_service_has_it(follower: FollowerHarness) -> None:
    on_pg(follower, "DELETE FROM product WHERE id = 'p1'")
    follower.store.is_down = True
    with pytest.raises(ServiceDown):
        for _ in range(50):
            assert follower.running is not None
            follower.running.step()
            time.sleep(0.02)
    follower.store.is_down = False
    follower.again()
    follower.follow()
    assert "p1" not in follower.held()


def test_a_second_feeder_stops(follower: FollowerHarness, tmp_path: Path) -> None:
    other = (
        FollowerHarness(follower.shop, "auto", tmp_path / "other")
        if (tmp_path / "other").mkdir() is None
        else None
    )
    assert other is not None
    with pytest.raises(AnotherFeeder):
        other.again()
    other.close()
    follower.stop()
