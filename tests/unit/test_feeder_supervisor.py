"""What interrupts a feeder is said, counted and waited out; only what never worked ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from feeder.changes import Changes, Key, VectorPage
from feeder.compare.reconciler import Reconciler
from feeder.errors import AnotherFeeder, FeederError, ImportRefused, SettingsWrong, SourceDown
from feeder.follow.backoff import LEASE_PATIENCE_S, Backoff
from feeder.follow.dependencies import FollowerDependencies, Pace
from feeder.follow.follower import Follower
from feeder.follow.supervisor import follow
from feeder.read.vector_reader import VectorReader
from feeder.sink.brake import Brake
from feeder.sources.polling import PollingFeed
from feeder.state.cursor_names import FOLLOWER_CURSOR
from feeder.state.key_map import IN_MEMORY, KeyMap
from feeder.telemetry.metrics import Metrics
from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec
from tests.index_side import IndexStore
from tests.unit.test_feeder_reconciler import DIM, NAME, VERSION, ListItems, ListVectors


@dataclass
class Time:
    """A clock that only waiting moves; `stops_at` ends whoever waits."""

    now: float = 0.0
    stops_at: float = 1e9
    waited: list[float] = field(default_factory=list)
    planned: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def at(self, moment: float, work: Callable[[], None]) -> None:
        self.planned.append((moment, work))

    def is_set(self) -> bool:
        due, self.planned = (
            [p for p in self.planned if p[0] <= self.now],
            [p for p in self.planned if p[0] > self.now],
        )
        for _, work in due:
            work()
        return self.now >= self.stops_at

    def wait(self, timeout: float) -> bool:
        self.waited.append(timeout)
        self.now += max(timeout, 0.001)
        return self.is_set()


@dataclass
class ScriptedLease:
    """A lease that fails as `wrong` says, by the time."""

    time: Time
    wrong: Callable[[float], FeederError | None]

    def hold(self) -> None:
        error = self.wrong(self.time.now)
        if error is not None:
            raise error

    def release(self) -> None: ...


class Bench:
    def __init__(self, folder: Path, wrong: Callable[[float], FeederError | None]) -> None:
        self.time, self.registry = Time(), CollectorRegistry()
        self.index = EmbeddedIndex(folder, [CollectionSpec(NAME, "string", DIM, "l2")])
        self.index.open()
        self.index.advance(NAME, "begin", VERSION)
        self.vectors, self.items = ListVectors(), ListItems()
        self.put("a")
        self.store = IndexStore(self.index, NAME)
        self.metrics = Metrics(self.registry)
        reader = VectorReader(self.vectors, self.items, KeyMap(IN_MEMORY), id_kind="string", page_rows=7)
        clock = lambda: self.time.now  # noqa: E731  # a clock
        parts = FollowerDependencies(
            collection=NAME, store=self.store, reader=reader,
            feeds={
                "vectors": PollingFeed(5, clock, self.time.wait),
                "items": PollingFeed(5, clock, self.time.wait),
            },
            lease=ScriptedLease(self.time, wrong),
            reconciler=Reconciler(
                NAME, self.store, reader, Brake(5), batch_items=10, clock=clock, pause=self.time.wait
            ),
            metrics=self.metrics, clock=clock, ticks=clock,
            version_of=lambda _: VERSION, follower="here",
        )  # fmt: skip
        self.parts = parts
        self.backoff = Backoff(NAME, self.metrics, lambda: 1.0, clock)

    def follow(self) -> None:
        follow(self.build, self.time, self.backoff)  # type: ignore[arg-type]

    def build(self) -> tuple[Follower, NoWriter]:
        return Follower(self.parts, Pace(poll_s=0.5, compare_s=3600, check_s=1), 10), NoWriter()

    def put(self, item_id: str) -> None:
        self.vectors.rows[len(self.vectors.rows)] = (item_id, np.array([1, 0, 0, 0], dtype=np.float32))
        self.items.active[item_id] = True

    def reads(self) -> int:
        return self.items.directories

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"collection": NAME, **labels})


def between(begin: float, end: float, error: FeederError) -> Callable[[float], FeederError | None]:
    return lambda now: error if begin <= now < end else None


@pytest.mark.parametrize("error", [SourceDown("down"), SettingsWrong("no such table"), AnotherFeeder("x")])
def test_what_worked_before_is_waited_for(tmp_path: Path, error: FeederError) -> None:
    """A table that is renamed for a migration, or a lease that the database still keeps for our old link."""
    bench = Bench(tmp_path, between(20, 60, error))
    bench.time.stops_at = 40
    bench.follow()
    assert bench.value("feeder_following") == 0
    assert (bench.value("feeder_failures_total", kind=type(error).__name__) or 0) >= 1
    pauses = [wait for wait in bench.time.waited if wait > 0.5]
    assert pauses == sorted(pauses) and max(pauses) <= 60, "each pause is longer, none is endless"
    bench.index.close()


@pytest.mark.long
@pytest.mark.parametrize("error", [SourceDown("down"), SettingsWrong("no such table"), AnotherFeeder("x")])
def test_an_interruption_ends_by_itself(tmp_path: Path, error: FeederError) -> None:
    bench = Bench(tmp_path, between(20, 60, error))
    bench.time.at(30, lambda: bench.put("b"))
    bench.time.stops_at = 200
    bench.follow()
    assert bench.value("feeder_following") == 1
    assert bench.store.digest().items == 2, "what happened meanwhile is not lost"
    bench.index.close()


@pytest.mark.parametrize("error", [SettingsWrong("no such table"), AnotherFeeder("x")])
def test_what_never_worked_ends_it(tmp_path: Path, error: FeederError) -> None:
    bench = Bench(tmp_path, between(0, 1e9, error))
    with pytest.raises(type(error)):
        bench.follow()
    bench.index.close()


def test_a_lease_that_another_feeder_keeps_ends_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, between(20, 1e9, AnotherFeeder("x")))
    with pytest.raises(AnotherFeeder):
        bench.follow()
    assert LEASE_PATIENCE_S < bench.time.now < 2 * LEASE_PATIENCE_S + 60
    bench.index.close()


def test_a_lease_that_an_awaited_import_holds_is_waited_for() -> None:
    """Following waits for an import without holding the lease; the two meet when the import just ends."""
    clock = [0.0]
    backoff = Backoff(NAME, Metrics(CollectorRegistry()), lambda: 1.0, lambda: clock[0])
    assert backoff.is_final(AnotherFeeder("x")) and backoff.is_final(SettingsWrong("x"))
    backoff.note_failure(ImportRefused("not imported yet"))
    clock[0] = 10.0
    assert not backoff.is_final(AnotherFeeder("x")) and backoff.is_final(SettingsWrong("x"))
    clock[0] = LEASE_PATIENCE_S + 11
    assert backoff.is_final(AnotherFeeder("x"))


def test_a_database_that_is_down_at_the_start_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: None)
    asked: list[float] = []

    def build() -> tuple[Follower, NoWriter]:
        asked.append(bench.time.now)
        if bench.time.now < 30:
            raise SourceDown("down")
        return bench.build()

    bench.time.stops_at = 100
    follow(build, bench.time, bench.backoff)  # type: ignore[arg-type]
    assert len(asked) > 3
    assert bench.value("feeder_following") == 1
    assert bench.store.digest().items == 1
    bench.index.close()


class NoWriter:
    def start(self) -> None: ...

    def close(self) -> None: ...


def test_two_polls_ask_for_one_comparison_an_interval(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: None)
    bench.time.stops_at = 23
    bench.follow()
    assert bench.reads() == 5, "at the start, and after each 5 s"
    bench.index.close()


def test_what_others_wrote_meanwhile_is_compared_at_the_next_start(tmp_path: Path) -> None:
    """An import, a reconcile, a feeder on another machine: what is remembered here may be older than that."""
    bench = Bench(tmp_path, lambda _: None)
    key_map = KeyMap(str(tmp_path / "products.sqlite"))
    reader = VectorReader(bench.vectors, bench.items, key_map, id_kind="string", page_rows=7)
    reconciler = Reconciler(
        NAME, bench.store, reader, Brake(5), batch_items=10, clock=bench.parts.clock, pause=bench.time.wait
    )
    parts = replace(bench.parts, reader=reader, reconciler=reconciler, feeds={})
    compared = []
    for others in ({}, {}, {FOLLOWER_CURSOR: ""}, {}, {FOLLOWER_CURSOR: "another machine"}):
        bench.store.apply(Changes(), others)
        before = bench.reads()
        follower = Follower(parts, Pace(poll_s=0.5, compare_s=3600, check_s=1), 10)
        follower.start()
        follower.close()
        compared.append(bench.reads() > before)
    assert compared == [True, False, True, False, True]
    bench.index.close()


@pytest.mark.parametrize(("took_s", "next_s"), [(20, 3600), (100, 9900)])
def test_comparing_takes_a_hundredth_of_the_time_at_most(tmp_path: Path, took_s: int, next_s: int) -> None:
    bench = Bench(tmp_path, lambda _: None)

    class SlowVectors(ListVectors):
        def page(self, after: Key | None, rows: int) -> VectorPage:
            bench.time.now += took_s
            return super().page(after, rows)

    slow = SlowVectors()
    slow.rows = bench.vectors.rows
    reader = VectorReader(slow, bench.items, KeyMap(IN_MEMORY), id_kind="string", page_rows=7)
    reconciler = Reconciler(
        NAME, bench.store, reader, Brake(5), batch_items=10, clock=bench.parts.clock, pause=bench.time.wait
    )
    follower = Follower(
        replace(bench.parts, reader=reader, reconciler=reconciler, feeds={}), Pace(0.5, 3600), 10
    )
    follower.start()
    began = bench.time.now
    bench.time.now = began + next_s - 1
    follower.step()
    assert bench.reads() == 1
    bench.time.now = began + next_s
    follower.step()
    assert bench.reads() == 2
    follower.close()
    bench.index.close()
