"""From ids to the backend's rows: MariaDB and PostgreSQL, every driver, from an event loop and blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

import aiomysql
import asyncmy
import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.integration.databases import MariaDBServer, PostgresServer
from vector_client.errors import DatabaseFailed
from vector_client.join import drivers
from vector_client.join.drivers import Table
from vector_client.join.pages import (
    ROUNDS_MAX,
    Fetch,
    FetchNow,
    Joined,
    full_page,
    full_page_now,
    joined,
    joined_now,
)
from vector_client.recommend.port import Neighbours

ROWS = 1200
RECIPES = Table("FCT_RECIPE", "RECIPE_ID")
SHOWS = Table(
    "FCT_HOMESHOPPING_LIST", "PRODUCT_ID", "LIVE_ID, PRODUCT_ID", where="SCHEDULED_OR_CANCELLED = 1"
)
NAMED = Table("products", "id", "id AS product_id, name", id_name="product_id")


class Databases:
    """The same rows in both: recipe ids that end in 7 are missing."""

    def __init__(self, postgres: PostgresServer, mariadb: MariaDBServer) -> None:
        self.postgres, self.mariadb = postgres, mariadb
        self.pg_name, self.maria_name = postgres.create_database(), mariadb.create_database()
        recipes = [(n, f"요리 {n}") for n in range(1, ROWS + 1) if n % 10 != 7]
        shows = [(n, n // 2, n % 3 > 0) for n in range(2, 60)]
        products = [("a", "lower"), ("B", "upper"), ("007", "agent")]
        with mariadb.connect(self.maria_name) as db:
            cursor = db.cursor()
            for statement in self.tables():
                cursor.execute(statement)
            cursor.executemany("INSERT INTO FCT_RECIPE VALUES (%s, %s)", recipes)
            cursor.executemany("INSERT INTO FCT_HOMESHOPPING_LIST VALUES (%s, %s, %s)", shows)
            cursor.executemany("INSERT INTO products VALUES (%s, %s)", products)
        with postgres.connect(self.pg_name) as pg:
            for statement in self.tables():
                pg.execute(statement.encode())
            with pg.cursor() as cursor_pg:
                cursor_pg.executemany("INSERT INTO FCT_RECIPE VALUES (%s, %s)", recipes)
                cursor_pg.executemany(
                    "INSERT INTO FCT_HOMESHOPPING_LIST VALUES (%s, %s, %s)",
                    [(a, b, int(c)) for a, b, c in shows],
                )
                cursor_pg.executemany("INSERT INTO products VALUES (%s, %s)", products)

    @staticmethod
    def tables() -> list[str]:
        return [
            "CREATE TABLE FCT_RECIPE (RECIPE_ID BIGINT PRIMARY KEY, RECIPE_TITLE VARCHAR(255))",
            "CREATE TABLE FCT_HOMESHOPPING_LIST (LIVE_ID BIGINT PRIMARY KEY, PRODUCT_ID BIGINT, "
            "SCHEDULED_OR_CANCELLED INT)",
            "CREATE TABLE products (id VARCHAR(255), name VARCHAR(255))",
        ]

    def close(self) -> None:
        self.postgres.drop_database(self.pg_name)
        self.mariadb.drop_database(self.maria_name)

    def maria_url(self, driver: str) -> str:
        server = self.mariadb
        return f"mysql+{driver}://root:{server.password}@127.0.0.1:{server.port}/{self.maria_name}?charset=utf8mb4"

    def pg_dsn(self, driver: str = "") -> str:
        server = self.postgres
        return f"postgresql{driver}://postgres:{server.password}@127.0.0.1:{server.port}/{self.pg_name}"

    def maria(self) -> dict[str, Any]:
        server = self.mariadb
        return {"host": "127.0.0.1", "port": server.port, "user": "root", "password": server.password,
                "db": self.maria_name, "charset": "utf8mb4"}  # fmt: skip


@pytest.fixture(scope="module")
def databases(postgres: PostgresServer, mariadb: MariaDBServer) -> Iterator[Databases]:
    made = Databases(postgres, mariadb)
    yield made
    made.close()


Make = Callable[[Table], Fetch]


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Make]:
    engine = create_async_engine(url)
    try:
        async with AsyncSession(engine) as opened:
            yield lambda table: drivers.by_sqlalchemy(opened, table)
    finally:
        await engine.dispose()


@asynccontextmanager
async def over_asyncmy(databases: Databases) -> AsyncIterator[Make]:
    connection = await asyncmy.connect(**databases.maria())
    try:
        yield lambda table: drivers.by_asyncmy(connection, table)
    finally:
        connection.close()


@asynccontextmanager
async def over_aiomysql(databases: Databases) -> AsyncIterator[Make]:
    connection = await aiomysql.connect(**databases.maria())
    try:
        yield lambda table: drivers.by_aiomysql(connection, table)
    finally:
        connection.close()


@asynccontextmanager
async def over_asyncpg(databases: Databases) -> AsyncIterator[Make]:
    connection = await asyncpg.connect(databases.pg_dsn())
    try:
        yield lambda table: drivers.by_asyncpg(connection, lower(table))
    finally:
        await connection.close()


@asynccontextmanager
async def over_psycopg(databases: Databases) -> AsyncIterator[Make]:
    async with await psycopg.AsyncConnection.connect(databases.pg_dsn()) as connection:
        yield lambda table: drivers.by_psycopg(connection, lower(table))


def lower(table: Table) -> Table:
    """PostgreSQL answers unquoted names in lower case."""
    return Table(table.table, table.id, table.columns, table.name.lower(), table.where)


ASYNC: dict[str, Callable[[Databases], AbstractAsyncContextManager[Make]]] = {
    "session over asyncmy": lambda d: session(d.maria_url("asyncmy")),
    "session over aiomysql": lambda d: session(d.maria_url("aiomysql")),
    "asyncmy": over_asyncmy, "aiomysql": over_aiomysql, "asyncpg": over_asyncpg, "psycopg": over_psycopg,
}  # fmt: skip


@contextmanager
def blocking_session(databases: Databases) -> Iterator[Callable[[Table], FetchNow]]:
    engine = create_engine(databases.maria_url("pymysql"))
    try:
        with Session(engine) as opened:
            yield lambda table: drivers.by_sqlalchemy_now(opened, table)
    finally:
        engine.dispose()


@contextmanager
def over_pymysql(databases: Databases) -> Iterator[Callable[[Table], FetchNow]]:
    with databases.mariadb.connect(databases.maria_name) as connection:
        yield lambda table: drivers.by_pymysql(connection, table)


BLOCKING: dict[str, Callable[[Databases], AbstractContextManager[Callable[[Table], FetchNow]]]] = {
    "blocking session": blocking_session, "pymysql": over_pymysql,
}  # fmt: skip


def neighbours(ids: Sequence[Any]) -> Neighbours:
    return [(item_id, place / 10) for place, item_id in enumerate(ids)]


def nearest(k: int, exclude_ids: Sequence[Any]) -> Neighbours:
    """A search over the numbers 1 to ROWS, nearest first."""
    return [(n, n / 10) for n in range(1, ROWS + 1) if n not in exclude_ids][:k]


async def ask(k: int, exclude_ids: Sequence[Any]) -> Neighbours:
    return nearest(k, exclude_ids)


def both(databases: Databases, driver: str, run: Callable[[Any], Any]) -> Any:
    """Run something with the fetch-maker of one driver, async or blocking."""
    if driver in BLOCKING:
        with BLOCKING[driver](databases) as make_now:
            return run(make_now)

    async def inside() -> Any:
        async with ASYNC[driver](databases) as make:
            return await run(make)

    return asyncio.run(inside())


def join(databases: Databases, driver: str, found: Neighbours, table: Table) -> Joined:
    call: Any = joined_now if driver in BLOCKING else joined
    result: Joined = both(databases, driver, lambda make: call(found, make(table)))
    return result


every_driver = pytest.mark.parametrize("driver", [*ASYNC, *BLOCKING])


@every_driver
def test_rows_come_in_the_order_of_the_search_and_missing_ids_are_told(
    databases: Databases, driver: str
) -> None:
    ids = list(range(ROWS, 0, -1))  # more than two blocks
    found = join(databases, driver, neighbours(ids), RECIPES)
    expected = [n for n in ids if n % 10 != 7]
    key = "recipe_id" if driver in ("asyncpg", "psycopg") else "RECIPE_ID"
    assert [row[key] for row in found.rows] == expected
    assert [n for n, _ in found.neighbours] == expected
    assert found.missing == [n for n in ids if n % 10 == 7]
    assert list(found.rows[0].values())[1] == f"요리 {ROWS}"


@every_driver
def test_several_rows_of_one_id_stand_together(databases: Databases, driver: str) -> None:
    found = join(databases, driver, neighbours([9, 4, 6]), SHOWS)
    lives = [sorted(n for n in range(2 * p, 2 * p + 2) if n % 3) for p in (9, 4, 6)]
    assert [next(iter(row.values())) for row in found.rows] == [n for each in lives for n in each]
    assert [n for n, _ in found.neighbours] == [9, 4, 6]


@every_driver
def test_text_ids_are_compared_to_the_letter(databases: Databases, driver: str) -> None:
    found = join(databases, driver, neighbours(["A", "B", "7", "007"]), NAMED)
    assert [n for n, _ in found.neighbours] == ["B", "007"]
    assert found.missing == ["A", "7"], "a collation that finds 'a' for 'A' gives no row of another product"


@every_driver
def test_a_page_stays_full(databases: Databases, driver: str) -> None:
    if driver in BLOCKING:
        found: Joined = both(databases, driver, lambda make: full_page_now(nearest, make(RECIPES), 30))
    else:
        found = both(databases, driver, lambda make: full_page(ask, make(RECIPES), 30))
    expected = [n for n in range(1, 100) if n % 10 != 7][:30]
    assert [n for n, _ in found.neighbours] == expected
    assert found.missing == [7, 17, 27]
    assert found.is_full


@every_driver
def test_a_table_that_is_not_there_is_one_typed_error(databases: Databases, driver: str) -> None:
    with pytest.raises(DatabaseFailed, match="nowhere"):
        join(databases, driver, neighbours([1]), Table("nowhere", "id"))


def test_refilling_ends() -> None:
    rounds: list[int] = []

    async def nothing(ids: Sequence[Any]) -> dict[Any, Any]:
        rounds.append(len(ids))
        return {}

    async def run() -> None:
        lost = await full_page(ask, nothing, 10)
        assert (lost.neighbours, lost.is_full, len(rounds)) == ([], False, ROUNDS_MAX)

    asyncio.run(run())


def test_an_end_of_the_search_is_a_full_page() -> None:
    async def few(k: int, exclude_ids: Sequence[Any]) -> Neighbours:
        return [(n, 0.1) for n in (1, 2, 3) if n not in exclude_ids][:k]

    async def rows(ids: Sequence[Any]) -> dict[Any, Any]:
        return {n: [{"id": n}] for n in ids if n != 2}

    async def run() -> None:
        page = await full_page(few, rows, 10)
        assert ([n for n, _ in page.neighbours], page.missing, page.is_full) == ([1, 3], [2], True)

    asyncio.run(run())
