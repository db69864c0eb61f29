"""How each database driver reads rows by id: MariaDB and PostgreSQL, from an event loop and blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vector_client.errors import DatabaseFailed
from vector_client.join.pages import Fetch, FetchNow, Row, Rows
from vector_client.types import Id


@dataclass(frozen=True, slots=True)
class Table:
    """Names as SQL has them, quoted where they must be. id: the column that holds the search's ids; it must
    be among the columns, under id_name. where: a further condition."""

    table: str
    id: str
    columns: str = "*"
    id_name: str = ""
    where: str = ""

    @property
    def name(self) -> str:
        """Return the name that the id column has in the rows."""
        return self.id_name or self.id.strip('`"')

    def sql(self, condition: str) -> str:
        """Return the SELECT for ids that meet `condition`, which begins with an operator."""
        further = f" AND ({self.where})" if self.where else ""
        return f"SELECT {self.columns} FROM {self.table} WHERE {self.id} {condition}{further}"


def by_sqlalchemy(session: Any, table: Table) -> Fetch:
    """session: a SQLAlchemy AsyncSession or AsyncConnection, of any database."""

    async def fetch(ids: Sequence[Id]) -> Rows:
        with _sqlalchemy_errors(table):
            rows = (await session.execute(_expanding(table), {"ids": list(ids)})).mappings().all()
        return _by_id(rows, table, ids)

    return fetch


def by_sqlalchemy_now(session: Any, table: Table) -> FetchNow:
    """session: a blocking SQLAlchemy Session or Connection."""

    def fetch(ids: Sequence[Id]) -> Rows:
        with _sqlalchemy_errors(table):
            rows = session.execute(_expanding(table), {"ids": list(ids)}).mappings().all()
        return _by_id(rows, table, ids)

    return fetch


def by_asyncmy(connection: Any, table: Table) -> Fetch:
    """connection: of asyncmy. For MariaDB and MySQL."""

    async def fetch(ids: Sequence[Id]) -> Rows:
        from asyncmy.cursors import DictCursor  # an extra: only who uses this driver has it
        from asyncmy.errors import MySQLError

        with _translated(table, MySQLError):
            async with connection.cursor(DictCursor) as cursor:
                await cursor.execute(_listed(table, ids), list(ids))
                return _by_id(await cursor.fetchall(), table, ids)

    return fetch


def by_aiomysql(connection: Any, table: Table) -> Fetch:
    """connection: of aiomysql. For MariaDB and MySQL."""

    async def fetch(ids: Sequence[Id]) -> Rows:
        from aiomysql import DictCursor, MySQLError

        with _translated(table, MySQLError):
            async with connection.cursor(DictCursor) as cursor:
                await cursor.execute(_listed(table, ids), list(ids))
                return _by_id(await cursor.fetchall(), table, ids)

    return fetch


def by_pymysql(connection: Any, table: Table) -> FetchNow:
    """connection: of pymysql, blocking. For MariaDB and MySQL."""

    def fetch(ids: Sequence[Id]) -> Rows:
        from pymysql.cursors import DictCursor
        from pymysql.err import MySQLError

        with _translated(table, MySQLError), connection.cursor(DictCursor) as cursor:
            cursor.execute(_listed(table, ids), list(ids))
            return _by_id(cursor.fetchall(), table, ids)

    return fetch


def by_asyncpg(connection: Any, table: Table) -> Fetch:
    """connection: an asyncpg Connection or Pool."""

    async def fetch(ids: Sequence[Id]) -> Rows:
        import asyncpg

        with _translated(table, asyncpg.PostgresError, asyncpg.InterfaceError):
            rows = await connection.fetch(table.sql("= ANY ($1)"), list(ids))
        return _by_id([dict(row) for row in rows], table, ids)

    return fetch


def by_psycopg(connection: Any, table: Table) -> Fetch:
    """connection: a psycopg AsyncConnection."""

    async def fetch(ids: Sequence[Id]) -> Rows:
        import psycopg
        from psycopg.rows import dict_row

        with _translated(table, psycopg.Error):
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(table.sql("= ANY (%s)"), [list(ids)])
                return _by_id(await cursor.fetchall(), table, ids)

    return fetch


def _listed(table: Table, ids: Sequence[Id]) -> str:
    return table.sql(f"IN ({', '.join(['%s'] * len(ids))})")


def _expanding(table: Table) -> Any:
    from sqlalchemy import bindparam, text

    return text(table.sql("IN :ids")).bindparams(bindparam("ids", expanding=True))


def _by_id(rows: Iterable[Row], table: Table, ids: Sequence[Id]) -> Rows:
    """Only ids that were asked for count: a collation may find "A" for "a"."""
    asked = set(ids)
    found: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if table.name not in row:
            raise DatabaseFailed(f"{table.table}: the rows have no column {table.name!r}: set id_name")
        if row[table.name] in asked:
            found.setdefault(row[table.name], []).append(dict(row))
    return found


@contextmanager
def _sqlalchemy_errors(table: Table) -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    with _translated(table, SQLAlchemyError):
        yield


@contextmanager
def _translated(table: Table, *errors: type[Exception]) -> Iterator[None]:
    caught: tuple[type[Exception], ...] = (*errors, OSError, asyncio.TimeoutError)
    try:
        yield
    except caught as exc:
        raise DatabaseFailed(f"{table.table}: {exc}") from exc
