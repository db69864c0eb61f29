"""What contract tests begin with: each implementation of `VectorIndex`, and data that a service wrote."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.port import VectorIndex
from index_store.postgres.index import PostgresIndex
from index_store.postgres.maintenance.worker import DatabaseLimits, DatabaseMaintenance
from index_store.types import CollectionSpec
from tests.contract.vectors import SPECS, begin_all
from tests.http_app import HttpApp, running_app, seed
from tests.integration.conftest import postgres  # noqa: F401  # pytest finds fixtures by name
from tests.integration.databases import PostgresServer
from tests.reference_index import ReferenceIndex

POSTGRES = [pytest.param("postgres", marks=pytest.mark.long), pytest.param("graph", marks=pytest.mark.long)]
"""Over a real server: as it is, and with a graph searched however few rows there are."""


@pytest.fixture(scope="session")
def postgres_database(request: pytest.FixtureRequest) -> str:
    """The URL of a database for all tests; each has a schema of its own in it."""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.address(server.create_database())


@contextmanager
def postgres_index(
    address: str, graph_from: int, specs: Sequence[CollectionSpec] = SPECS
) -> Iterator[PostgresIndex]:
    """An index in a new schema, which is dropped at the end."""
    schema = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(address, autocommit=True) as db:
        db.execute(f"CREATE SCHEMA {schema}".encode())
        opened = PostgresIndex(
            f"{address}?options=-csearch_path%3D{schema},public", specs, graph_from=graph_from
        )
        try:
            assert opened.open() == {}
            yield opened
        finally:
            opened.close()
            db.execute(f"DROP SCHEMA {schema} CASCADE".encode())


def seal(index: PostgresIndex) -> None:
    """Make the graphs of all generations, and measure them where there is enough to measure."""
    maintenance = DatabaseMaintenance(
        index.connections.dsn, DatabaseLimits(graph_from=0, quiet_s=0.0, queries=20)
    )
    assert maintenance.maintain_once()
    maintenance.close()


@pytest.fixture(params=["embedded", "reference", *POSTGRES])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    if request.param in ("postgres", "graph"):
        address = request.getfixturevalue("postgres_database")
        with postgres_index(address, 0 if request.param == "graph" else 2000) as opened:
            begin_all(opened)
            if request.param == "graph":
                seal(opened)
            yield opened
        return
    if request.param == "reference":
        reference = ReferenceIndex(SPECS)
        begin_all(reference)
        yield reference
        return
    engine = EmbeddedIndex(tmp_path, SPECS)
    engine.open()
    begin_all(engine)
    yield engine
    engine.close()
    assert check(tmp_path) == []


@pytest.fixture(scope="session")
def seeded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that holds what `seed` writes. To be copied: no test opens it."""
    data_dir = tmp_path_factory.mktemp("seeded") / "data"
    with running_app(data_dir) as app:
        seed(app)
    return data_dir


@pytest.fixture
def seeded(seeded_once: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own that holds what `seed` writes."""
    return shutil.copytree(seeded_once, tmp_path / "data")


@pytest.fixture(scope="module")
def app(seeded_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    """A service that the tests of a file share and that held what `seed` writes when they began. Files that
    need another one have a fixture of the same name."""
    with running_app(shutil.copytree(seeded_once, tmp_path_factory.mktemp("app") / "data")) as app:
        yield app
