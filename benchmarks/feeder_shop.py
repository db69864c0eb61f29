"""A shop to measure a feeder in: product vectors in PostgreSQL, products there or in MariaDB, a real service
process and a real feeder process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import psycopg
import pymysql

from benchmarks.bench_import import wait_for
from benchmarks.processes import free_port
from vector_client.http import VectorClient

Items: TypeAlias = Literal["postgresql", "mariadb"]
Ports: TypeAlias = Mapping[Items, int]

DIM = 512
ID_BYTES = 8
COPY_ROWS = 5_000
DIFFERS = 6
"""The feeder's exit code for `verify` that found something."""
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
VECTORS = "CREATE TABLE bench_vectors (pk serial PRIMARY KEY, product_id varchar(255) UNIQUE, v vector(512))"
ITEMS = "CREATE TABLE bench_items (id varchar(255) PRIMARY KEY, is_active boolean NOT NULL)"
PUBLICATIONS = """
CREATE PUBLICATION vs_bench_vectors FOR TABLE bench_vectors (pk);
CREATE PUBLICATION vs_bench_items FOR TABLE bench_items (id);
"""


def unit(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    vector = rng.standard_normal(DIM).astype(np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def as_text(vector: npt.NDArray[np.float32]) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"


def name_of(number: int) -> str:
    """All names are of one length, so that rows can be written as fixed records."""
    return f"p{number:0{ID_BYTES - 1}d}"


@dataclass
class BenchShop:
    """databases: as private_databases gives them. ports: where feeders find a server, if not at its own."""

    databases: Mapping[str, Mapping[str, str]]
    items: Items
    folder: Path
    rows: int
    seed: int
    ports: Mapping[str, int] = field(default_factory=dict)
    service_port: int = field(default_factory=free_port)
    service_process: subprocess.Popen[bytes] | None = None

    def pg(self, database: str | None = None) -> psycopg.Connection[Any]:
        at = self.databases["postgres"]
        return psycopg.connect(
            host=at["TGT_DB_HOST"], port=at["TGT_DB_PORT"], dbname=database or at["TGT_DB_NAME"],
            user=at["TGT_DB_USER"], password=at["TGT_DB_PASS"], autocommit=True,
        )  # fmt: skip

    def maria(self) -> pymysql.Connection[Any]:
        at = self.databases["mariadb"]
        return pymysql.connect(
            host=at["SRC_DB_HOST"], port=int(at["SRC_DB_PORT"]), database=at["SRC_DB_NAME"],
            user=at["SRC_DB_USER"], password=at["SRC_DB_PASS"], charset="utf8mb4", autocommit=True,
        )  # fmt: skip

    def items_connection(self) -> Any:
        return self.pg() if self.items == "postgresql" else self.maria()

    def on_items(self, statement: str, *values: Any) -> None:
        """Run one statement where the products are; it is committed when this returns."""
        with closing(self.items_connection()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    def fill(self) -> None:
        with closing(self.pg()) as db:
            # As shops run it; a log is read up to what is flushed.
            name = self.databases["postgres"]["TGT_DB_NAME"]
            db.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = on'.encode())
            db.execute(b"DROP PUBLICATION IF EXISTS vs_bench_vectors, vs_bench_items")
            db.execute(b"DROP TABLE IF EXISTS bench_vectors, bench_items, vs_dirty, vs_dirty_install CASCADE")
            db.execute(b"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
            db.execute(VECTORS.encode())
            self._copy_vectors(db)
        if self.items == "mariadb":
            for table in ("bench_items", "vs_dirty", "vs_dirty_install"):
                self.on_items(f"DROP TABLE IF EXISTS {table}")
        self.on_items(ITEMS)
        numbers = range(1, self.rows + 1)
        for start in range(0, self.rows, COPY_ROWS):
            some = ",".join(f"('{name_of(number)}', true)" for number in numbers[start : start + COPY_ROWS])
            self.on_items(f"INSERT INTO bench_items VALUES {some}")

    def _copy_vectors(self, db: psycopg.Connection[Any]) -> None:
        record = np.dtype(
            [("n", ">i2"), ("l1", ">i4"), ("id", f"S{ID_BYTES}"), ("l2", ">i4"), ("dim", ">i2"), ("u", ">i2"),
             ("v", ">f4", DIM)]
        )  # fmt: skip
        rng = np.random.default_rng(self.seed)
        copy_in = "COPY bench_vectors (product_id, v) FROM STDIN (FORMAT BINARY)"
        with db.cursor() as cursor, cursor.copy(copy_in) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(1, self.rows + 1, COPY_ROWS):
                numbers = range(start, min(start + COPY_ROWS, self.rows + 1))
                block = np.zeros(len(numbers), record)
                block["n"], block["l1"], block["l2"], block["dim"] = 2, ID_BYTES, 4 + 4 * DIM, DIM
                block["id"] = [name_of(number).encode() for number in numbers]
                vectors = rng.standard_normal((len(numbers), DIM), dtype=np.float32)
                block["v"] = vectors / np.linalg.norm(vectors, axis=1)[:, None]
                copy.write(block.tobytes())

    def publish(self) -> None:
        """What the log of PostgreSQL needs; an items table in MariaDB has the binary log instead."""
        with closing(self.pg()) as db:
            for statement in PUBLICATIONS.strip().splitlines()[: 2 if self.items == "postgresql" else 1]:
                db.execute(statement.encode())

    def environ(self, tier: str, **more: str) -> dict[str, str]:
        """Return the environment of a service and a feeder that follows by this tier."""
        (self.folder / "collections.toml").write_text(COLLECTIONS, encoding="utf-8")
        vectors = dict(self.databases["postgres"])
        if self.items == "postgresql":
            items = {name.replace("TGT", "SRC"): value for name, value in vectors.items()}
        else:
            items = {**self.databases["mariadb"], "SRC_DB_ENGINE": "mariadb"}
        for engine, port in self.ports.items():
            for side, names in (("TGT", vectors), ("SRC", items)):
                if engine == ("postgresql" if side == "TGT" else self.items):
                    names[f"{side}_DB_PORT"] = str(port)
        name = f"{tier}-{self.items}"
        return {
            **os.environ, **vectors, **items,
            "COLLECTIONS_FILE": str(self.folder / "collections.toml"), "LOG_LEVEL": "warning",
            "PORT": str(self.service_port), "ML_INFERENCE_URL": f"http://127.0.0.1:{self.service_port}",
            "DATA_DIR": str(self.folder / f"data-{name}"), "FEEDER_TIER": tier, "FEEDER_POLL_S": "1",
            "FEEDER_STATE_DIR": str(self.folder / f"state-{name}"), **more,
        }  # fmt: skip

    @property
    def log(self) -> Path:
        return self.folder / "processes.log"

    @contextmanager
    def process(self, environ: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *arguments]
            started = subprocess.Popen(command, env=dict(environ), stdout=log, stderr=log)
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(60)

    @contextmanager
    def serving(self, environ: Mapping[str, str], *, as_triggers: bool = False) -> Iterator[VectorClient]:
        """Yield a client of a service that has imported the whole shop."""
        client = VectorClient.to(environ["ML_INFERENCE_URL"])
        with self.process(environ, "service") as self.service_process:
            version = wait_for(client)
            if as_triggers:
                self.feed(environ, "install-triggers")
            self.feed(environ, "import", "--trust-vectors", "--embedding-version", version)
            yield client
            client.close()

    def feed(self, environ: Mapping[str, str], *arguments: str, may_differ: bool = False) -> str:
        """Run one feeder to its end, and return what it printed. Raises AssertionError when it fails;
        may_differ: finding a difference is no failure."""
        command = [sys.executable, "-m", "feeder", *arguments]
        done = subprocess.run(command, env=dict(environ), check=False, capture_output=True, text=True)
        if done.returncode and not (may_differ and done.returncode == DIFFERS):
            raise AssertionError(f"{arguments}: exit code {done.returncode}: {done.stderr}")
        return done.stdout


def metric(port: int, name: str) -> float:
    """Return the sum of a feeder's metric over its labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0] == name)


def is_following(client: VectorClient) -> Callable[[], bool]:
    return lambda: "sync.tiers" in client.status()["bench"].cursors
