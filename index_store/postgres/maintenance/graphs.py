"""The graph of a generation: made while others search and write, and its breadth measured against exact
search.

pgvector's graph follows every write from then on; its recall falls as it grows, so the breadth is measured
again once a fifth more or fewer items are live.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from index_store.ann.calibration import EF_GRID
from index_store.ann.rerank import Matrix, rescore
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import vectors_of
from index_store.postgres.schema import LIVE, graph_index, graph_name, rows_table
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.row_fetcher import EF, EF_MAX, GenerationRows
from index_store.postgres.searches.selectivity import FilterShares
from index_store.query.pool import LiveSeqs
from index_store.types import CollectionSpec, SearchRequest, Vector

log = logging.getLogger(__name__)

RECALL_WANTED = 0.99
K = 25
_CONFIDENCE = 2.0
"""Standard errors taken off a measured recall."""
_MIXED = 0.5
_FEW = 1000
"""Live items below which a graph is not measured: nobody needs one."""


class EfRecall(NamedTuple):
    """An ef and the share of the K nearest that was found with it, at the lower end of its confidence."""

    ef: int
    recall: float


def build_graph(connection: BoundedConnection, spec: CollectionSpec, generation: GenerationRecord) -> bool:
    """Make the graph unless it is there; return whether it was made. What a killed build left is removed
    first. Raises psycopg.Error."""
    name = graph_name(generation.number)
    found = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
    ).fetchone()
    if found == (True,):
        return False
    if found is not None:
        connection.execute(f"DROP INDEX CONCURRENTLY {name}".encode())
    for statement in graph_index(generation.number, spec.metric, generation.dim):
        connection.execute(statement.encode())
    return True


def rebuild_graph(connection: BoundedConnection, generation: GenerationRecord) -> None:
    """Make the graph again beside the old one, which answers until then. Raises psycopg.Error."""
    connection.execute(f"REINDEX INDEX CONCURRENTLY {graph_name(generation.number)}".encode())


def measured_ef(
    connection: BoundedConnection, spec: CollectionSpec, generation: GenerationRecord, queries: int
) -> EfRecall:
    """Return the least ef of the grid that finds the share RECALL_WANTED of the K nearest, else the largest.
    spec: with the dim of the generation. Reads the table once for each query. Raises psycopg.Error."""
    if generation.live < _FEW:
        return EfRecall(EF, 1.0)
    grid = [ef for ef in EF_GRID if ef >= 2 * K] + [EF_MAX]
    shares = np.array([
        _shares(connection, spec, generation, query, grid)
        for query in _queries(connection, spec, generation, queries)
    ])  # fmt: skip
    sure = shares.mean(axis=0) - _CONFIDENCE * shares.std(axis=0) / len(shares) ** 0.5
    reached = np.flatnonzero(sure >= RECALL_WANTED)
    best = int(reached[0]) if len(reached) else len(grid) - 1
    return EfRecall(grid[best], float(sure[best]))


def _queries(
    connection: BoundedConnection, spec: CollectionSpec, generation: GenerationRecord, count: int
) -> Matrix:
    """Points on the way from one stored vector to another: a graph knows the way to its own rows, and with
    those it would look better than it is (recall@25 at ef 64 measured .997 with its own rows, .983 with
    these, .985 with queries that it never held). Of the rows with the smallest shares, which are as good as
    drawn."""
    found = connection.execute(
        f"SELECT vector FROM {rows_table(generation.number)} WHERE {LIVE} ORDER BY share "
        f"LIMIT {2 * count}".encode(),
        binary=True,
    ).fetchall()
    rows = vectors_of([vector for (vector,) in found], spec.dim)
    half = len(rows) // 2
    mixed: Matrix = rows[:half] + _MIXED * rows[half : 2 * half]
    return mixed


def _shares(
    connection: BoundedConnection,
    spec: CollectionSpec,
    generation: GenerationRecord,
    query: Vector,
    grid: Sequence[int],
) -> list[float]:
    """Return which share of the K nearest is found with each ef, all as of one moment."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    fetcher = GenerationRows(
        connection, spec, generation, RowKeys(1), FilterShares(1), with_texts=False, graph_from=0
    )
    live = LiveSeqs(generation.head, generation.head)
    found: list[float] = []
    furthest = 0.0
    for ef in (0, *grid):
        request = SearchRequest(query, K, ef=ef or None, exact=not ef)
        rows = fetcher.fetch_nearest(request, live, K)
        distances = np.sort(rescore(query, rows.vectors, spec.metric))[:K]
        if ef:
            # By distance, not by row: equal vectors under many ids are equally right.
            found.append(np.count_nonzero(distances <= furthest) / K)
        else:
            furthest = float(distances[-1]) + 1e-9
    connection.execute("COMMIT")  # a ROLLBACK would take back the settings
    return found
