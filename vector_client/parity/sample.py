"""Which queries are compared: lines of a file, or rows of the table, and both paths asked for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from vector_client.errors import DatabaseFailed, VectorClientError
from vector_client.http import VectorClient
from vector_client.parity.report import QueryComparison
from vector_client.recommend.pgvector import PgTable, Statement, nearest_rows_now
from vector_client.rollout.shadow import compared
from vector_client.types import Query, Vector

Question = tuple[str, Sequence[float]]
"""What it is called in the report, and the vector that both paths get."""


FAILURES_MAX = 3
"""Of the first queries, to give up after: with a service that is silent each takes the whole deadline."""


class NotQueryComparison(VectorClientError):
    """Raised when not one query got both answers; the message says why the first one did not."""


class PgVectorSide:
    """The user's own pgvector table, read only. For one thread."""

    def __init__(self, dsn: str, table: PgTable) -> None:
        self._table = table
        try:
            self._connection = psycopg.connect(
                dsn, autocommit=True, options="-c default_transaction_read_only=on"
            )
        except psycopg.Error as exc:
            raise DatabaseFailed(f"pgvector: {_first_line(exc)}") from exc

    def nearest(self, vector: Sequence[float], k: int) -> list[tuple[Any, float]]:
        """Return the k nearest (id, distance) of the table. Raises DatabaseFailed."""
        return nearest_rows_now(self._rows, self._table, vector, k)

    def sample(self, count: int) -> list[Question]:
        """Return vectors of the table, spread over it by a hash of the id: the same ones every time."""
        table = self._table
        sql = (
            f"SELECT {table.id}, CAST({table.vector} AS text) FROM {table.table} "
            f"WHERE {table.id} IS NOT NULL AND {table.vector} IS NOT NULL "
            f"ORDER BY md5(CAST({table.id} AS text)) LIMIT %s"
        )
        try:
            rows = self._connection.execute(sql.encode(), (count,)).fetchall()
        except psycopg.Error as exc:
            raise DatabaseFailed(f"pgvector: {_first_line(exc)}") from exc
        return [(f"vector of {row[0]}", [float(x) for x in row[1].strip("[]").split(",")]) for row in rows]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _rows(self, statement: Statement) -> Sequence[Any]:
        written = statement.written("%(vector)s", "%(exclude)s", "%(limit)s")
        values = {"vector": statement.vector, "exclude": statement.exclude, "limit": statement.limit}
        try:
            return self._connection.execute(written.encode(), values).fetchall()
        except psycopg.Error as exc:
            raise DatabaseFailed(f"pgvector: {_first_line(exc)}") from exc


def plain_dsn(dsn: str) -> str:
    """Return a DSN without SQLAlchemy's name of a driver: postgresql+asyncpg://... is what a backend has."""
    return re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", dsn)


def embedded(client: VectorClient, texts: Sequence[str], collection: str | None) -> list[Question]:
    """Return the texts with the service's vectors of them."""
    questions: list[Question] = []
    for start in range(0, len(texts), 100):
        block = texts[start : start + 100]
        questions += zip(block, client.embed_batch(block, collection).vectors, strict=True)
    return questions


def compare(
    pgvector: PgVectorSide,
    client: VectorClient,
    questions: Sequence[Question],
    asked: Query,
    clock: Callable[[], float],
) -> list[QueryComparison]:
    """Ask both paths each question's vector. asked: k and collection of the search.

    Raises NotQueryComparison where the first FAILURES_MAX of them all fail: the others would too.
    """
    found: list[QueryComparison] = []
    for each in questions:
        found.append(_compared(pgvector, client, each, asked, clock))
        if len(found) in (FAILURES_MAX, len(questions)) and all(one.error for one in found):
            raise NotQueryComparison(found[0].error)
    if not found:
        raise NotQueryComparison("there is no query: the table has no vectors, or -n is 0")
    return found


def _compared(
    pgvector: PgVectorSide, client: VectorClient, question: Question, asked: Query, clock: Callable[[], float]
) -> QueryComparison:
    name, vector = question
    try:
        began = clock()
        old = pgvector.nearest(vector, asked.k)
        between = clock()
        new = _searched(client, vector, asked)
        ended = clock()
    except VectorClientError as exc:
        return QueryComparison(name, None, error=str(exc))
    return QueryComparison(name, compared(old, new), between - began, ended - between)


def _searched(client: VectorClient, vector: Vector, asked: Query) -> list[tuple[Any, float]]:
    found = client.search(Query(vector=vector, k=asked.k, collection=asked.collection))
    return [(hit.id, hit.distance) for hit in found.hits]


def _first_line(exc: psycopg.Error) -> str:
    """Leave out the statement that PostgreSQL points into."""
    return next(iter(str(exc).splitlines()), type(exc).__name__)
