"""Every path behind the backend's port answers the same, with every driver, on real databases."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import asyncpg
import numpy as np
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.kitchen import RECIPES, TWINS, Kitchen, open_kitchen
from vector_client.async_client import AsyncVectorClient
from vector_client.errors import DatabaseFailed, PathFailed, SettingsWrong, SpaceChanged
from vector_client.recommend.drivers import asyncpg_rows, psycopg_rows, sqlalchemy_rows
from vector_client.recommend.pgvector import PgTable, Rows, nearest_rows, nearest_statement
from vector_client.recommend.port import Neighbours
from vector_client.recommend.searchers import (
    DBVectorRecommender,
    RemoteDBVectorRecommender,
    RemoteVectorStoreRecommender,
)
from vector_client.telemetry.events import Compared, Event
from vector_client.types import Query
from vector_client.wiring import Backend, Recommenders

MODES = ("local", "db", "remote_embed", "remote_store")


@pytest.fixture(scope="module")
def kitchen(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    with open_kitchen(tmp_path_factory.mktemp("kitchen"), postgres, mariadb) as opened:
        yield opened


@asynccontextmanager
async def sqlalchemy_asyncpg(kitchen: Kitchen) -> AsyncIterator[Any]:
    async with sqlalchemy_session(kitchen.dsn("asyncpg")) as session:
        yield session


@asynccontextmanager
async def sqlalchemy_psycopg(kitchen: Kitchen) -> AsyncIterator[Any]:
    async with sqlalchemy_session(kitchen.dsn("psycopg")) as session:
        yield session


@asynccontextmanager
async def sqlalchemy_session(url: str) -> AsyncIterator[AsyncSession]:
    engine = create_async_engine(url)
    try:
        async with AsyncSession(engine) as session:
            yield session
    finally:
        await engine.dispose()


@asynccontextmanager
async def plain_asyncpg(kitchen: Kitchen) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(kitchen.dsn())
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def plain_psycopg(kitchen: Kitchen) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(kitchen.dsn()) as connection:
        yield connection


Opens = Callable[[Kitchen], AbstractAsyncContextManager[Any]]
DRIVERS: list[tuple[Opens, Rows]] = [
    (sqlalchemy_asyncpg, sqlalchemy_rows), (sqlalchemy_psycopg, sqlalchemy_rows),
    (plain_asyncpg, asyncpg_rows), (plain_psycopg, psycopg_rows),
]  # fmt: skip
drivers = pytest.mark.parametrize(("opens", "rows"), DRIVERS, ids=[opens.__name__ for opens, _ in DRIVERS])


def recommenders(kitchen: Kitchen, rows: Rows = sqlalchemy_rows, **environ: str) -> Recommenders:
    return Recommenders.from_env(
        Backend(encode=kitchen.encode, rows=rows),
        {"ML_INFERENCE_URL": kitchen.url, "ML_TIMEOUT": "60", **environ},
    )


async def ask(
    kitchen: Kitchen,
    mode: str,
    opens: Opens,
    rows: Rows,
    query: str,
    k: int,
    exclude_ids: Sequence[int] | None,
) -> Neighbours:
    async with recommenders(kitchen, rows, ML_MODE=mode) as held, opens(kitchen) as session:
        return await held.searcher.find_similar_ids(session, query, k, exclude_ids)


@drivers
@pytest.mark.parametrize("mode", MODES)
def test_every_path_answers_alike(kitchen: Kitchen, mode: str, opens: Opens, rows: Rows) -> None:
    for query, k, exclude_ids in (
        ("매운 갈비탕", 25, None),
        ("구수한 된장국 300g", 40, [1, TWINS[0], 77, 5000]),
        ("냉면", RECIPES + 10, []),
    ):
        found = asyncio.run(ask(kitchen, mode, opens, rows, query, k, exclude_ids))
        kitchen.check(found, query, k, exclude_ids or ())
        if mode == "remote_store":
            expected = kitchen.nearest(query, k, exclude_ids or ())
            assert [each for each, _ in found] == [each for each, _ in expected], "ties by id"
        assert all(isinstance(each, int) for each, _ in found)


@drivers
@pytest.mark.parametrize("mode", MODES)
def test_more_exclusions_than_postgresql_has_parameters(
    kitchen: Kitchen, mode: str, opens: Opens, rows: Rows
) -> None:
    exclude_ids = [*range(1, 200), *range(100_000, 170_000)]
    found = asyncio.run(ask(kitchen, mode, opens, rows, "만두", 25, exclude_ids))
    kitchen.check(found, "만두", 25, exclude_ids)


@drivers
def test_text_ids_are_excluded_to_the_letter(kitchen: Kitchen, opens: Opens, rows: Rows) -> None:
    table = PgTable("names", "id", "v", id_type="varchar")
    vector = kitchen.vectors[0].tolist()

    async def found(exclude_ids: Sequence[str]) -> set[str]:
        async with opens(kitchen) as session:
            return {each for each, _ in await nearest_rows(rows, session, table, vector, 50, exclude_ids)}

    everything = asyncio.run(found([]))
    assert len(everything) == 8
    for one in sorted(everything):
        assert asyncio.run(found([one])) == everything - {one}


def test_a_value_of_the_statement_is_read_once_and_not_for_every_row(kitchen: Kitchen) -> None:
    """2,000 ids left out of 10,000 rows took 1.7 s, while the array was parsed again for each row."""
    statement = nearest_statement(PgTable(), kitchen.vectors[0].tolist(), range(1000, 3000), 25)
    written = "EXPLAIN " + statement.written("$1", "$3", "$2")

    async def plan() -> str:
        async with plain_asyncpg(kitchen) as connection:
            rows = await connection.fetch(written, statement.vector, statement.limit, statement.exclude)
            return "\n".join(row[0] for row in rows)

    shown = asyncio.run(plan())
    assert "hashed SubPlan" in shown and "InitPlan" in shown, shown[:500]


@drivers
def test_a_database_that_fails_is_one_typed_error(kitchen: Kitchen, opens: Opens, rows: Rows) -> None:
    async def run() -> None:
        async with opens(kitchen) as session:
            await nearest_rows(rows, session, PgTable(table="nowhere"), [1.0] * 384, 3, [])

    with pytest.raises(DatabaseFailed, match="nowhere"):
        asyncio.run(run())


@pytest.mark.parametrize("mode", MODES)
def test_no_results_asked_for_are_none(kitchen: Kitchen, mode: str) -> None:
    for k in (0, -1):
        assert asyncio.run(ask(kitchen, mode, sqlalchemy_asyncpg, sqlalchemy_rows, "만두", k, None)) == []


@pytest.mark.parametrize("mode", MODES)
def test_ids_come_in_any_shape(kitchen: Kitchen, mode: str) -> None:
    for ids in ({3, 4}, (3, 4), np.array([3, 4]), range(3, 5)):
        found = asyncio.run(ask(kitchen, mode, sqlalchemy_asyncpg, sqlalchemy_rows, "만두", 400, ids))  # type: ignore[arg-type]
        kitchen.check(found, "만두", 400, [3, 4])


def test_a_model_may_be_a_coroutine_and_must_give_one_vector(kitchen: Kitchen) -> None:
    async def encode(text: str) -> Sequence[float]:
        return await asyncio.to_thread(kitchen.encode, text)

    async def run(encode: Any) -> Neighbours:
        async with sqlalchemy_asyncpg(kitchen) as session:
            path = DBVectorRecommender(encode)
            try:
                return await path.find_similar_ids(session, "만두", 5)
            finally:
                await path.close()

    kitchen.check(asyncio.run(run(encode)), "만두", 5)
    for wrong in ([[1.0] * 384], [], "x", [math.nan] * 384, None, 3):
        with pytest.raises(DatabaseFailed):
            asyncio.run(run(lambda _, wrong=wrong: wrong))
    with pytest.raises(PathFailed, match="ZeroDivisionError"):
        asyncio.run(run(lambda _: 1 / 0))


@drivers
def test_other_kinds_of_vectors_and_of_distance(kitchen: Kitchen, opens: Opens, rows: Rows) -> None:
    """halfvec columns exist in the field; a cosine distance to a vector of length 0 is NaN in pgvector."""
    with kitchen.postgres.connect(kitchen.pg_database) as db:
        db.execute("DROP TABLE IF EXISTS kinds")
        db.execute("CREATE TABLE kinds (id int, half halfvec(2), whole vector(2))")
        for n, vector in enumerate(("[1,0]", "[0.6,0.8]", "[0,0]"), start=1):
            db.execute("INSERT INTO kinds VALUES (%s, %s, %s)", (n, vector, vector))

    async def found(vector: str, operator: str) -> Neighbours:
        table = PgTable("kinds", "id", vector, "int", operator)
        async with opens(kitchen) as session:
            return await nearest_rows(rows, session, table, [1.0, 0.0], 3, [])

    for vector in ("half", "whole"):
        assert [each for each, _ in asyncio.run(found(vector, "<->"))] == [1, 2, 3]
        assert asyncio.run(found(vector, "<=>")) == [(1, 0.0), (2, pytest.approx(0.4, abs=1e-3))]
        assert asyncio.run(found(vector, "<#>"))[0] == (1, -1.0)


def test_more_results_than_one_search_gives(kitchen: Kitchen) -> None:
    """An infinite scroll asks for page * size + 1 results, beyond the service's 10,000 as well."""

    async def ids(k: int) -> Neighbours:
        async with AsyncVectorClient.to(kitchen.url) as client:
            path = RemoteVectorStoreRecommender(client, page_items_max=90)
            return await path.find_similar_ids(None, "만두", k, [5, 6])

    for k in (90, 91, 365, 1000):
        whole = kitchen.client.search(Query(text="만두", k=k, exclude_ids=[5, 6])).hits
        assert asyncio.run(ids(k)) == [(hit.id, hit.distance) for hit in whole]


