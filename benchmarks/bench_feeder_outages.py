"""What searches notice of a feeder whose databases are down, slow, half-open, emptied, or lost its place.

    python -m benchmarks.bench_feeder_outages [--states pg-down pg-slow ...] [--rounds 6] [--rows 20000]

Real PostgreSQL and MariaDB behind a TCP relay, a real service, a real feeder that follows both logs. Two
clients search at a steady pace all the time. In each round every state is entered once, between two windows
in which all is well and the feeder idles, so that what else the machine does hits both. Afterwards a change
is made in the source: the feeder must bring it without help. At the end `verify` must say equal.

Behind each change stands between what 90 of 100 draws of its rounds lie. A state that is surely within its
limit is left out of the rounds that follow; the control, `nothing`, shows what is noise.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.bench_import import private_databases
from benchmarks.feeder_shop import (
    VECTORS,
    BenchShop,
    as_text,
    metric,
    name_of,
    unit,
)
from benchmarks.feeder_windows import CHANGE_MAX_PERCENT, CLIENTS, PACE_S, Window, change_of, searching
from benchmarks.http_load import cpu_seconds
from benchmarks.processes import free_port
from benchmarks.tcp_relay import Relay
from feeder.state.cursor_names import FOLLOWER_CURSOR
from feeder.state.follower_state import FollowerState
from vector_client.http import VectorClient
from vector_client.types import Query

WINDOW_S = 3.0
SLOW_S = 0.5
ROUNDS_MIN = 4
CONTROL = "nothing"
RECOVERY_S_MAX = 90.0
TOLD_S_MAX = 35.0
TELLS = frozenset({"source_retried", "sync_interrupted", "starting_anew", "binlog_reader_ended"})
FEEDER = {
    "FEEDER_SOURCE_TIMEOUT_S": "3", "FEEDER_COMPARE_S": "86400", "FEEDER_BRAKE_PERCENT": "5",
}  # fmt: skip


@dataclass
class Stage:
    """What a state may do: to the two relays, and to the databases themselves."""

    shop: BenchShop
    pg: Relay
    maria: Relay

    def no_outage(self) -> None:
        """The control: what this machine's noise alone looks like."""

    def lose_slot(self) -> None:
        with closing(self.shop.pg()) as db:
            db.execute("UPDATE bench_vectors SET v = v WHERE product_id = %s", (name_of(1),))
            while True:
                try:
                    db.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
                    return
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.003)

    def lose_binlog(self) -> None:
        self.maria.down()
        self.shop.on_items("UPDATE bench_items SET is_active = false WHERE id = %s", name_of(2))
        self.shop.on_items("UPDATE bench_items SET is_active = true WHERE id = %s", name_of(2))
        with closing(self.shop.maria()) as maria, maria.cursor() as cursor:
            cursor.execute("FLUSH BINARY LOGS")
            while True:
                # A server keeps the files that somebody reads, even over a link that is gone.
                cursor.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND = 'Binlog Dump'")
                for (number,) in cursor.fetchall():
                    cursor.execute(f"KILL {int(number)}")
                cursor.execute("SHOW MASTER STATUS")
                (file, *_) = cursor.fetchone() or ("",)
                cursor.execute("PURGE BINARY LOGS TO %s", (file,))
                cursor.execute("SHOW BINARY LOGS")
                if len(cursor.fetchall()) == 1:
                    break
                time.sleep(0.02)
        self.maria.up()

    def swap_database(self) -> None:
        """Let the vector database's name stand for an empty one, and the other way round."""
        name = self.shop.databases["postgres"]["TGT_DB_NAME"]
        self.pg.down()
        with closing(self.shop.pg("postgres")) as db:
            of_both = "FROM pg_stat_activity WHERE datname IN (%s, 'bench_other')"
            db.execute(f"SELECT pg_terminate_backend(pid) {of_both}".encode(), (name,))
            for old, new in ((name, "bench_mine"), ("bench_other", name), ("bench_mine", "bench_other")):
                db.execute(f'ALTER DATABASE "{old}" RENAME TO "{new}"'.encode())
        self.pg.up()

    def swap_items(self) -> None:
        tables = "bench_items TO bench_mine, bench_empty TO bench_items, bench_mine TO bench_empty"
        self.shop.on_items(f"RENAME TABLE {tables}")


@dataclass(frozen=True, slots=True)
class State:
    """is_told: the feeder has to say so, in its log and in a metric; one that is slow just takes longer."""

    enter: Callable[[], None]
    leave: Callable[[], None]
    is_told: bool = True


STATES = (
    "nothing", "pg-down", "pg-slow", "pg-half-open", "maria-down", "maria-slow", "maria-half-open",
    "slot-lost", "binlog-lost", "pg-wrong-database", "maria-wrong-table",
)  # fmt: skip


