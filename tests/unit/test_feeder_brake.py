"""The brake over a window of time: what is followed may not empty a collection bit by bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from feeder.changes import Changes
from feeder.errors import BrakeOn
from feeder.follow.follower import Follower
from feeder.sink.brake import Brake, BrakedStore, BrakeWindow
from feeder.sink.writer import WriteResult
from feeder.state.cursor_names import BRAKE_CURSOR, WINDOW_CURSOR
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.index_side import IndexStore
from tests.unit.test_feeder_beside import Shop, in_turns
from tests.unit.test_feeder_reconciler import DIM, NAME, VERSION
from vector_client.types import Item

COUNT, PERCENT, WINDOW_S = 400, 5.0, 3600.0
MAY_VANISH = 20
VECTOR = b"\0\0\x80\x3f" + bytes(4 * (DIM - 1))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """400 products, of which every tenth is inactive."""
    built = Shop(tmp_path, in_turns)
    for key in range(COUNT):
        built.put(key, f"p{key}", key)
        built.show(f"p{key}", key % 10 != 0)
    first = built.feeder()
    first.start()
    first.close()
    for feed in built.feeds.values():
        feed.keys.clear()
    built.brake = Brake(PERCENT)
    assert built.held() == built.expected()
    yield built
    built.index.close()


def started(shop: Shop) -> Follower:
    follower = shop.feeder()
    follower.start()
    return follower


def shown(shop: Shop) -> int:
    return sum(active for active, _ in shop.held().values())


def remove(shop: Shop, how: str, numbers: range) -> None:
    for number in numbers:
        if how == "rows":
            shop.remove(number)
        elif how == "items":
            shop.show(f"p{number}", None)
        else:
            shop.show(f"p{number}", False)


@pytest.mark.parametrize("how", ["rows", "items", "activity"])
def test_a_fifth_that_vanishes_at_once_is_held(shop: Shop, how: str) -> None:
    follower, before = started(shop), shown(shop)
    remove(shop, how, range(1, 77))
    with pytest.raises(BrakeOn) as caught:
        while follower.step():
            pass
    assert "reconcile --force" in caught.value.hint
    assert before - shown(shop) <= MAY_VANISH
    assert shop.registry.get_sample_value("feeder_brake", {"collection": NAME}) == 1
    reported = json.loads(shop.store.state().cursors[BRAKE_CURSOR])
    assert reported["hint"] == caught.value.hint
    assert "would vanish" in reported["why"] and reported["since_ms"] == shop.now * 1000
    follower.close()


@pytest.mark.long
@pytest.mark.parametrize("how", ["rows", "items", "activity"])
def test_bit_by_bit_over_restarts_counts_together(
    shop: Shop, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """19 % in writes of 1 % each, with a new feeder for each of them."""
    caplog.set_level(logging.WARNING)
    before, braked = shown(shop), 0
    for first in range(1, 77, 4):
        follower = shop.feeder()
        remove(shop, how, range(first, first + 4))
        try:
            follower.start()
            while follower.step():
                pass
        except BrakeOn:
            braked += 1
        follower.close()
        shop.now += 60
    assert braked > 10
    assert MAY_VANISH - 4 <= before - shown(shop) <= MAY_VANISH
    assert any(record.message == "many_items_vanished" for record in caplog.records)


def test_what_is_allowed_in_each_window_goes_on(shop: Shop) -> None:
    follower, before = started(shop), shown(shop)
    for first in range(0, 100, 20):
        remove(shop, "activity", range(first, first + 15))
        while follower.step():
            pass
        shop.now += WINDOW_S + 61
    assert before - shown(shop) > 3 * MAY_VANISH
    assert shop.held() == shop.expected()
    follower.close()


def test_changes_of_inactive_items_and_new_items_are_no_loss(shop: Shop) -> None:
    follower = started(shop)
    for number in range(COUNT):
        if number % 10 == 0:
            shop.put(number, f"p{number}", 1000 + number)
            shop.show(f"p{number}", False)
    for number in range(COUNT, COUNT + 100):
        shop.put(number, f"p{number}", number)
        shop.show(f"p{number}", False)
    while follower.step():
        pass
    assert shop.held() == shop.expected()
    assert shop.window.total() == 0
    follower.close()


def test_what_comes_back_is_no_loss(shop: Shop) -> None:
    """Products that are sold out and in again all day."""
    follower = started(shop)
    for _ in range(12):
        for is_active in (False, True):
            for number in range(1, 10):
                shop.show(f"p{number}", is_active)
            while follower.step():
                pass
    assert shop.held() == shop.expected()
    assert shop.window.total() == 0
    follower.close()


def test_a_comparison_counts_what_was_followed_before(shop: Shop) -> None:
    follower, before = started(shop), shown(shop)
    remove(shop, "activity", range(1, 17))
    while follower.step():
        pass
    for number in range(21, 30):
        shop.items.active[f"p{number}"] = False  # nobody names it
    with pytest.raises(BrakeOn, match="after 15 within the window"):
        follower.compare_all("a test asks for it")
    assert before - shown(shop) == 15
    follower.close()


def test_the_brake_is_let_go_by_a_comparison_that_goes_well(shop: Shop) -> None:
    follower = started(shop)
    remove(shop, "items", range(1, 77))
    with pytest.raises(BrakeOn):
        while follower.step():
            pass
    follower.close()
    follower = shop.feeder()
    with pytest.raises(BrakeOn):
        follower.start()
    assert shop.registry.get_sample_value("feeder_brake", {"collection": NAME}) == 1
    follower.close()
    for number in range(1, 77):
        shop.items.active[f"p{number}"] = number % 10 != 0
    follower = started(shop)
    while follower.step():
        pass
    assert shop.held() == shop.expected()
    assert shop.store.state().cursors[BRAKE_CURSOR] == ""
    assert shop.registry.get_sample_value("feeder_brake", {"collection": NAME}) == 0
    follower.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_model_of_the_window(seed: int) -> None:
    """Of any order of losses and returns: never more counted than vanished lately, and all that did where
    nothing came back."""
    rng, now = Random(seed), [1_000_000.0]
    window = BrakeWindow(600, lambda: now[0])
    lost: list[tuple[float, int]] = []
    for _ in range(300):
        now[0] += rng.random() * 20
        count = rng.randrange(1, 9)
        if seed < 2 or rng.random() < 0.6:
            window.note_vanished(count)
            lost.append((now[0], count))
        else:
            window.note_vanished(-count)
        recent = sum(each for at, each in lost if at > now[0] - 600)
        nearly = sum(each for at, each in lost if at > now[0] - 610)
        assert window.total() <= nearly
        assert seed >= 2 or window.total() >= recent
        again = BrakeWindow(600, lambda: now[0])
        again.load(window.as_cursor(), VERSION)
        assert again.total() == window.total(), "a restart goes on counting"
    now[0] += 611
    assert window.total() == 0


@pytest.mark.parametrize("text", ["[]", "{", '{"parts": 7}', '{"parts": [["a", 1]]}', '"x"'])
def test_another_program_s_window_counts_as_nothing(text: str) -> None:
    window = BrakeWindow(600, lambda: 0.0)
    window.load(text, VERSION)
    assert window.total() == 0


class OldStore(IndexStore):
    """A service of the release before, which does not tell what vanished."""

    def apply(self, changes: Changes, cursors: dict[str, str]) -> WriteResult:  # type: ignore[override]
        done = super().apply(changes, cursors)
        return WriteResult(done.upserted, done.deleted, done.stale_ignored, done.rejected, done.seq)


@pytest.mark.parametrize("kind", [IndexStore, OldStore])
def test_the_count_is_stored_with_the_rows(tmp_path: Path, kind: type[IndexStore]) -> None:
    index = EmbeddedIndex(tmp_path, [CollectionSpec(NAME, "int64", DIM, "l2")])
    index.open()
    index.advance(NAME, "begin", VERSION)
    plain = kind(index, NAME)
    plain.apply(Changes([Item(n, VECTOR) for n in range(100)], embedding_version=VERSION), {})
    window = BrakeWindow(600, lambda: 5.0)
    store = BrakedStore(NAME, plain, Brake(50, rows_min=0), window, batch_items=10)
    seq = store.state().seq
    applied = store.apply(Changes(delete_ids=list(range(30))), {"sync.items": "there"})
    cursors = plain.state().cursors
    assert applied.seq == seq + 30 and cursors["sync.items"] == "there"
    again = BrakeWindow(600, lambda: 5.0)
    again.load(cursors[WINDOW_CURSOR], VERSION)
    assert again.total() == 30
    with pytest.raises(BrakeOn):
        store.apply(Changes(delete_ids=list(range(30, 60))), {"sync.items": "further"})
    assert plain.state().cursors["sync.items"] == "there"
    assert BrakedStore(NAME, plain, Brake(50, is_forced=True), window, batch_items=10).apply(
        Changes(delete_ids=list(range(30, 60))), {}
    )
    index.close()


def test_a_promoted_model_goes_on_counting_what_vanished_before(tmp_path: Path) -> None:
    """It has cursors of its own; the items, and what a shopper sees of them, are the same."""
    index = EmbeddedIndex(tmp_path, [CollectionSpec(NAME, "int64", DIM, "l2")])
    index.open()
    plain, items = IndexStore(index, NAME), [Item(n, VECTOR) for n in range(100)]
    for version in (VERSION, "space-2"):
        index.advance(NAME, "begin", version)
        plain.apply(Changes(items, embedding_version=version), {})
    window = BrakeWindow(600, lambda: 5.0)
    brake = Brake(20, rows_min=0, vanished_before=window.total)

    def store() -> BrakedStore:
        """What is built again after each interruption, with the window of before."""
        built = BrakedStore(NAME, plain, brake, window, batch_items=10)
        built.state()
        return built

    store().apply(Changes(delete_ids=list(range(15))), {})
    index.advance(NAME, "promote", "space-2")
    assert WINDOW_CURSOR not in plain.state().cursors
    promoted = store()
    with pytest.raises(BrakeOn, match="after 15 within the window"):
        promoted.apply(Changes(delete_ids=list(range(15, 25))), {})
    promoted.apply(Changes(), {"sync.items": "on"})
    again = BrakeWindow(600, lambda: 5.0)
    again.load(plain.state().cursors[WINDOW_CURSOR], "space-2")
    assert again.total() == 15, "a restart behind the promote goes on with it"
    index.advance(NAME, "rollback", VERSION)
    assert store() and window.total() == 15
    index.close()


def test_a_count_that_was_set_back_stays_so() -> None:
    """`reconcile --force` counts from zero, under the same model."""
    window = BrakeWindow(600, lambda: 5.0)
    window.load(None, VERSION)
    window.note_vanished(15)
    window.load("", VERSION)
    assert window.total() == 0 and not window.is_unsaved
