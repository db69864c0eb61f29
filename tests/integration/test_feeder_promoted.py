"""The service serves another model than the source's vectors are of: activity and deletes are followed,
vectors of two models never meet, and either way out ends in equality."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest

from feeder.changes import Changes
from feeder.errors import BrakeOn, ImportRefused
from index_store.types import ItemWrite, WriteBatch
from tests.integration.follower import COUNT, NAME, VERSION, FollowerHarness, following, on_pg
from tests.integration.product_shop import DIM, ProductShop, vector_for
from tests.waiting import until

OTHER = "space-2"


def promoted(follower: FollowerHarness) -> dict[str, bytes]:
    """Fill a generation of another model with vectors of its own, promote it, and return them."""
    follower.index.advance(NAME, "begin", OTHER)
    rng = np.random.default_rng(3)
    vectors = {f"p{n}": rng.standard_normal(DIM).astype(np.float32) for n in range(COUNT)}
    items = [ItemWrite(item_id, vector) for item_id, vector in vectors.items()]
    follower.index.write(NAME, WriteBatch(items, embedding_version=OTHER))
    follower.index.advance(NAME, "promote", OTHER)
    return {item_id: vector.tobytes() for item_id, vector in vectors.items()}


def interrupted(follower: FollowerHarness, version: str = OTHER) -> None:
    """Until the feeder sees that another version is served; then start again, as `run` does."""
    assert follower.running is not None
    follower.running._check_at = 0.0
    with pytest.raises(ImportRefused, match=version):
        follower.running.step()
    follower.again()


def until_held(follower: FollowerHarness, expected: dict[str, tuple[bool, bytes]]) -> None:
    """Step until the index holds what is expected."""
    running = follower.running
    assert running is not None
    until(lambda: follower.held() == expected or (running.step(), False)[1], "what is expected")


@pytest.mark.parametrize("tier", ["log", "triggers", "poll"])
def test_activity_is_followed_and_vectors_never_meet(
    products: ProductShop, tmp_path: Path, tier: str
) -> None:
    with closing(following(products, tier, tmp_path)) as follower:
        theirs = promoted(follower)
        interrupted(follower)
        assert follower.value("feeder_activity_only") == 1
        on_pg(
            follower,
            "UPDATE product SET is_active = false WHERE id = 'p1'",
            "UPDATE product SET is_active = true WHERE id = 'p7'",
            "DELETE FROM product WHERE id = 'p2'",
            f"UPDATE product_vectors SET vector = '{vector_for(Random(5))}' WHERE product_id = 'p3'",
            "DELETE FROM product_vectors WHERE product_id = 'p4'",
        )
        active = {item_id: flag for item_id, (flag, _) in follower.shop.expected().items()} | {"p4": True}
        expected = {i: (active[i], data) for i, data in theirs.items() if i in active}
        assert "p2" not in expected and "p4" in expected, "it lost its vector in the source, not its item"
        until_held(follower, expected)
        assert json.loads(follower.store.state().cursors["sync.report"])["equal"] is False

        follower.index.advance(NAME, "rollback", VERSION)
        interrupted(follower, VERSION)
        follower.follow()
        assert follower.value("feeder_activity_only") == 0
        assert "p4" not in follower.held() and "p3" in follower.held()


def test_an_import_ends_it(products: ProductShop, tmp_path: Path) -> None:
    with closing(following(products, "triggers", tmp_path)) as follower:
        promoted(follower)
        interrupted(follower)
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p4'")
        follower.stop()
        follower.store.apply(Changes(), {"import": json.dumps({"version": OTHER})})
        follower.again()
        follower.follow()
        assert follower.value("feeder_activity_only") == 0


def test_the_brake_holds_here_too(products: ProductShop, tmp_path: Path) -> None:
    with closing(following(products, "poll", tmp_path)) as follower:
        promoted(follower)
        interrupted(follower)
        on_pg(follower, "DELETE FROM product WHERE id <> 'p1'")
        with pytest.raises(BrakeOn):
            follower.again()
        on_pg(follower, "DELETE FROM product")
        with pytest.raises(BrakeOn, match="no item at all"):
            follower.again()
        assert len(follower.held()) == COUNT


def test_an_empty_index_waits_for_its_import(products: ProductShop, tmp_path: Path) -> None:
    """An import needs the lease, so nobody may keep it meanwhile."""
    products.grant("log")
    with closing(FollowerHarness(products, "log", tmp_path)) as follower:
        follower.store.apply(Changes(), {"import": json.dumps({"version": "another"})})
        with pytest.raises(ImportRefused, match="proven to be of another") as caught:
            follower.again()
        assert "feeder import products" in caught.value.hint