def test_vectors_of_two_models_never_meet(kitchen: Kitchen, caplog: pytest.LogCaptureFixture) -> None:
    async def run(version: str) -> None:
        async with AsyncVectorClient.to(kitchen.url) as client, sqlalchemy_asyncpg(kitchen) as session:
            path = RemoteDBVectorRecommender(client, embedding_version=version)
            await path.find_similar_ids(session, "만두", 3)

    asyncio.run(run(kitchen.client.embed("만두").version))
    assert "embedding_version_assumed" not in caplog.text
    asyncio.run(run(""))
    assert "embedding_version_assumed" in caplog.text
    with pytest.raises(SpaceChanged, match=r"another-model\.0"):
        asyncio.run(run("another-model.0"))


def test_one_pool_for_200_calls_at_once(kitchen: Kitchen) -> None:
    async def run() -> list[Neighbours]:
        async with recommenders(kitchen, ML_MODE="remote_store", ML_CONNECTIONS_MAX="20") as held:
            calls = (held.searcher.find_similar_ids(None, "갈비탕", 5 + n % 5) for n in range(200))
            answers = await asyncio.gather(*calls)
            transport = held.client._transport
            assert transport._session is not None
            connector = transport._session.connector
            assert connector is not None
            assert sum(map(len, connector._conns.values())) <= 20  # type: ignore[attr-defined]
            return answers

    for n, answer in enumerate(asyncio.run(run())):
        assert len(answer) == 5 + n % 5
    kitchen.check(answer, "갈비탕", len(answer))