def states_of(stage: Stage) -> dict[str, State]:
    nothing = stage.no_outage
    return {
        "nothing": State(nothing, nothing, is_told=False),
        "pg-down": State(stage.pg.down, stage.pg.up),
        "pg-slow": State(lambda: stage.pg.slow(SLOW_S), stage.pg.mend, is_told=False),
        "pg-half-open": State(stage.pg.cut, stage.pg.mend),
        "maria-down": State(stage.maria.down, stage.maria.up),
        "maria-slow": State(lambda: stage.maria.slow(SLOW_S), stage.maria.mend, is_told=False),
        "maria-half-open": State(stage.maria.cut, stage.maria.mend),
        "slot-lost": State(stage.lose_slot, nothing),
        "binlog-lost": State(stage.lose_binlog, nothing),
        "pg-wrong-database": State(stage.swap_database, stage.swap_database),
        "maria-wrong-table": State(stage.swap_items, stage.swap_items),
    }


@dataclass
class Seen:
    """Of one state, a value a round. windows: (from, to) before, in the state, and after it."""

    windows: list[tuple[Window, Window, Window]] = field(default_factory=list)
    processor: list[tuple[float, float]] = field(default_factory=list)
    recovered_s: list[float] = field(default_factory=list)
    told_s: list[float] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    logged: set[str] = field(default_factory=set)


@dataclass
class Watch:
    """The running whole: looks at it, and waits until the feeder has caught up."""

    shop: BenchShop
    client: VectorClient
    feeder: subprocess.Popen[bytes]
    metrics_port: int
    chance: random.Random
    told_at: float | None = None

    def window(self) -> tuple[Window, float]:
        """Wait; return from when to when, and what share of a core the feeder took."""
        began, used, place = time.perf_counter(), cpu_seconds(self.feeder.pid), self.shop.log.stat().st_size
        self.told_at = None
        while time.perf_counter() - began < WINDOW_S:
            time.sleep(0.1)
            if self.told_at is None and self.logged(place) & TELLS:
                self.told_at = time.perf_counter()
        ended = time.perf_counter()
        return (began, ended), (cpu_seconds(self.feeder.pid) - used) / (ended - began)

    def trouble(self) -> float:
        """Return what a metric counts of it: interruptions, and full comparisons."""
        port = self.metrics_port
        return metric(port, "feeder_failures_total") + metric(port, "feeder_compared_at_seconds")

    def until_told(self, since: int, trouble: float, began: float) -> float:
        """Wait until log and metric have both told; return after how many seconds the log did."""
        while time.perf_counter() - began < TOLD_S_MAX:
            if self.logged(since) & TELLS and self.trouble() != trouble:
                return (self.told_at or time.perf_counter()) - began
            time.sleep(0.05)
        return TOLD_S_MAX

    def logged(self, since: int) -> set[str]:
        lines = self.shop.log.read_bytes()[since:].splitlines()
        words = (line.split(b" ") for line in lines)
        return {each[1].decode() for each in words if len(each) > 2 and each[0].count(b":") == 2}

    def until_caught_up(self) -> float:
        """Change a vector and an item; return how long it took until search knows both."""
        began = time.perf_counter()
        number = self.chance.randrange(3, self.shop.rows)
        vector = unit(np.random.default_rng(self.chance.randrange(2**32)))
        with closing(self.shop.pg()) as db:
            statement = "UPDATE bench_vectors SET v = %s::vector WHERE product_id = %s"
            db.execute(statement, (as_text(vector), name_of(number)))
        self._until(vector.tobytes(), name_of(number), began)
        self.shop.on_items("UPDATE bench_items SET is_active = false WHERE id = %s", name_of(number))
        self._until(vector.tobytes(), None, began)
        self.shop.on_items("UPDATE bench_items SET is_active = true WHERE id = %s", name_of(number))
        self._until(vector.tobytes(), name_of(number), began)
        return time.perf_counter() - began

    def until_compared(self) -> None:
        """Changes are followed beside a comparison; nothing is well again before it has ended."""
        began = time.perf_counter()
        while not self._owes_nothing():
            if time.perf_counter() - began > RECOVERY_S_MAX:
                raise AssertionError("the comparison never ended")
            time.sleep(0.1)

    def _owes_nothing(self) -> bool:
        cursors = self.client.status()["bench"].cursors
        return not FollowerState.parsed(cursors.get(FOLLOWER_CURSOR)).comparison_owed

    def _until(self, packed: bytes, name: str | None, began: float) -> None:
        while True:
            hits = self.client.search(Query(vector=packed, k=1, collection="bench")).hits
            nearest = hits[0].id if hits and hits[0].distance < 1e-3 else None
            if nearest == name:
                return
            if self.feeder.poll() is not None or time.perf_counter() - began > RECOVERY_S_MAX:
                tail = self.shop.log.read_text(errors="replace")[-4000:]
                raise AssertionError(f"the feeder (exit {self.feeder.poll()}) did not recover:\n{tail}")
            time.sleep(0.02)


def one_state(watch: Watch, state: State, seen: Seen) -> tuple[Window, float]:
    """Enter a state and leave it; return its window, and what share of a core the feeder took in it."""
    trouble, place = watch.trouble(), watch.shop.log.stat().st_size
    began = time.perf_counter()
    state.enter()
    ill, busy = watch.window()
    if state.is_told and not seen.told_s:  # once: a silent link takes its time
        seen.told_s.append(watch.until_told(place, trouble, began))
    seen.items.append(watch.client.digest("bench").items)
    state.leave()
    seen.recovered_s.append(watch.until_caught_up())
    watch.until_compared()
    seen.logged |= watch.logged(place)
    return ill, busy


