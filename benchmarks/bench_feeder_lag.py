"""How long a commit in the source takes to show in /v1/search, for each way of noticing changes.

    python -m benchmarks.bench_feeder_lag [--changes 100] [--rows 2000] [--tiers log triggers poll]

A private PostgreSQL with pgvector, a real service process and a real feeder process, one after the other for
each tier. A change is a new vector (search by it finds the product at distance 0) or a deactivation (search
by its vector does not find it any more). The clock starts when COMMIT has returned; searching is a poll every
few milliseconds over one connection, so the figures hold one search too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks.bench_import import connect, private_postgres, wait_for
from vector_client.http import VectorClient
from vector_client.types import Query

DIM = 512
SECONDS_MAX = 60.0
COLLECTIONS = """
[collections.bench]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
metric = "l2"
model = "builtin:descriptor"
[collections.bench.source.vectors]
table = "bench_vectors"
key = "pk"
id = "product_id"
vector = "v"
[collections.bench.source.items]
table = "bench_items"
id = "id"
active = "is_active"
"""
TABLES = """
DROP PUBLICATION IF EXISTS vs_bench_vectors, vs_bench_items;
DROP TABLE IF EXISTS bench_vectors, bench_items, vs_dirty, vs_dirty_install CASCADE;
CREATE TABLE bench_vectors (pk serial PRIMARY KEY, product_id varchar(255) UNIQUE, v vector(512));
CREATE TABLE bench_items (id varchar(255) PRIMARY KEY, is_active boolean NOT NULL);
INSERT INTO bench_items SELECT 'p' || g, true FROM generate_series(1, {rows}) AS g;
"""
PUBLICATIONS = """
CREATE PUBLICATION vs_bench_vectors FOR TABLE bench_vectors (pk);
CREATE PUBLICATION vs_bench_items FOR TABLE bench_items (id);
"""


def unit(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = rng.standard_normal(DIM).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def text_of(vector: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def fill(db: psycopg.Connection[Any], rows: int, rng: np.random.Generator) -> None:
    db.execute(TABLES.format(rows=rows).encode())
    with db.cursor() as cursor, cursor.copy("COPY bench_vectors (product_id, v) FROM STDIN") as copy:
        for number in range(1, rows + 1):
            copy.write_row((f"p{number}", text_of(unit(rng))))


@contextmanager
def process(environ: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with Path(environ["BENCH_LOG"]).open("ab") as log:
        started = subprocess.Popen([sys.executable, "-m", *arguments], env=environ, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(60)


def run(environ: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "feeder", *arguments], env=environ, check=True, stdout=subprocess.DEVNULL
    )


def seconds_until(is_so: Callable[[], bool]) -> float:
    began = time.perf_counter()
    while not is_so():
        if time.perf_counter() - began > SECONDS_MAX:
            raise TimeoutError("the change never showed")
        time.sleep(0.002)
    return time.perf_counter() - began


def measure(
    db: psycopg.Connection[Any], client: VectorClient, changes: int, rows: int, seed: int
) -> dict[str, list[float]]:
    """Seconds from COMMIT to search, by kind of change."""
    rng, chance = np.random.default_rng(seed + 1), random.Random(seed)  # no vector that is there already
    found: dict[str, list[float]] = {"new vector": [], "deactivated": []}
    for number in chance.sample(range(1, rows + 1), changes):
        name, vector = f"p{number}", unit(rng)
        packed = vector.astype("<f4").tobytes()

        def nearest(packed: bytes = packed) -> str | None:
            hits = client.search(Query(vector=packed, k=1, collection="bench")).hits
            return str(hits[0].id) if hits and hits[0].distance < 1e-3 else None

        time.sleep(chance.random() * 0.1)  # not in step with the feeder's own poll
        db.execute("UPDATE bench_vectors SET v = %s::vector WHERE product_id = %s", (text_of(vector), name))
        found["new vector"].append(seconds_until(lambda near=nearest, name=name: near() == name))
        time.sleep(chance.random() * 0.1)
        db.execute("UPDATE bench_items SET is_active = false WHERE id = %s", (name,))
        found["deactivated"].append(seconds_until(lambda near=nearest: near() is None))
    return found


def one_tier(
    tier: str, environ: dict[str, str], folder: Path, options: argparse.Namespace
) -> dict[str, list[float]]:
    rng = np.random.default_rng(options.seed)
    with connect(environ) as db:
        db.execute("SET synchronous_commit = on")  # as shops run it; a log is read up to what is flushed
        fill(db, options.rows, rng)
        if tier == "log":
            db.execute(PUBLICATIONS.encode())
        mine = environ | {"DATA_DIR": str(folder / tier), "FEEDER_TIER": tier}
        mine |= {"FEEDER_STATE_DIR": str(folder / f"state-{tier}"), "FEEDER_POLL_S": "1"}
        mine |= {"FEEDER_BRAKE_PERCENT": "100", "BENCH_LOG": str(folder / "processes.log")}
        client = VectorClient.to(mine["ML_INFERENCE_URL"])
        with process(mine, "service"):
            version = wait_for(client)
            if tier == "triggers":
                run(mine, "install-triggers")
            run(mine, "import", "--trust-vectors", "--embedding-version", version)
            with process(mine, "feeder", "sync"):
                seconds_until(lambda: "sync.tiers" in client.status()["bench"].cursors)
                changes = options.changes if tier != "poll" else min(options.changes, 10)
                measured = measure(db, client, changes, options.rows, options.seed)
        client.close()
        db.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
    return measured


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--tiers", nargs="+", default=["log", "triggers", "poll"])
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with private_postgres() as names, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "collections.toml").write_text(COLLECTIONS)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = {**os.environ, **names, "PORT": str(port), "ML_INFERENCE_URL": f"http://127.0.0.1:{port}"}
        environ |= {name.replace("TGT", "SRC"): value for name, value in names.items()}
        environ |= {"COLLECTIONS_FILE": str(folder / "collections.toml"), "LOG_LEVEL": "warning"}
        print(
            f"seed {options.seed}; {options.rows} rows of vector({DIM}); milliseconds from commit to search"
        )
        for tier in options.tiers:
            try:
                measured = one_tier(tier, environ, folder, options)
            except TimeoutError:
                print((folder / "processes.log").read_text()[-3000:], file=sys.stderr)
                raise
            results[tier] = {}
            for kind, seconds in measured.items():
                p50, p99, worst = np.percentile(np.array(seconds) * 1000, [50, 99, 100]).tolist()
                results[tier][kind] = {"n": len(seconds), "p50": p50, "p99": p99, "max": worst}
                shown = f"n {len(seconds):4}  p50 {p50:7.0f}  p99 {p99:7.0f}  max {worst:7.0f}"
                print(f"{tier:>9} {kind:<12} {shown}", flush=True)
    out = Path(".out")
    out.mkdir(exist_ok=True)
    (out / "feeder_lag.json").write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
