"""Callers that know nothing of this package go on unchanged: the two adapters of the first draft, and the
deployed client. Their calls, and how they read the answers, stand here as they are in the field."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.fault_proxy import FaultProxy, fault_proxy
from tests.integration.kitchen import Kitchen, open_kitchen
from vector_client.recommend.port import Neighbours

FIELD_TIMEOUT_S = "3.0"


@pytest.fixture(scope="module")
def kitchen(
    postgres: PostgresServer, mariadb: MariaDBServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    with open_kitchen(tmp_path_factory.mktemp("kitchen"), postgres, mariadb) as opened:
        yield opened


@pytest.fixture
def at_the_service(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    monkeypatch.setenv("ML_INFERENCE_URL", kitchen.url)
    monkeypatch.setenv("ML_TIMEOUT", FIELD_TIMEOUT_S)
    return kitchen


class DraftEmbedAdapter:
    """Strategy A of the first draft: /v1/embed, then `<->` in the backend's own database."""

    async def find_similar_ids(
        self, pg_db: AsyncSession, query: str, top_k: int, exclude_ids: list[int] | None = None
    ) -> Neighbours:
        base = os.getenv("ML_INFERENCE_URL", "http://uhok-ml-inference:8080")
        timeout = float(os.getenv("ML_TIMEOUT", "3.0"))
        async with httpx.AsyncClient(timeout=timeout) as client:
            resp = await client.post(f"{base}/v1/embed", json={"text": query, "normalize": True})
            resp.raise_for_status()
            qv = resp.json().get("embedding")
        where_not_in = ""
        params: dict[str, Any] = {"qv": qv, "k": int(top_k)}
        if exclude_ids:
            names = ",".join(f":ex{i}" for i in range(len(exclude_ids)))
            where_not_in = f'WHERE "RECIPE_ID" NOT IN ({names})'
            params |= {f"ex{i}": int(rid) for i, rid in enumerate(exclude_ids)}
        sql = text(
            f'SELECT "RECIPE_ID", "VECTOR_NAME" <-> :qv AS distance FROM "RECIPE_VECTOR_TABLE" '
            f"{where_not_in} ORDER BY distance ASC LIMIT :k"
        )
        rows = (await pg_db.execute(sql, params)).all()
        return [(int(rid), float(dist)) for rid, dist in rows]


class DraftStoreAdapter:
    """Strategy B of the first draft: /v1/search, a client for each call."""

    async def find_similar_ids(
        self, _pg_db: Any, query: str, top_k: int, exclude_ids: list[int] | None = None
    ) -> Neighbours:
        base = os.getenv("ML_INFERENCE_URL", "http://uhok-ml-inference:8080")
        timeout = float(os.getenv("ML_TIMEOUT", "3.0"))
        payload = {"query": query, "top_k": top_k, "exclude_ids": exclude_ids or []}
        async with httpx.AsyncClient(timeout=timeout) as client:
            resp = await client.post(f"{base}/v1/search", json=payload)
            resp.raise_for_status()
            data = resp.json().get("results", [])
        return [(int(x["recipe_id"]), float(x["distance"])) for x in data]


class DeployedAdapter:
    """The backend as deployed: /api/v1/search, no conversion, repeats timeouts alone, a 5xx is final."""

    def __init__(self, retries: int = 2, timeout_s: float = 10.0) -> None:
        self.retries = retries
        self.timeout_s = timeout_s
        self.waited_s: list[float] = []
        self.logged: list[str] = []

    async def find_similar_ids(
        self, _pg_db: Any, query: str, top_k: int, exclude_ids: list[int] | None = None
    ) -> Neighbours:
        url = os.environ["ML_INFERENCE_URL"] + "/api/v1/search"
        body = {"query": query, "top_k": top_k, "exclude_ids": exclude_ids or []}
        for attempt in range(self.retries + 1):
            try:
                async with httpx.AsyncClient(timeout=self.timeout_s, follow_redirects=False) as client:
                    response = await client.post(url, json=body)
                if response.status_code != 200:
                    self.logged.append(response.text)
                    response.raise_for_status()
                results = response.json()["results"]
                return [(results[i]["recipe_id"], results[i]["distance"]) for i in range(len(results))]
            except httpx.TimeoutException:
                if attempt == self.retries:
                    raise
                self.waited_s.append(0.5 * 2**attempt)
                await asyncio.sleep(0)  # in the field: as long as noted
        raise AssertionError("not reached")


