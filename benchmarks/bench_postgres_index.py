"""What the index over PostgreSQL adds to PostgreSQL itself (docs/decisions/0126).

    python -m benchmarks.bench_postgres_index [--rows 20000] [--dim 384] [--queries 300]

Over one private server, in turns: rows a second by a bare `COPY ... (FORMAT BINARY)` of id and vector into a
table with an HNSW index, and by writes of the index, without and with the sealing that follows; milliseconds
of a bare pgvector statement for the nearest 25, prepared and binary, and of a search of the index, both with
the ef that sealing has measured; recall against exact search; milliseconds with 100,000 ids excluded."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg

from benchmarks.bench_import import connect, private_databases
from index_store.postgres.index import PostgresIndex
from index_store.postgres.maintenance.worker import DatabaseLimits, DatabaseMaintenance
from index_store.postgres.parameters import register_vectors, vector_value
from index_store.types import CollectionSpec, ItemWrite, SearchRequest, Vector, WriteBatch

BATCH = 2000
TOP_K = 25
LOAD_SHARE_MIN = 0.5
SEARCH_FACTOR_MAX = 1.3


def vectors(rows: int, dim: int, seed: int) -> Vector:
    """Around 200 centres, of unit length, as those of models are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((200, dim), dtype=np.float32)
    found = centres[rng.integers(0, 200, rows)] + 0.7 * rng.standard_normal((rows, dim), dtype=np.float32)
    unit: Vector = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make_bare(db: psycopg.Connection[Any], dim: int) -> None:
    """An empty table with its indexes."""
    db.execute(f"CREATE TABLE bare(id bigint PRIMARY KEY, v vector({dim}))".encode())
    db.execute("ALTER TABLE bare ALTER v SET STORAGE PLAIN")
    db.execute("CREATE INDEX ON bare USING hnsw (v vector_cosine_ops)")


def bare_load(db: psycopg.Connection[Any], data: Vector, first: int) -> float:
    """Seconds of COPY BINARY, a transaction a batch. first: id."""
    rows, dim = data.shape
    kind = np.dtype(
        [("n", ">i2"), ("l1", ">i4"), ("id", ">i8"), ("l2", ">i4"), ("dim", ">i2"), ("unused", ">i2"),
         ("v", ">f4", dim)]
    )  # fmt: skip
    records = np.zeros(rows, kind)
    records["n"], records["l1"], records["l2"], records["dim"] = 2, 8, 4 + 4 * dim, dim
    records["id"], records["v"] = np.arange(first, first + rows), data
    begun = time.perf_counter()
    for start in range(0, rows, BATCH):
        with db.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            copy.write(records[start : start + BATCH].tobytes() + b"\xff\xff")
    return time.perf_counter() - begun


def index_load(index: PostgresIndex, data: Vector, first: int) -> float:
    """Seconds of the same by writes, with metadata."""
    begun = time.perf_counter()
    for start in range(0, len(data), BATCH):
        items = [
            ItemWrite(
                first + start + n,
                vector,
                metadata={"n": start + n, "brand": f"b{n % 50}", "hundredth": n % 100},
            )
            for n, vector in enumerate(data[start : start + BATCH])
        ]
        index.write("bench", WriteBatch(items, embedding_version="v1"))
    return time.perf_counter() - begun


def timed(ask: Callable[[Vector], object], queries: Vector) -> list[float]:
    """Milliseconds of each."""
    out = []
    for query in queries:
        begun = time.perf_counter()
        ask(query)
        out.append((time.perf_counter() - begun) * 1000)
    return out


def address_of(where: dict[str, str]) -> str:
    """Return the key words of libpq."""
    names = (("host", "HOST"), ("port", "PORT"), ("dbname", "NAME"), ("user", "USER"), ("password", "PASS"))
    return " ".join(f"{name}={where[f'TGT_DB_{key}']}" for name, key in names)


