"""Changes are followed beside a comparison: seen before it ends, never set back by what it read earlier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from feeder.changes import Key, VectorPage
from feeder.compare.reconciler import Reconciler
from feeder.errors import BrakeOn, SourceDown
from feeder.follow.dependencies import FollowerDependencies, Pace
from feeder.follow.follower import Follower
from feeder.read.vector_reader import VectorReader, VectorScanSources
from feeder.sink.brake import Brake, BrakedStore, BrakeWindow
from feeder.state.cursor_names import FOLLOWER_CURSOR
from feeder.state.follower_state import FollowerState
from feeder.state.key_map import KeyMap
from feeder.telemetry.metrics import Metrics
from feeder.throttle import IsWanted, Meanwhile, Runner, run_at_idle_priority
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.index_side import IndexStore
from tests.list_feed import ListFeed
from tests.unit.test_feeder_reconciler import DIM, NAME, VERSION, ListItems, ListVectors
from tests.waiting import PATIENCE_S

T = TypeVar("T")


class FreeLease:
    def hold(self) -> None: ...

    def release(self) -> None: ...


class Shop:
    """Two tables in memory, what notices their changes, and one feeder after the other."""

    def __init__(self, folder: Path, run_scan: Runner) -> None:
        self.index = EmbeddedIndex(folder, [CollectionSpec(NAME, "string", DIM, "l2")])
        self.index.open()
        self.index.advance(NAME, "begin", VERSION)
        self.store = IndexStore(self.index, NAME)
        self.vectors, self.items = ListVectors(), ListItems()
        self.slow = SlowVectors(self.vectors)
        self.feeds = {"vectors": ListFeed(), "items": ListFeed()}
        self.now, self.run_scan, self.brake = 1000.0, run_scan, Brake(100)
        self._key_map = str(folder / "ledger.sqlite")

    def put(self, key: int, item_id: str, seed: int) -> None:
        vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
        self.vectors.rows[key] = (item_id, vector / np.linalg.norm(vector))
        self.feeds["vectors"].keys.append(key)

    def remove(self, key: int) -> None:
        del self.vectors.rows[key]
        self.feeds["vectors"].keys.append(key)

    def show(self, item_id: str, active: bool | None) -> None:
        """None: the item is gone."""
        if active is None:
            self.items.active.pop(item_id, None)
        else:
            self.items.active[item_id] = active
        self.feeds["items"].keys.append(item_id)

    def feeder(self) -> Follower:
        reader = VectorReader(
            self.vectors, self.items, KeyMap(self._key_map), id_kind="string", page_rows=7,
            scan_sources=VectorScanSources(self.slow, self.items), pages_ahead=0,
        )  # fmt: skip
        self.registry = CollectorRegistry()
        self.window = BrakeWindow(3600, self.clock)
        brake = replace(self.brake, vanished_before=self.window.total)
        store = BrakedStore(NAME, self.store, brake, self.window, batch_items=10)
        self.reconciler = Reconciler(
            NAME, store, reader, brake, batch_items=10, clock=self.clock, pause=lambda _: None,
            run_scan=self.run_scan,
        )  # fmt: skip
        parts = FollowerDependencies(
            NAME, store, reader, self.feeds, FreeLease(), self.reconciler, Metrics(self.registry),
            self.clock, self.clock, lambda _: VERSION, "here", None, self.window.total,
        )  # fmt: skip
        return Follower(parts, Pace(poll_s=0.01, compare_s=3600), 10)

    def clock(self) -> float:
        return self.now

    def expected(self) -> dict[str, tuple[bool, bytes]]:
        last = {item_id: vector for _, (item_id, vector) in sorted(self.vectors.rows.items())}
        active = self.items.active
        return {i: (active[i], vector.astype("<f4").tobytes()) for i, vector in last.items() if i in active}

    def held(self) -> dict[str, tuple[bool, bytes]]:
        ids = [row.id for row in self.index.digest_rows(NAME, range(4096))]
        items = [item for item in self.index.get(NAME, ids) if item is not None and item.vector is not None]
        return {str(item.id): (item.active, np.asarray(item.vector, "<f4").tobytes()) for item in items}

    def follower(self) -> FollowerState:
        return FollowerState.parsed(self.store.state().cursors.get(FOLLOWER_CURSOR))


class SlowVectors(ListVectors):
    """The same rows, over a connection that may be held up behind each page."""

    def __init__(self, rows_of: ListVectors) -> None:
        super().__init__()
        self.rows = rows_of.rows
        self.behind: Callable[[], None] = lambda: None

    def page(self, after: Key | None, rows: int) -> VectorPage:
        found = super().page(after, rows)
        self.behind()
        return found


def in_turns(work: Callable[[IsWanted], T], meanwhile: Meanwhile | None, /) -> T:
    """One thread that follows before each portion is taken: the same order every time."""
    return work(lambda: True if meanwhile is None else (meanwhile(), True)[1])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    built = Shop(tmp_path, run_at_idle_priority)
    for key in range(30):
        built.put(key, f"p{key}", key)
        built.show(f"p{key}", True)
    first = built.feeder()
    first.start()
    first.close()
    assert built.held() == built.expected()
    yield built
    built.index.close()


class Gate:
    """Stops whoever comes, and says that somebody has."""

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self._pages -= 1
        if self._pages == 0:
            self.reached.set()
            assert self.opened.wait(PATIENCE_S)


def compared_beside(shop: Shop, follower: Follower, during: Callable[[], None]) -> None:
    """Compare everything, and do something else when half of it has been read."""
    shop.slow.behind = gate = Gate(3)
    wrong: list[BaseException] = []

    def other() -> None:
        try:
            assert gate.reached.wait(PATIENCE_S)
            during()
        except BaseException as exc:
            wrong.append(exc)
        finally:
            gate.opened.set()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        follower.compare_all("a test asks for it")
    finally:
        thread.join()
        if wrong:
            raise wrong[0]


def until(shop: Shop, is_so: Callable[[], bool]) -> None:
    """Wait for the write that makes it so."""
    with shop.store.written:
        seen = shop.store.written.wait_for(is_so, PATIENCE_S)
    assert seen, "it was not seen while the comparison was under way"


def test_a_change_is_there_before_the_comparison_ends(shop: Shop) -> None:
    """Of rows that were read already, and of rows that were not."""
    follower = shop.feeder()
    follower.start()

    def change() -> None:
        for key in (1, 29):
            shop.put(key, f"p{key}", 1000 + key)
            shop.show(f"p{key + -1}", False)
        shop.remove(2)
        shop.show("p3", None)
        shop.put(40, "new", 40)
        shop.show("new", True)
        until(shop, lambda: shop.held() == shop.expected())

    compared_beside(shop, follower, change)
    assert shop.held() == shop.expected(), "nothing was set back"
    assert shop.store.digest().items == len(shop.expected())
    assert shop.follower() == FollowerState("here", comparison_owed=False)
    assert not follower.step()
    shop.remove(40)  # a row that came meanwhile is remembered
    follower.step()
    assert shop.held() == shop.expected()
    follower.close()


def test_many_new_items_meanwhile_are_no_reason_to_brake(shop: Shop) -> None:
    shop.brake = Brake(5)
    follower = shop.feeder()
    follower.start()

    def change() -> None:
        for key in range(-20, 0):  # before what has been read already
            shop.put(key, f"n{key}", 100 + key)
            shop.show(f"n{key}", True)
        until(shop, lambda: shop.held() == shop.expected())

    compared_beside(shop, follower, change)
    assert shop.held() == shop.expected()
    follower.close()


def test_an_interrupted_comparison_is_owed_though_its_feed_went_on(shop: Shop) -> None:
    """The lost feed's new place is stored with what was followed: alone it would hide what was missed."""
    shop.put(5, "p5", 500)  # nobody will ever name it
    shop.feeds["vectors"].is_lost = True
    follower = shop.feeder()
    missed = shop.held()["p5"]

    def change() -> None:
        shop.put(1, "p1", 1000)
        until(shop, lambda: shop.held()["p1"] == shop.expected()["p1"])
        shop.items.fetch = broken  # type: ignore[method-assign]
        shop.show("p7", False)

    def broken(_: object) -> dict[str, list[object]]:
        raise SourceDown("gone")

    follower.compare_all = lambda *given, **more: compared_beside_once(given, more)  # type: ignore[method-assign]

    def compared_beside_once(given: tuple[str, ...], more: dict[str, object]) -> None:
        del follower.compare_all  # type: ignore[attr-defined]
        shop.slow.behind = gate = Gate(3)
        threading.Thread(target=lambda: (gate.reached.wait(PATIENCE_S), change()), daemon=True).start()
        try:
            follower.compare_all(*given, **more)  # type: ignore[arg-type]
        finally:
            gate.opened.set()

    with pytest.raises(SourceDown):
        follower.start()
    follower.close()
    assert shop.held()["p5"] == missed
    assert shop.follower() == FollowerState("here", comparison_owed=True)
    assert shop.store.state().cursors["sync.vectors"] == "on"
    del shop.items.fetch
    shop.slow.behind = lambda: None
    again = shop.feeder()
    again.start()
    assert not again.step() or not again.step()
    assert shop.held() == shop.expected()
    again.close()


