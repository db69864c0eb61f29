"""An index in PostgreSQL is opened: tables, collections, and what stands in the way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from index_store.errors import StoreUnavailable, Unavailable, UnknownFormat
from index_store.postgres.connections import Connections, PostgresLimits
from index_store.postgres.index import PostgresIndex
from index_store.postgres.maintenance.worker import DatabaseMaintenance
from index_store.postgres.opening import open_schema
from index_store.postgres.schema import VERSION, generation_tables, graph_index
from index_store.types import ItemDelete, WriteBatch
from tests.contract.vectors import SPECS
from tests.integration.databases import PostgresServer


@pytest.fixture
def connections(postgres: PostgresServer, pg_database: str) -> Iterator[Connections]:
    opened = Connections(postgres.address(pg_database), PostgresLimits(connections_max=4))
    yield opened
    opened.close()


def opened(connections: Connections) -> str:
    return connections.run(30.0, lambda connection: open_schema(connection, SPECS))


def test_processes_that_open_at_once_find_one_index(connections: Connections) -> None:
    with ThreadPoolExecutor(4) as threads:
        ids = set(threads.map(opened, [connections] * 8))
    assert len(ids) == 1 and len(ids.pop()) == 32
    with connections.using(30.0) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM collection")}
    assert names == {spec.name for spec in SPECS}


def test_tables_of_each_kind_can_be_made(connections: Connections) -> None:
    opened(connections)
    with connections.using(30.0) as connection:
        for number, spec in enumerate(SPECS):
            for statement in (
                *generation_tables(number, spec.id_kind, 8),
                *graph_index(number, spec.metric, 8),
            ):
                connection.execute(statement.encode())
    assert graph_index(9, "l2", 2001) == []


def test_another_version_or_shape_is_refused_and_nothing_changes(connections: Connections) -> None:
    opened(connections)
    for spec, setting in (
        (replace(SPECS[0], metric="ip"), "metric"),
        (replace(SPECS[0], id_kind="string"), "id_type"),
    ):
        with pytest.raises(StoreUnavailable, match=setting), connections.using(30.0) as connection:
            open_schema(connection, [spec])
    with connections.using(30.0) as connection:
        connection.execute("UPDATE index_schema SET version = %s", (VERSION + 1,))
    with pytest.raises(UnknownFormat, match=f"version {VERSION + 1}"):
        opened(connections)


def test_an_index_that_could_not_be_opened_says_why_and_touches_nothing(
    postgres: PostgresServer, pg_database: str
) -> None:
    address, name = postgres.address(pg_database), SPECS[0].name
    first = PostgresIndex(address, SPECS)
    assert first.open() == {}
    first.advance(name, "begin", "v1")
    first.close()
    with postgres.connect(pg_database) as db:
        db.execute("UPDATE index_schema SET version = %s", (VERSION + 1,))
    for specs, reason in ((SPECS, f"version {VERSION + 1}"), ([replace(SPECS[0], metric="ip")], "metric")):
        index = PostgresIndex(address, specs)
        with postgres.connect(pg_database) as db:
            if reason == "metric":
                db.execute("UPDATE index_schema SET version = %s", (VERSION,))
        assert reason in str(index.open()[name])
        for refused in (
            partial(index.status, name),
            partial(index.write, name, WriteBatch(deletes=[ItemDelete(1)])),
            partial(index.advance, name, "begin", "v2"),
        ):
            with pytest.raises(Unavailable, match=reason):
                refused()
        index.close()


def test_maintenance_leaves_the_tables_of_another_version_alone_and_says_so_once(
    connections: Connections, postgres: PostgresServer, pg_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    opened(connections)
    with connections.using(30.0) as connection:
        connection.execute("UPDATE index_schema SET version = %s", (VERSION + 1,))
    maintenance = DatabaseMaintenance(postgres.address(pg_database))
    with caplog.at_level("WARNING"):
        maintenance.maintain_forever(AfterThreeLooks())
    assert [record.message for record in caplog.records].count("maintenance_interrupted") == 1
    with pytest.raises(UnknownFormat):
        maintenance.maintain_once()
    maintenance.close()


class AfterThreeLooks(threading.Event):
    looks = 0

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        self.looks += 1
        if self.looks == 3:
            self.set()
        return self.is_set()


def test_an_index_whose_opening_failed_serves_as_soon_as_it_can(
    postgres: PostgresServer, pg_database: str
) -> None:
    with postgres.connect(pg_database) as db:
        db.execute("DROP EXTENSION vector")
        index = PostgresIndex(postgres.address(pg_database), SPECS)
        assert "extension" in str(index.open()[SPECS[0].name])
        db.execute("CREATE EXTENSION vector")
    assert index.status(SPECS[0].name).current is None, "tables are made, nothing is missing"
    index.close()


@pytest.mark.parametrize("table", ["collection (x int)", "index_schema (x int)"])
def test_tables_of_another_program_are_named(
    connections: Connections, postgres: PostgresServer, pg_database: str, table: str
) -> None:
    with postgres.connect(pg_database) as db:
        db.execute(f"CREATE TABLE {table}".encode())
    with pytest.raises(StoreUnavailable, match="not of this index"):
        opened(connections)


def test_an_address_that_cannot_be_read_is_refused_without_its_password() -> None:
    connections = Connections("postgresql://u:secret@127.0.0.1/x?sslmod=require", PostgresLimits())
    with pytest.raises(StoreUnavailable, match="sslmod") as refused:
        opened(connections)
    assert "secret" not in str(refused.value)


def test_a_silent_server_is_waited_for_once_by_who_asks_several_times() -> None:
    """As metrics do, of each collection: they came after 3 s for each, longer than a scrape waits."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        limits = PostgresLimits(connect_s=1.0, silent_s=600.0)
        connections = Connections(f"postgresql://u:secret@127.0.0.1:{port}/x", limits)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="time"):
                opened(connections)
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_database_without_the_extension_says_what_helps(postgres: PostgresServer, pg_database: str) -> None:
    with postgres.connect(pg_database) as db:
        db.execute("DROP EXTENSION vector")
    with pytest.raises(StoreUnavailable) as refused:
        opened(Connections(postgres.address(pg_database), PostgresLimits()))
    assert "CREATE EXTENSION vector" in refused.value.hint


def test_a_database_of_another_encoding_says_what_helps(postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE DATABASE korean ENCODING 'EUC_KR' LOCALE 'C' TEMPLATE template0")
    with postgres.connect("korean") as connection:
        connection.execute("CREATE EXTENSION vector")
    connections = Connections(postgres.address("korean"), PostgresLimits())
    with pytest.raises(StoreUnavailable, match="EUC_KR"):
        opened(connections)
    connections.close()
    postgres.drop_database("korean")


def test_a_server_that_was_away_is_found_again(postgres: PostgresServer, connections: Connections) -> None:
    first = opened(connections)
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable):
            opened(connections)
    finally:
        postgres.start()
    assert opened(connections) == first, "without help"
