"""What is committed while everything is compared is in the index before that comparison ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from feeder.throttle import Throttle
from tests.integration.follower import SLOT, FollowerHarness, following, on_pg
from tests.integration.product_shop import ProductShop, Tier
from tests.waiting import PATIENCE_S, until


def compared_beside(follower: FollowerHarness, compare: Callable[[], object], *statements: str) -> None:
    """Compare; once all rows have been read let the shop change, and go on when the change has been seen."""
    read, seen = threading.Event(), threading.Event()
    wrong: list[BaseException] = []

    def hold_up(_seconds: float) -> None:
        read.set()
        seen.wait(2 * PATIENCE_S)

    def change() -> None:
        try:
            assert read.wait(PATIENCE_S)
            on_pg(follower, *statements)
            until(lambda: follower.held() == follower.shop.expected(), "a change beside a comparison")
        except BaseException as exc:
            wrong.append(exc)
        finally:
            seen.set()

    follower.throttle = Throttle(0.5, time.monotonic, hold_up)
    follower.again()
    changing = threading.Thread(target=change)
    changing.start()
    try:
        compare()
    finally:
        seen.set()
        changing.join()
    assert not wrong, wrong


CHANGES = (
    "UPDATE product_vectors SET vector = (SELECT vector FROM product_vectors WHERE product_id = 'p9')"
    " WHERE product_id = 'p1'",
    "DELETE FROM product_vectors WHERE product_id = 'p2'",
    "UPDATE product_vectors SET product_id = 'p4' WHERE product_id = 'p3'",
)


@pytest.mark.parametrize("tier", ["log", "triggers"])
def test_changes_are_followed_beside_a_comparison(products: ProductShop, tmp_path: Path, tier: Tier) -> None:
    with closing(following(products, tier, tmp_path)) as follower:

        def compare() -> None:
            assert follower.running is not None
            follower.running.compare_all("a test asks for it")

        compared_beside(follower, compare, *CHANGES, "UPDATE product SET is_active = NOT is_active")
        assert follower.held() == products.expected(), "nothing was set back"
        assert follower.value("feeder_equal") == 1
        on_pg(follower, "DELETE FROM product_vectors WHERE product_id = 'p4'")
        follower.follow()


def test_changes_are_followed_beside_the_comparison_after_a_lost_slot(
    products: ProductShop, tmp_path: Path
) -> None:
    with closing(following(products, "log", tmp_path)) as follower:

        def lose_the_slot() -> None:
            on_pg(
                follower,
                f"SELECT pg_drop_replication_slot('{SLOT}')",
                "DELETE FROM product_vectors WHERE product_id = 'p5'",
            )
            running = follower.running
            assert running is not None
            until(lambda: "p5" not in held() or (running.step(), False)[1], "the end of what was missed")

        held = follower.held
        # What was missed with the slot is found at the end; nobody is held up for what else changes.
        follower.held = lambda: {i: each for i, each in held().items() if i != "p5"}  # type: ignore[method-assign]
        compared_beside(follower, lose_the_slot, *CHANGES)
        follower.held = held  # type: ignore[method-assign]
        follower.follow()
        assert "p5" not in follower.held()
