"""The backend's own database hangs, breaks or refuses: the service answers within the same deadline."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.tcp_relay import Relay
from tests.integration.databases import PostgresServer
from tests.integration.feeding import insert
from tests.integration.service_process import ServiceProcess
from vector_client.http import VectorClient
from vector_client.recommend.drivers import asyncpg_rows, psycopg_rows, sqlalchemy_rows
from vector_client.recommend.pgvector import Rows
from vector_client.types import Item
from vector_client.wiring import Backend, Recommenders

DEADLINE_S = 3.0
SLACK_S = 9.0
"""For a machine under load. What this must tell apart is a call that ends and one that does not."""
"""For a machine under load; psycopg alone takes ten seconds until a silent server is given up."""
BY_PGVECTOR, BY_SERVICE = [1, 2, 3], [11, 12, 13]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("database_faults") / "data").start()
    with VectorClient.to(f"http://127.0.0.1:{process.port}") as client:
        client.upsert("recipes", [Item(n, text="요리") for n in BY_SERVICE])
    yield process
    process.stop()


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> Iterator[str]:
    name = postgres.create_database()
    with postgres.connect(name) as db:
        db.execute('CREATE TABLE "RECIPE_VECTOR_TABLE" ("RECIPE_ID" BIGINT, "VECTOR_NAME" vector(2))')
        rows = [(n, f"[1,0.{n}]") for n in BY_PGVECTOR]
        insert(db, '"RECIPE_VECTOR_TABLE"', '"RECIPE_ID", "VECTOR_NAME"', rows)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def relay(postgres: PostgresServer) -> Iterator[Relay]:
    made = Relay(postgres.port)
    yield made
    made.close()


@asynccontextmanager
async def sqlalchemy_asyncpg(address: str) -> AsyncIterator[Any]:
    async with sqlalchemy_session(f"postgresql+asyncpg://{address}") as session:
        yield session


@asynccontextmanager
async def sqlalchemy_psycopg(address: str) -> AsyncIterator[Any]:
    async with sqlalchemy_session(f"postgresql+psycopg://{address}") as session:
        yield session


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(url)
    session = AsyncSession(engine)
    yield session
    with contextlib.suppress(Exception):
        await session.close()
    await engine.dispose()


@asynccontextmanager
async def plain_asyncpg(address: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(f"postgresql://{address}")
    yield connection
    connection.terminate()


@asynccontextmanager
async def plain_psycopg(address: str) -> AsyncIterator[Any]:
    connection = await psycopg.AsyncConnection.connect(f"postgresql://{address}")
    yield connection
    await connection.close()


Opens = Callable[[str], AbstractAsyncContextManager[Any]]
DRIVERS: list[tuple[Opens, Rows]] = [
    (sqlalchemy_asyncpg, sqlalchemy_rows), (sqlalchemy_psycopg, sqlalchemy_rows),
    (plain_asyncpg, asyncpg_rows), (plain_psycopg, psycopg_rows),
]  # fmt: skip


@pytest.mark.parametrize("rollout", ["0", "100"])
@pytest.mark.parametrize("fault", ["cut", "down"])
@pytest.mark.parametrize(("opens", "rows"), DRIVERS, ids=[opens.__name__ for opens, _ in DRIVERS])
def test_the_service_answers_for_a_database_that_does_not(
    postgres: PostgresServer, service: ServiceProcess, database: str, relay: Relay, opens: Opens, rows: Rows,
    fault: str, rollout: str,
) -> None:  # fmt: skip
    """cut: half-open, no byte passes. down: the connection breaks. Either path may be the old one."""
    modes = ("remote_store", "db") if rollout == "0" else ("db", "remote_store")
    environ = {
        "ML_MODE": modes[0], "ML_FALLBACK_MODE": modes[1], "ML_ROLLOUT_PERCENT": rollout,
        "ML_INFERENCE_URL": f"http://127.0.0.1:{service.port}", "ML_TIMEOUT": str(DEADLINE_S),
    }  # fmt: skip
    address = f"postgres:{postgres.password}@127.0.0.1:{relay.port}/{database}"

    async def run() -> None:
        backend = Backend(encode=lambda _: [1.0, 0.0], rows=rows)
        async with Recommenders.from_env(backend, environ) as held, opens(address) as session:
            found = await held.searcher.find_similar_ids(session, "요리", 3)
            assert [each for each, _ in found] == BY_PGVECTOR
            getattr(relay, fault)()
            began = time.monotonic()
            found = await held.searcher.find_similar_ids(session, "요리", 3)
            assert time.monotonic() - began < DEADLINE_S + SLACK_S
            assert [each for each, _ in found] == BY_SERVICE
            relay.close()  # a session that still waits for its server may end

    asyncio.run(run())