@asynccontextmanager
async def backend_session(kitchen: Kitchen) -> AsyncIterator[AsyncSession]:
    """The backend's session: asyncpg with pgvector's codec, as the pgvector package registers it."""
    engine = create_async_engine(kitchen.dsn("asyncpg"))

    @event.listens_for(engine.sync_engine, "connect")
    def _register(connection: Any, _record: Any) -> None:
        connection.run_async(
            lambda raw: raw.set_type_codec(
                "vector", schema="public", format="text", decoder=str,
                encoder=lambda numbers: "[" + ",".join(map(str, numbers)) + "]",
            )
        )  # fmt: skip

    try:
        async with AsyncSession(engine) as session:
            yield session
    finally:
        await engine.dispose()


def ask(kitchen: Kitchen, adapter: Any, query: str, k: int, exclude_ids: list[int] | None) -> Neighbours:
    async def run() -> Neighbours:
        async with backend_session(kitchen) as session:
            found: Neighbours = await adapter.find_similar_ids(session, query, k, exclude_ids)
            return found

    return asyncio.run(run())


QUESTIONS: list[tuple[str, int, list[int] | None]] = [
    ("갈비탕", 25, None), ("매운 국물 300g", 1, []), ("냉면", 51, [1, 2, 3]),
    ("만두", 101, list(range(1, 300))),
]  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS, ids=[query for query, _, _ in QUESTIONS])
@pytest.mark.parametrize("make", [DraftStoreAdapter, DeployedAdapter])
def test_adapters_of_the_store_get_the_true_answer(
    at_the_service: Kitchen, make: type[Any], question: tuple[str, int, list[int] | None]
) -> None:
    query, k, exclude_ids = question
    found = ask(at_the_service, make(), query, k, exclude_ids)
    at_the_service.check(found, query, k, exclude_ids or ())
    assert all(type(item_id) is int and type(distance) is float for item_id, distance in found)


def test_the_embedding_adapter_gets_the_true_answer(at_the_service: Kitchen) -> None:
    """Its SQL shows an id in several rows several times: id 1, which is left out here."""
    exclude_ids = [1]
    found = ask(at_the_service, DraftEmbedAdapter(), "구수한 된장국", 25, exclude_ids)
    at_the_service.check(found, "구수한 된장국", 25, exclude_ids)


def test_an_endless_scroll_goes_on(at_the_service: Kitchen) -> None:
    """The backend asks for page * size + 1 and leaves out what it has shown: thousands of ids, in the end."""
    shown: list[int] = []
    adapter = DeployedAdapter()
    for _ in range(4):
        shown += [item_id for item_id, _ in ask(at_the_service, adapter, "찌개", 101, shown)][:100]
    assert len(set(shown)) == len(shown) == 400
    assert ask(at_the_service, adapter, "찌개", 101, [*shown, *range(100_000, 180_000)]) == []


def test_a_refusal_is_final_short_and_plain(at_the_service: Kitchen) -> None:
    adapter = DeployedAdapter()
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        ask(at_the_service, adapter, "x" * 1001, 5, None)
    assert adapter.waited_s == []
    assert len(adapter.logged[0]) < 600 and "\n" not in adapter.logged[0], adapter.logged


@pytest.fixture
def proxy(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with fault_proxy(kitchen.service.port) as opened:
        monkeypatch.setenv("ML_INFERENCE_URL", opened.url)
        yield opened


def test_it_repeats_after_a_timeout_and_gets_its_answer(kitchen: Kitchen, proxy: FaultProxy) -> None:
    adapter = DeployedAdapter(timeout_s=1.0)
    proxy.fault = "half_open"

    async def run() -> Neighbours:
        call = asyncio.ensure_future(adapter.find_similar_ids(None, "잡채", 7))
        while not adapter.waited_s:
            await asyncio.sleep(0.01)
        proxy.fault = "none"
        return await call

    kitchen.check(asyncio.run(run()), "잡채", 7)
    assert adapter.waited_s[0] == 0.5


def test_the_container_is_healthy_as_the_field_asks(kitchen: Kitchen) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is missing: apt-get install curl")
    done = subprocess.run(
        ["curl", "-fsS", "--max-time", "5", f"{kitchen.url}/health"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and '"status":"ok"' in done.stdout.replace(" ", ""), done.stderr


def test_both_slashes_answer_without_a_redirect(kitchen: Kitchen) -> None:
    """The field's client follows none."""
    for path in ("/api/v1/search", "/api/v1/search/", "/v1/search", "/v1/search/"):
        answer = httpx.post(kitchen.url + path, json={"query": "국", "top_k": 2, "exclude_ids": []})
        assert answer.status_code == 200 and len(answer.json()["results"]) == 2


@pytest.mark.usefixtures("at_the_service")
def test_a_burst_with_a_connection_for_each_call_is_answered() -> None:
    async def run() -> list[Neighbours]:
        adapter = DeployedAdapter(timeout_s=30)
        return await asyncio.gather(*(adapter.find_similar_ids(None, "갈비", 3) for _ in range(20)))

    assert all(len(found) == 3 for found in asyncio.run(run()))
