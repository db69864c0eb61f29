"""How fast a pgvector table is taken over.

    python -m benchmarks.bench_import --rows 500000 --dim 512 [--end-to-end]

Measures, in turns over the same table: a bare `COPY ... (FORMAT BINARY)` of id and vector into one float32
array; the feeder's pages (resumable, checked); the feeder's pages cleaned into items. With --end-to-end a
real service process stores them durably. The database is a private one (tests/integration/databases.py).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
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

from feeder.changes import IntDirectory
from feeder.read.pages import items_of_page, pages, read_ahead
from feeder.settings import Settings
from feeder.sources.postgres.vectors import PgVectorSource
from feeder.sources.session import RetryPolicy, postgres_session
from feeder.table_mapping import VectorTable
from vector_client.errors import VectorClientError
from vector_client.http import VectorClient

HEADER_BYTES = 19
SHARE_MIN = 0.8
"""Of the bare yardstick's rows a second, that the feeder's pages must reach."""
COLLECTIONS = """
[collections.bench]
id_field = "item_id"
id_type = "int64"
modality = "text"
dim = {dim}
metric = "l2"
model = "builtin:hashed-ngrams"
[collections.bench.source.vectors]
table = "bench"
key = "pk"
id = "item_id"
vector = "v"
"""


@contextmanager
def private_databases(*kinds: str) -> Iterator[dict[str, dict[str, str]]]:
    """Start servers of these kinds (postgres, mariadb), and yield how to reach each of them."""
    command = [sys.executable, "-m", "tests.integration.databases", *kinds]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(60)


def connect(environ: dict[str, str]) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=environ["TGT_DB_HOST"], port=environ["TGT_DB_PORT"], dbname=environ["TGT_DB_NAME"],
        user=environ["TGT_DB_USER"], password=environ["TGT_DB_PASS"], autocommit=True,
    )  # fmt: skip


def fill(environ: dict[str, str], rows: int, dim: int) -> None:
    """Unit vectors, every id once, written by COPY BINARY."""
    rng = np.random.default_rng(7)
    record = np.dtype(
        [("n", ">i2"), ("l1", ">i4"), ("pk", ">i8"), ("l2", ">i4"), ("id", ">i8"), ("l3", ">i4"),
         ("dim", ">i2"), ("unused", ">i2"), ("v", ">f4", dim)]
    )  # fmt: skip
    with connect(environ) as db, db.cursor() as cursor:
        cursor.execute(f"CREATE TABLE bench (pk int8 PRIMARY KEY, item_id int8, v vector({dim}))")
        with cursor.copy("COPY bench FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, rows, 10_000):
                count = min(10_000, rows - start)
                vectors = rng.standard_normal((count, dim), dtype=np.float32)
                block = np.zeros(count, record)
                block["n"], block["l1"], block["l2"] = 3, 8, 8
                block["l3"], block["dim"] = 4 + 4 * dim, dim
                block["pk"] = np.arange(start, start + count)
                block["id"] = block["pk"] + 1
                block["v"] = vectors / np.linalg.norm(vectors, axis=1)[:, None]
                copy.write(block.tobytes())
        cursor.execute("VACUUM ANALYZE bench")


def bare_copy(environ: dict[str, str], dim: int) -> int:
    """The yardstick: one stream into one contiguous array, nothing checked, nothing resumable."""
    record = np.dtype(
        [("n", ">i2"), ("l1", ">i4"), ("id", ">i8"), ("l2", ">i4"), ("dim", ">i2"), ("u", ">i2"),
         ("v", ">f4", dim)]
    )  # fmt: skip
    with connect(environ) as db, db.cursor() as cursor:
        with cursor.copy("COPY (SELECT item_id, v FROM bench) TO STDOUT (FORMAT BINARY)") as copy:
            data = b"".join(copy)
        table = np.frombuffer(data, record, (len(data) - HEADER_BYTES - 2) // record.itemsize, HEADER_BYTES)
        ids, vectors = table["id"].astype(np.int64), table["v"].astype(np.float32)
    assert len(ids) == len(vectors)
    return len(ids)


def source_of(settings: Settings, dim: int) -> PgVectorSource:
    assert settings.vectors is not None
    table = VectorTable(("bench",), "pk", "item_id", "v", "")
    return PgVectorSource(postgres_session(settings.vectors, RetryPolicy(600, 0)), table, "int64", dim)


def exported(settings: Settings, dim: int, page_rows: int) -> int:
    """The feeder's pages, read ahead as an import does."""
    source = source_of(settings, dim)
    source.open()
    try:
        with read_ahead(pages(source, None, page_rows)) as ahead:
            return sum(len(page.ids) for page in ahead)
    finally:
        source.close()