def measure_load(db: psycopg.Connection[Any], index: PostgresIndex, data: Vector) -> None:
    """Load both tables; the index's graph is made at the end, as its maintenance does."""
    data, later = data[:-BATCH], data[-BATCH:]
    rows, bare, ours = len(data), bare_load(db, data, 0), index_load(index, data, 0)
    begun = time.perf_counter()
    maintenance = DatabaseMaintenance(index.connections.dsn, DatabaseLimits(quiet_s=0.0))
    maintenance.maintain_once()
    maintenance.close()
    sealing = time.perf_counter() - begun
    print(f"load: bare {rows / bare:,.0f} rows/s, index {rows / ours:,.0f} rows/s", end="")
    print(f", {bare / ours:.2f} of the bare one (wanted {LOAD_SHARE_MIN})")
    print(
        f"with statistics, graph and its ef ({sealing:.1f} s): {rows / (ours + sealing):,.0f} rows/s", end=""
    )
    print(f", {bare / (ours + sealing):.2f} of the bare one")
    bare, ours = bare_load(db, later, rows), index_load(index, later, rows)
    print(f"into sealed tables: bare {BATCH / bare:,.0f} rows/s, index {BATCH / ours:,.0f} rows/s", end="")
    print(f", {bare / ours:.2f} of the bare one (wanted {LOAD_SHARE_MIN})", flush=True)


def measure_searches(db: psycopg.Connection[Any], index: PostgresIndex, queries: Vector) -> None:
    """Both with the ef that was measured."""
    db.execute("VACUUM ANALYZE")
    found = db.execute("SELECT ef FROM generation").fetchone()
    assert found is not None
    db.execute("SET enable_seqscan = off")
    db.execute(f"SET hnsw.ef_search = {found[0]}".encode())
    statement = f"SELECT id, v <=> %s FROM bare ORDER BY v <=> %s LIMIT {TOP_K}".encode()

    def ask_bare(query: Vector) -> object:
        value = vector_value(query)
        return db.execute(statement, (value, value), binary=True, prepare=True).fetchall()

    def ask_index(query: Vector) -> object:
        return index.search("bench", [SearchRequest(query, TOP_K, checked_for="bench")])

    both: list[list[float]] = [[], []]
    for start in range(0, len(queries), 50):
        for times, ask in zip(both, (ask_bare, ask_index), strict=True):
            times += timed(ask, queries[start : start + 50])
    medians = [statistics.median(times[50:]) for times in both]
    print(f"search at ef {found[0]}: bare p50 {medians[0]:.3f} ms, index p50 {medians[1]:.3f} ms", end="")
    print(f", {medians[1] / medians[0]:.2f} times (wanted {SEARCH_FACTOR_MAX})")


def measure_recall(index: PostgresIndex, queries: Vector) -> None:
    """Against exact search, with what makes a graph walk far; then the time of many excluded ids."""
    nearest = index.search("bench", [SearchRequest(queries[0], 1000, exact=True)])[0].hits
    ids = [hit.id for hit in nearest]
    ways: dict[str, dict[str, Any]] = {
        "all": {},
        "100 nearest excluded": {"exclude_ids": ids[:100]},
        "1,000 nearest excluded": {"exclude_ids": ids},
        "filter of 1 %": {"filter": {"hundredth": 7}},
    }
    for name, asked in ways.items():
        shares = []
        for query in queries[:100]:
            request = SearchRequest(query, TOP_K, **asked)
            found, exact = index.search("bench", [request, replace(request, exact=True)])
            assert len(found.hits) == len(exact.hits) == TOP_K, "a short answer"
            furthest = exact.hits[-1].distance
            shares.append(sum(hit.distance <= furthest for hit in found.hits) / TOP_K)
        print(f"recall@{TOP_K}, {name}: {statistics.mean(shares):.4f}", flush=True)
    many = np.arange(1_000_000, 1_100_000)
    many[:1000] = ids

    def ask_without(query: Vector) -> object:
        return index.search("bench", [SearchRequest(query, TOP_K, exclude_ids=many)])

    took = timed(ask_without, queries[:20])
    print(
        f"100,000 excluded ids: median {statistics.median(took):.0f} ms, most {max(took):.0f} ms (wanted 300)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=300)
    options = parser.parse_args()
    data, queries = vectors(options.rows, options.dim, 2), vectors(options.queries, options.dim, 3)
    with private_databases("postgres") as environ:
        where = environ["postgres"]
        db = connect(where)
        found = db.execute("SELECT 'vector'::regtype::oid::int").fetchone()
        assert found is not None
        register_vectors(db, found[0])
        index = PostgresIndex(address_of(where), [CollectionSpec("bench", "int64", options.dim, "cosine")])
        index.open()
        index.advance("bench", "begin", "v1")
        make_bare(db, options.dim)
        measure_load(db, index, data)
        measure_searches(db, index, queries)
        measure_recall(index, queries)
        index.close()
        db.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
