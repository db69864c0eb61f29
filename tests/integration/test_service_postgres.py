"""Services whose collections are in PostgreSQL: one is as good as another, and none survives it by lying."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import command_of
from tests.integration.conftest import start_or_skip
from tests.integration.databases import MariaDBServer, PostgresServer
from tests.integration.feeding import COLLECTIONS, Service, Shop, feeder_process, korean_names
from tests.integration.service_process import Connection, ServiceProcess
from tests.waiting import until

DIM = 384
STEPS = 200
"""Each is a write to one service and a search of the other. 2,000 were tried once: docs/decisions/0128."""
DEADLINE_S = 3


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server that tests of this file may stop."""
    server = start_or_skip(PostgresServer())
    yield server
    server.close()


@pytest.fixture(scope="module")
def pair(
    own_postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[ServiceProcess]]:
    """Two services with data directories of their own, over one database."""
    folder = tmp_path_factory.mktemp("pair")
    environ = {
        "INDEX_URL": url_of(own_postgres, own_postgres.create_database()),
        "SEARCH_DEADLINE_MS": str(1000 * DEADLINE_S),
        "PROBE_S": "1",
        "LOG_LEVEL": "debug",
    }
    services = [ServiceProcess(folder / name, environ).start(until_ready=False) for name in ("one", "two")]
    for service in services:
        service.wait_until_ready()
    yield services
    assert [service.stop() for service in services] == [0, 0]


def url_of(server: PostgresServer, database: str) -> str:
    return f"postgresql://postgres:{server.password}@127.0.0.1:{server.port}/{database}"


def vector_of(number: int) -> list[float]:
    vector = [0.001] * DIM
    vector[number % DIM] = 1.0 + number / 10_000
    return vector


def ask(connection: Connection, path: str, **body: Any) -> Any:
    status, answer = connection.post(path, {"collection": "recipes", **body})
    assert status == 200, answer
    return answer


def nearest(connection: Connection, number: int) -> list[int]:
    found = ask(connection, "/v1/search", vector=vector_of(number), top_k=20)
    return [row["recipe_id"] for row in found["results"]]


def nearest_all(connection: Connection) -> list[int]:
    found = ask(connection, "/v1/search", vector=vector_of(0), top_k=1000, exact=True)
    return [row["recipe_id"] for row in found["results"]]


def test_what_one_service_acknowledged_the_other_shows_in_the_next_request(
    pair: list[ServiceProcess],
) -> None:
    connections = [Connection(service.port) for service in pair]
    rng = random.Random(20261128)
    live: set[int] = set()
    stale = 0
    for step in range(STEPS):
        writer, reader = connections if step % 2 else reversed(connections)
        number = rng.randrange(100)
        choice = rng.random()
        if number in live and choice < 0.5:
            done = ask(writer, "/v1/delete" if choice < 0.3 else "/v1/deactivate", ids=[number])
            live.discard(number)
        else:
            done = ask(writer, "/v1/upsert", items=[{"recipe_id": number, "vector": vector_of(number)}])
            live.add(number)
        found = ask(reader, "/v1/search", vector=vector_of(number), top_k=20, min_seq=done["seq"])
        stale += (number in [row["recipe_id"] for row in found["results"]]) != (number in live)
    assert stale == 0
    for connection in connections:
        assert sorted(nearest_all(connection)) == sorted(live)


