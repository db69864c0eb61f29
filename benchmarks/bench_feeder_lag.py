"""How long a commit in the source takes to show in /v1/search, for each way of noticing changes.

    python -m benchmarks.bench_feeder_lag [--changes 100] [--rows 2000] [--tiers log triggers poll]

Private databases, a real service process and a real feeder process, one after the other for each tier, with
the items in PostgreSQL and in MariaDB. A change is a new vector (search by it finds the product at distance
0) or a deactivation (search by its vector does not find it any more). The clock starts when COMMIT has
returned; searching is a poll every few milliseconds over one connection, so the figures hold one search too.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bench_import import private_databases
from benchmarks.feeder_shop import (
    BenchShop,
    Items,
    as_text,
    is_following,
    name_of,
    unit,
)  # fmt: skip
from benchmarks.processes import free_port
from vector_client.http import VectorClient
from vector_client.types import Query

POLL_S = 1.0
POLL_CHANGES_MAX = 10
SECONDS_MAX = 60.0
BOUNDS_MS = {"log": (150.0, 500.0), "triggers": (500.0, 1000.0)}
"""p50 and p99 that are promised. A poll takes its interval, and what one comparison takes."""


def seconds_until(is_so: Callable[[], bool]) -> float:
    began = time.perf_counter()
    while not is_so():
        if time.perf_counter() - began > SECONDS_MAX:
            raise TimeoutError("the change never showed")
        time.sleep(0.002)
    return time.perf_counter() - began


def measure(shop: BenchShop, client: VectorClient, changes: int) -> dict[str, list[float]]:
    """Seconds from COMMIT to search, by kind of change."""
    rng, chance = np.random.default_rng(shop.seed + 1), random.Random(shop.seed)
    found: dict[str, list[float]] = {"new vector": [], f"deactivated in {shop.items}": []}
    with closing(shop.pg()) as db, closing(shop.items_connection()) as items:
        for number in chance.sample(range(1, shop.rows + 1), changes):
            name, vector = name_of(number), unit(rng)
            packed = vector.astype("<f4").tobytes()

            def nearest(packed: bytes = packed) -> str | None:
                hits = client.search(Query(vector=packed, k=1, collection="bench")).hits
                return str(hits[0].id) if hits and hits[0].distance < 1e-3 else None

            new_vector, deactivated = found.values()
            time.sleep(chance.random() * 0.1)  # not in step with the feeder's own poll
            statement = "UPDATE bench_vectors SET v = %s::vector WHERE product_id = %s"
            db.execute(statement.encode(), (as_text(vector), name))
            new_vector.append(seconds_until(lambda near=nearest, name=name: near() == name))
            time.sleep(chance.random() * 0.1)
            with items.cursor() as cursor:
                cursor.execute("UPDATE bench_items SET is_active = false WHERE id = %s", (name,))
            deactivated.append(seconds_until(lambda near=nearest: near() is None))
    return found


def one_tier(tier: str, shop: BenchShop, changes: int) -> dict[str, list[float]]:
    shop.fill()
    environ = shop.environ(tier, FEEDER_BRAKE_PERCENT="100", FEEDER_POLL_S=f"{POLL_S:.0f}")
    if tier == "log":
        shop.publish()
    changes = changes if tier != "poll" else min(changes, POLL_CHANGES_MAX)
    with (
        shop.serving(environ, as_triggers=tier == "triggers") as client,
        shop.process(environ, "feeder", "sync"),
    ):
        seconds_until(is_following(client))
        return measure(shop, client, changes)


def show(tier: str, items: Items, kind: str, seconds: Sequence[float]) -> bool:
    """Print one line; return whether it is what is promised."""
    p50, p99 = (float(np.percentile(seconds, each)) * 1000 for each in (50, 99))
    p50_max, p99_max = BOUNDS_MS.get(tier, (POLL_S * 2000, POLL_S * 2000))
    is_kept = p50 <= p50_max and p99 <= p99_max
    print(
        f"{tier:<9} items in {items:<11} {kind:<25} p50 {p50:>6.0f} (<= {p50_max:>4.0f})"
        f"  p99 {p99:>6.0f} (<= {p99_max:>4.0f})  max {max(seconds) * 1000:>6.0f} ms"
        f"  n {len(seconds)}{'' if is_kept else '  MISSED'}",
        flush=True,
    )
    return is_kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--tiers", nargs="+", default=["log", "triggers", "poll"])
    parser.add_argument("--items", nargs="+", default=["postgresql", "mariadb"])
    options = parser.parse_args()
    results: dict[str, dict[str, list[float]]] = {}
    is_kept = True
    with private_databases("postgres", "mariadb") as databases, tempfile.TemporaryDirectory() as place:
        shop = BenchShop(databases, "postgresql", Path(place), options.rows, options.seed)
        print(f"seed {options.seed}; {options.rows} rows of vector(512); milliseconds from commit to search")
        for tier in options.tiers:
            for items in options.items:
                here = replace(shop, items=items, service_port=free_port())
                try:
                    measured = one_tier(tier, here, options.changes)
                except TimeoutError:
                    print(shop.log.read_text()[-3000:], file=sys.stderr)
                    raise
                results[f"{tier}, {items}"] = measured
                for kind, seconds in measured.items():
                    is_kept = show(tier, items, kind, seconds) and is_kept
    print(
        json.dumps({name: {k: sorted(v)[len(v) // 2] for k, v in m.items()} for name, m in results.items()})
    )
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
