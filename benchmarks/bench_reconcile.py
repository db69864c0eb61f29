"""What it takes to find and mend rows that differ, through a real service.

    python -m benchmarks.bench_reconcile [--rows 200000] [--differing 10000]

Rows in PostgreSQL are imported; then some change while nobody follows. `verify` counts them without changing
anything, `reconcile` mends them, `verify` again finds none; seconds, requests to the service, and the
service's own processor time. Beside it stands a search every 10 ms: what it notices of them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil

from benchmarks.bench_import import private_databases
from benchmarks.feeder_shop import BenchShop, name_of, unit
from benchmarks.http_load import cpu_seconds
from vector_client.http import VectorClient
from vector_client.types import Query

SEARCH_PAUSE_S = 0.01
QUIET_S_MAX = 60
IDLE_PERCENT = 10.0


def change(shop: BenchShop, count: int) -> None:
    """Turn some vectors around, and take as many products off sale, at random."""
    names = [name_of(n) for n in random.Random(shop.seed).sample(range(1, shop.rows + 1), count)]
    with closing(shop.pg()) as db:
        half = count // 2
        db.execute("UPDATE bench_vectors SET v = v * array_fill(-1, ARRAY[512])::vector"
                   " WHERE product_id = ANY(%s)", (names[:half],))  # fmt: skip
        db.execute("UPDATE bench_items SET is_active = false WHERE id = ANY(%s)", (names[half:],))


def until_quiet() -> None:
    """Wait until what was imported has been sealed: until the machine idles."""
    for _ in range(QUIET_S_MAX // 2):
        if psutil.cpu_percent(interval=2.0) < IDLE_PERCENT:
            return


@contextmanager
def searching(client: VectorClient) -> Iterator[list[float]]:
    """Search all the time; the list holds the milliseconds."""
    took: list[float] = []
    is_over = threading.Event()
    packed = unit(np.random.default_rng(1)).tobytes()

    def search() -> None:
        while not is_over.wait(SEARCH_PAUSE_S):
            began = time.perf_counter()
            client.search(Query(vector=packed, k=25, collection="bench"))
            took.append((time.perf_counter() - began) * 1000)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        yield took
    finally:
        is_over.set()
        thread.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--differing", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    with private_databases("postgres") as databases, tempfile.TemporaryDirectory() as place:
        shop = BenchShop(databases, "postgresql", Path(place), options.rows, options.seed)
        shop.fill()
        environ = shop.environ("poll", FEEDER_BRAKE_PERCENT="100", LOG_LEVEL="info")
        with shop.serving(environ) as client:
            until_quiet()
            with searching(client) as quiet:
                time.sleep(5)
            print(
                f"{options.rows:,} rows of vector(512); search alone: p99 {np.percentile(quiet, 99):.1f} ms"
            )
            change(shop, options.differing)
            is_mended = True
            for command in ("verify", "reconcile", "verify"):
                is_mended = measured(shop, client, environ, command)
    return 0 if is_mended else 1


def measured(shop: BenchShop, client: VectorClient, environ: dict[str, str], command: str) -> bool:
    """Run one command, print a line, and return whether it found source and index equal."""
    process = shop.service_process
    assert process is not None
    used, asked = cpu_seconds(process.pid), shop.log.read_bytes().count(b"/v1/")
    with searching(client) as took:
        began = time.perf_counter()
        told = json.loads(shop.feed(environ, command, "--log-json", may_differ=True).splitlines()[-1])
        seconds = time.perf_counter() - began
    time.sleep(0.3)
    searches = len(took)
    requests = shop.log.read_bytes().count(b"/v1/") - asked - searches
    print(
        f"{command:<10} {seconds:>6.1f} s, of them reading {told['reading']} s; {told['changed']} changed,"
        f" {told['missing']} missing, {told['extra']} extra; {requests} requests,"
        f" service {cpu_seconds(process.pid) - used:.1f} s; searches p50 {statistics.median(took):.1f},"
        f" p99 {np.percentile(took, 99):.1f}, longest {max(took):.0f} ms; {told['outcome'].split(' as ')[0]}",
        flush=True,
    )
    return str(told["outcome"]).startswith("equal")


if __name__ == "__main__":
    sys.exit(main())