def test_nothing_is_followed_beside_once_the_brake_held(shop: Shop) -> None:
    """A wrong database says of each item that changes that it is gone."""
    shop.brake = Brake(5)
    follower = shop.feeder()
    follower.start()
    taken = {item_id: shop.items.active.pop(item_id) for item_id in list(shop.items.active)[:20]}
    with pytest.raises(BrakeOn):
        follower.compare_all("a test asks for it")
    follower.close()
    before = shop.held()
    shop.put(1, "p1", 1000)
    again = shop.feeder()
    with pytest.raises(BrakeOn):
        again.start()
    again.close()
    assert shop.held() == before
    shop.items.active |= taken
    last = shop.feeder()
    last.start()
    last.step()
    assert shop.held() == shop.expected()
    last.close()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_changes_comparisons_losses_and_restarts(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    print("seed", seed)
    shop = Shop(tmp_path, in_turns)
    hidden: list[tuple[str, Key]] = []

    def change() -> None:
        """Some of it is noticed later: a log is behind, never ahead."""
        for _ in range(rng.randrange(4)):
            key, name = rng.randrange(40), f"p{rng.randrange(25)}"
            what = rng.randrange(5)
            if what < 2:
                shop.put(
                    key, name, rng.getrandbits(30)
                )  # several rows of one id, and rows that change theirs
            elif what == 2 and key in shop.vectors.rows:
                shop.remove(key)
            else:
                shop.show(name, rng.choice([True, True, False, None]))
        for side, feed in shop.feeds.items():
            hidden.extend((side, each) for each in feed.keys if rng.random() < 0.3)
            feed.keys[:] = [each for each in feed.keys if (side, each) not in hidden]
        for side, each in list(hidden):
            if rng.random() < 0.4:
                hidden.remove((side, each))
                shop.feeds[side].keys.append(each)

    for _ in range(30):
        change()
    shop.slow.behind = change
    follower = shop.feeder()
    follower.start()
    for _ in range(60):
        change()
        what = rng.random()
        if what < 0.15:
            follower.compare_all("a test asks for it")
        elif what < 0.25:
            feed = rng.choice(list(shop.feeds.values()))
            feed.is_lost, shop.now = True, shop.now + 31
            feed.keys.clear()
        elif what < 0.35:
            follower.close()
            follower = shop.feeder()
            follower.start()
        follower.step()
    shop.slow.behind = lambda: None
    for side, each in hidden:
        shop.feeds[side].keys.append(each)
    while follower.step():
        pass
    assert shop.held() == shop.expected()
    assert shop.reconciler.compare(VERSION).is_equal
    follower.close()
    shop.index.close()