def one_round(watch: Watch, states: Mapping[str, State], seen: Mapping[str, Seen], chosen: list[str]) -> None:
    before, idle = watch.window()
    for name in chosen:
        ill, busy = one_state(watch, states[name], seen[name])
        after, idle_after = watch.window()
        seen[name].windows.append((before, ill, after))
        seen[name].processor.append((idle, busy))
        before, idle = after, idle_after


def show(seen: Mapping[str, Seen], found: list[Any], rows: int) -> bool:
    """Print a table; return whether every state kept what is promised."""
    print(f"{'state':<18} {'p99 well':>9} {'p99 in it':>9} {'change':>17} {'<=':>5} {'rounds':>6}"
          f" {'feeder':>12} {'recovered':>9} {'told in':>8} {'items':>7}  log")  # fmt: skip
    is_kept = True
    for name, each in seen.items():
        change = change_of(each.windows, found)
        idle, busy = (statistics.median(pair[side] for pair in each.processor) for side in (0, 1))
        is_kept = is_kept and change.percent <= CHANGE_MAX_PERCENT and min(each.items) == rows
        is_kept = is_kept and max(each.told_s, default=0) < TOLD_S_MAX
        print(
            f"{name:<18} {change.well_ms:>6.2f} ms {change.ill_ms:>6.2f} ms {change.percent:>+4.0f} %"
            f" ({change.low:>+4.0f}..{change.high:>+4.0f}) {CHANGE_MAX_PERCENT:>3.0f} %"
            f" {len(each.windows):>6}"
            f" {100 * idle:>3.0f} -> {100 * busy:>3.0f} % {statistics.median(each.recovered_s):>7.1f} s"
            f" {f'{max(each.told_s):.1f} s' if each.told_s else '-':>8} {min(each.items):>7,}"
            f"  {' '.join(sorted(each.logged))}"
        )
    return is_kept


def prepared(shop: BenchShop) -> None:
    shop.fill()
    shop.publish()
    shop.on_items("DROP TABLE IF EXISTS bench_empty")
    shop.on_items("CREATE TABLE bench_empty LIKE bench_items")
    with closing(shop.pg("postgres")) as db:
        db.execute("CREATE DATABASE bench_other")
    with closing(shop.pg("bench_other")) as db:
        db.execute("CREATE EXTENSION vector")
        db.execute(VECTORS.encode())
        db.execute("CREATE PUBLICATION vs_bench_vectors FOR TABLE bench_vectors (pk)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=12, help="at most")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no other round after so many")
    parser.add_argument("--states", nargs="+", help="all of them, when left out")
    options = parser.parse_args()
    if unknown := set(options.states or ()) - set(STATES):
        parser.error(f"no such state: {', '.join(sorted(unknown))}; there are {', '.join(STATES)}")
    with ExitStack() as stack:
        databases = stack.enter_context(private_databases("postgres", "mariadb"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pg = stack.enter_context(closing(Relay(int(databases["postgres"]["TGT_DB_PORT"]))))
        maria = stack.enter_context(closing(Relay(int(databases["mariadb"]["SRC_DB_PORT"]))))
        ports = {"postgresql": pg.port, "mariadb": maria.port}
        shop = BenchShop(databases, "mariadb", folder, options.rows, options.seed, ports)
        prepared(shop)
        states = states_of(Stage(shop, pg, maria))
        chosen = options.states or list(states)
        environ = shop.environ("log", FEEDER_METRICS_PORT=str(free_port()), **FEEDER)
        client = stack.enter_context(shop.serving(environ))
        feeder = stack.enter_context(shop.process(environ, "feeder", "sync"))
        metrics_port = int(environ["FEEDER_METRICS_PORT"])
        watch = Watch(shop, client, feeder, metrics_port, random.Random(options.seed))
        time.sleep(3)
        watch.until_caught_up()
        print(
            f"seed {options.seed}; {options.rows:,} rows of vector(512), {CLIENTS} clients pausing"
            f" {1000 * PACE_S:.0f} ms; {options.rounds} rounds at most", flush=True,
        )  # fmt: skip
        seen = {name: Seen() for name in chosen}
        began = time.perf_counter()
        with searching(shop.service_port) as so_far:
            for _ in range(options.rounds):
                if time.perf_counter() - began > options.seconds:
                    break  # whole rounds only: each state keeps its pairs
                one_round(watch, states, seen, chosen)
                if len(seen[chosen[0]].windows) >= ROUNDS_MIN:
                    found = so_far()
                    is_open = [n for n in chosen if not change_of(seen[n].windows, found).is_surely_within]
                    if set(is_open) <= {CONTROL}:
                        break
                    chosen = [name for name in chosen if name in is_open or name == CONTROL]
            found = so_far()
        is_kept = show(seen, found, options.rows)
        print(shop.feed(environ, "verify").splitlines()[0])
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