def cleaned(settings: Settings, dim: int, page_rows: int) -> int:
    """The same, made into items that can be sent."""
    source = source_of(settings, dim)
    source.open()
    survey = source.survey()
    ids = np.asarray(survey.ids)
    directory = IntDirectory(ids, np.ones(len(ids), dtype=bool))
    try:
        with read_ahead(pages(source, None, page_rows)) as ahead:
            return sum(len(items_of_page(page, directory).items) for page in ahead)
    finally:
        source.close()


def end_to_end(environ: dict[str, str], dim: int) -> float:
    """Seconds of `python -m feeder import` into a service process that fsyncs every batch."""
    with tempfile.TemporaryDirectory(prefix="vs-bench-") as folder:
        file = Path(folder) / "collections.toml"
        file.write_text(COLLECTIONS.format(dim=dim), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mine = {
            **os.environ, **environ, "COLLECTIONS_FILE": str(file), "PORT": str(port),
            "KEYLESS_WRITES": "loopback", "DATA_DIR": str(Path(folder) / "data"), "ML_INFERENCE_URL": f"http://127.0.0.1:{port}",
        }  # fmt: skip
        service = subprocess.Popen([sys.executable, "-m", "service"], env=mine, stdout=subprocess.DEVNULL)
        try:
            version = wait_for(VectorClient.to(mine["ML_INFERENCE_URL"]))
            began = time.perf_counter()
            command = [sys.executable, "-m", "feeder", "import", "--trust-vectors"]
            subprocess.run([*command, "--embedding-version", version], env=mine, check=True)
            return time.perf_counter() - began
        finally:
            service.terminate()
            service.wait(60)


def wait_for(client: VectorClient) -> str:
    for _ in range(600):
        try:
            version = client.status()["bench"].version
            if version:
                return version
        except VectorClientError:
            pass
        time.sleep(0.1)
    raise TimeoutError("the service did not open its collection within a minute")


def rate(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page-rows", type=int, default=20_000)
    parser.add_argument("--end-to-end", action="store_true", help="into a service process, too")
    options = parser.parse_args()
    with private_databases("postgres") as databases:
        environ = databases["postgres"]
        fill(environ, options.rows, options.dim)
        settings = Settings.from_environ(environ)
        works: dict[str, Callable[[], int]] = {
            "bare COPY BINARY into numpy": lambda: bare_copy(environ, options.dim),
            "feeder pages": lambda: exported(settings, options.dim, options.page_rows),
            "feeder pages, cleaned into items": lambda: cleaned(settings, options.dim, options.page_rows),
        }
        rates: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(options.repeats):
            for name, work in works.items():
                rates[name].append(rate(work))
        bare = statistics.median(rates["bare COPY BINARY into numpy"])
        print(f"{options.rows:,} x {options.dim}, median of {options.repeats}, in turns")
        for name, values in rates.items():
            median = statistics.median(values)
            says = f" (>= {SHARE_MIN})" if name == "feeder pages" else ""
            print(f"  {name:<34} {median:>9,.0f} rows/s   {median / bare:.2f} of bare{says}", flush=True)
        is_kept = statistics.median(rates["feeder pages"]) >= SHARE_MIN * bare
        if options.end_to_end:
            seconds = end_to_end(environ, options.dim)
            share = options.rows / seconds
            print(f"  {'end to end to durable rows':<34} {share:>9,.0f} rows/s   {share / bare:.2f} of bare")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