def test_both_are_the_same_store_and_speak_of_it_alike(pair: list[ServiceProcess]) -> None:
    connections = [Connection(service.port) for service in pair]
    ask(connections[0], "/v1/upsert", items=[{"recipe_id": 901, "text": "매운 갈비탕"}])
    states = [connection.ask("GET", "/v1/sync/status")[1] for connection in connections]
    assert states[0]["store"] and states[0] == states[1]
    digests = [
        connection.ask("GET", "/v1/collections/recipes/digest")[1]["root"] for connection in connections
    ]
    assert digests[0] == digests[1]
    texts = [ask(connection, "/v1/search", query="갈비탕", top_k=1) for connection in connections]
    assert [each["results"][0]["recipe_id"] for each in texts] == [901, 901]
    for connection in connections:
        status, metrics = connection.ask("GET", "/metrics")
        assert status == 200 and 'uhok_collection_store_bytes{collection="recipes",role="current"}' in metrics
        assert "uhok_disk_reserve_bytes " not in metrics.replace(
            "# HELP uhok_disk_reserve_bytes ", ""
        ).replace("# TYPE uhok_disk_reserve_bytes ", "")
        status, refused = connection.ask("POST", "/v1/snapshot", {})
        assert (status, refused["code"]) == (409, "not_supported") and "pg_dump" in refused["hint"]
        assert connection.ask("GET", "/v1/snapshot")[1] == {"snapshots": []}


def test_without_the_database_requests_fail_in_time_and_recover_by_themselves(
    pair: list[ServiceProcess], own_postgres: PostgresServer
) -> None:
    connections = [Connection(service.port) for service in pair]
    ask(connections[0], "/v1/upsert", items=[{"recipe_id": 902, "vector": vector_of(902)}])
    own_postgres.stop()
    try:
        for connection in connections:
            for path, body in (
                ("/v1/search", {"vector": vector_of(902)}),
                ("/v1/upsert", {"items": [{"recipe_id": 903, "vector": vector_of(903)}]}),
            ):
                began_at = time.monotonic()
                status, answer = connection.post(path, {"collection": "recipes", **body})
                assert status == 503 and answer["hint"], answer
                assert time.monotonic() - began_at < DEADLINE_S + 27  # of the machine, not of the service
            until(lambda at=connection: at.ask("GET", "/readyz")[0] == 503, "not ready")  # type: ignore[misc]
            assert connection.ask("GET", "/livez")[0] == 200
    finally:
        own_postgres.start()
    for connection in connections:
        until(lambda at=connection: at.ask("GET", "/readyz")[0] == 200, "ready again")  # type: ignore[misc]
        assert nearest(connection, 902)[0] == 902


def test_the_password_is_shown_nowhere(pair: list[ServiceProcess], own_postgres: PostgresServer) -> None:
    secret = own_postgres.password
    for service in pair:
        connection = Connection(service.port)
        for path in ("/health", "/readyz", "/metrics", "/v1/collections", "/v1/sync/status", "/v1/slow"):
            assert secret not in str(connection.ask("GET", path)[1]), path
        assert secret not in service.log.read_text()
        for process_id in (service.process.pid, *children_of(service.process.pid)):
            assert secret.encode() not in command_of(process_id)
        for path in Path(service.environ["DATA_DIR"]).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def children_of(process_id: int) -> list[int]:
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def live_recipes(service: ServiceProcess) -> int:
    _, status = Connection(service.port).ask("GET", "/v1/sync/status")
    return int(status["collections"]["recipes"]["generations"][0]["live"])


def test_a_feeder_imports_follows_and_verifies(
    postgres: PostgresServer,
    mariadb: MariaDBServer,
    pg_database: str,
    maria_database: str,
    own_postgres: PostgresServer,
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, COLLECTIONS)
    service.process.environ["INDEX_URL"] = url_of(own_postgres, own_postgres.create_database())
    service.process.start()
    shop = Shop(service, postgres, mariadb, (pg_database, maria_database))
    try:
        names = korean_names(60, seed=4)
        shop.recipes(names)
        assert shop.feed("import", "recipes").count("items") == 60
        assert shop.feed("verify", "recipes").code == 0
        with feeder_process(shop.environ | {"FEEDER_POLL_S": "1"}, "sync", "recipes") as feeder:
            try:
                shop.db.execute('DELETE FROM "RECIPE_VECTOR_TABLE" WHERE "RECIPE_ID" <= 5')
                until(lambda: live_recipes(service.process) == 55, "the deletes")
            finally:
                feeder.terminate()
                feeder.communicate(timeout=60)
        assert shop.feed("verify", "recipes").code == 0
    finally:
        shop.close()
