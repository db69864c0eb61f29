"""How each PostgreSQL driver runs the statement; `pg_db` is what the backend hands to each request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from vector_client.errors import DatabaseFailed
from vector_client.recommend.pgvector import Statement

LOST = (OSError, asyncio.TimeoutError)
"""The connection broke, or the driver's own time limit passed (an OSError too from Python 3.11 on)."""


async def sqlalchemy_rows(pg_db: Any, statement: Statement) -> Sequence[Any]:
    """pg_db: a SQLAlchemy AsyncSession or AsyncConnection; DatabaseFailed leaves its transaction aborted."""
    from sqlalchemy import text  # an extra: only who uses this driver has it
    from sqlalchemy.exc import SQLAlchemyError

    written = text(statement.written(":vector", ":exclude", ":limit"))
    values: dict[str, Any] = {"vector": statement.vector, "limit": statement.limit}
    if "{exclude}" in statement.sql:
        values["exclude"] = statement.exclude
    try:
        return (await pg_db.execute(written, values)).all()  # type: ignore[no-any-return]
    except (SQLAlchemyError, *LOST) as exc:
        # The driver's own words: SQLAlchemy's hold the statement and every number of the vector.
        raise DatabaseFailed(f"pgvector: {getattr(exc, 'orig', None) or exc}") from exc


async def asyncpg_rows(pg_db: Any, statement: Statement) -> Sequence[Any]:
    """pg_db: an asyncpg Connection or Pool."""
    import asyncpg

    excludes = "{exclude}" in statement.sql
    written = statement.written("$1", "$3", "$2")
    values = [statement.vector, statement.limit, *([statement.exclude] if excludes else [])]
    try:
        return await pg_db.fetch(written, *values)  # type: ignore[no-any-return]
    except (asyncpg.PostgresError, asyncpg.InterfaceError, *LOST) as exc:
        raise DatabaseFailed(f"pgvector: {exc}") from exc


async def psycopg_rows(pg_db: Any, statement: Statement) -> Sequence[Any]:
    """pg_db: a psycopg AsyncConnection."""
    import psycopg

    values = {"vector": statement.vector, "exclude": statement.exclude, "limit": statement.limit}
    written = statement.written("%(vector)s", "%(exclude)s", "%(limit)s")
    try:
        return await (await pg_db.execute(written, values)).fetchall()  # type: ignore[no-any-return]
    except (psycopg.Error, *LOST) as exc:
        raise DatabaseFailed(f"pgvector: {exc}") from exc
