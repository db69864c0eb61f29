"""What filters cost in PostgreSQL, and what an index over metadata spares (docs/decisions/0127).

    python -m benchmarks.bench_postgres_filters [--rows 30000] [--dim 384] [--repeats 4]

Two tables of a private PostgreSQL hold the same rows, one of them with `gin (facts jsonb_path_ops)`. Of each
filter: the best time of an exact search of 100 among the rows that pass, over each table.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import psycopg

from benchmarks.bench_import import connect, private_databases
from index_store.filter.compile import compile_filter
from index_store.postgres.conditions import filter_condition
from index_store.postgres.facts import facts_of
from item_rules.metadata import metadata_text

FILTERS: tuple[dict[str, Any], ...] = (
    {"brand": "b7"},
    {"category.id": 7},
    {"tags": "t7"},
    {"brand": {"$in": ["b1", "b2"]}},
    {"$or": [{"brand": "b3"}, {"category.id": 2}]},
    {"brand": "b7", "price": {"$lt": 50_000}},
    {"price": {"$lt": 2_000}},
    {"brand": {"$in": [f"b{number}" for number in range(99, 1_000)]}},
    {"name": {"$in": [f"상품 {number}" for number in range(100_000, 200_000)]}},
    {"brand": {"$ne": "b7"}},
)
TABLES = ("plain", "indexed")


def metadata_of(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """What a shop says of a product: 500 bytes."""
    return {
        "name": f"상품 {number}",
        "brand": f"b{number % 100}",
        "price": int(rng.integers(1_000, 100_000)),
        "tags": [f"t{tag}" for tag in rng.integers(0, 50, 3)],
        "category": {"id": number % 40, "path": ["a", "b"]},
        "created_at": "2026-01-02T03:04:05+09:00",
        "description": "x" * 200,
    }


def fill(connection: psycopg.Connection[Any], rows: int, dim: int) -> None:
    """Make both tables, and say how long their COPY took."""
    rng = np.random.default_rng(2)
    made = [
        (number, facts_of(metadata_text(metadata_of(number, rng))), str(rng.standard_normal(dim).tolist()))
        for number in range(rows)
    ]
    for table in TABLES:
        columns = f"id bigint PRIMARY KEY, facts jsonb NOT NULL, vector vector({dim})"
        connection.execute(f"CREATE TABLE {table}({columns})".encode())
        if table == "indexed":
            connection.execute(b"CREATE INDEX ON indexed USING gin (facts jsonb_path_ops)")
        began = time.perf_counter()
        with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
            for row in made:
                copy.write_row(row)
        took = time.perf_counter() - began
        connection.execute(f"VACUUM ANALYZE {table}".encode())
        print(f"{table}: COPY {took:.2f} s", flush=True)


def measure(connection: psycopg.Connection[Any], condition: dict[str, Any], dim: int, repeats: int) -> str:
    compiled = filter_condition(compile_filter(condition))
    best = []
    for table in TABLES:
        query = f"SELECT id FROM {table} WHERE {compiled.sql} ORDER BY vector <=> %s::vector LIMIT 100"
        parameters = (*compiled.parameters, str([1.0] * dim))
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            connection.execute(query.encode(), parameters).fetchall()
            times.append(time.perf_counter() - began)
        best.append(min(times) * 1000)
    counted = connection.execute(
        f"SELECT count(*) FROM plain WHERE {compiled.sql}".encode(), compiled.parameters
    )
    (passing,) = counted.fetchone() or (0,)
    return f"{passing:7d} {best[0]:9.2f} {best[1]:9.2f}  {str(condition)[:60]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    with private_databases("postgres") as databases, connect(databases["postgres"]) as connection:
        connection.execute("SET max_parallel_workers_per_gather = 0; SET jit = off")
        fill(connection, options.rows, options.dim)
        print("passing  plain ms  index ms  filter")
        for condition in FILTERS:
            print(measure(connection, condition, options.dim, options.repeats), flush=True)


if __name__ == "__main__":
    main()