def test_shadow_on_both_real_paths_finds_no_difference(kitchen: Kitchen) -> None:
    events: list[Event] = []

    async def run() -> None:
        settings = {
            "ML_MODE": "remote_store", "ML_FALLBACK_MODE": "db", "ML_ROLLOUT_PERCENT": "0",
            "ML_SHADOW_PERCENT": "100", "ML_INFERENCE_URL": kitchen.url, "ML_TIMEOUT": "60",
        }  # fmt: skip
        backend = Backend(encode=kitchen.encode, observe=events.append)
        async with Recommenders.from_env(backend, settings) as held, sqlalchemy_asyncpg(kitchen) as session:
            for query in ("갈비탕", "냉면", "잡채"):
                kitchen.check(await held.searcher.find_similar_ids(session, query, 25), query, 25)
            await held.searcher._shadow.finish()  # type: ignore[attr-defined]

    asyncio.run(run())
    found = [each for each in events if isinstance(each, Compared)]
    assert [each.overlap for each in found] == [1.0] * 3
    assert all(each.distance_difference is not None and each.distance_difference < 1e-6 for each in found)


def test_shadow_of_a_path_with_pgvector_has_sessions_of_its_own(kitchen: Kitchen) -> None:
    environ = {
        "ML_MODE": "remote_embed", "ML_FALLBACK_MODE": "remote_store", "ML_ROLLOUT_PERCENT": "0",
        "ML_SHADOW_PERCENT": "100", "ML_INFERENCE_URL": kitchen.url, "ML_TIMEOUT": "60",
    }  # fmt: skip
    with pytest.raises(SettingsWrong, match=r"Backend\.sessions"):
        Recommenders.from_env(Backend(), environ)
    events: list[Event] = []

    async def run() -> None:
        backend = Backend(sessions=lambda: sqlalchemy_asyncpg(kitchen), observe=events.append)
        async with Recommenders.from_env(backend, environ) as held:
            await held.searcher.find_similar_ids(None, "잡채", 25)
            await held.searcher._shadow.finish()  # type: ignore[attr-defined]

    asyncio.run(run())
    assert [each.overlap for each in events if isinstance(each, Compared)] == [1.0]
