"""Databases for the integration tests: one server of each kind a session, one database a test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.integration.databases import MariaDBServer, PostgresServer, ToolMissing
from tests.integration.feeder_fixtures import (  # noqa: F401  # pytest finds fixtures by name
    follower,
    log_follower,
    maria_follower,
    maria_products,
    products,
)  # fmt: skip
from tests.integration.feeding import COLLECTIONS, Service, Shop
from tests.integration.scripted_server import client_for, scripted_server  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser  # a third of a second, for the console's tests only

OUTCOME = "outcome"

Started = TypeVar("Started", PostgresServer, MariaDBServer)


def start_or_skip(server: Started) -> Started:
    """Start a server. Where its programs are missing: skip with the reason, but fail in CI, where a test
    that did not run proves nothing."""
    try:
        server.start()
    except ToolMissing as exc:
        server.close()
        if os.environ.get("CI") == "true":
            pytest.fail(f"{exc} (CI runs every test)", pytrace=False)
        pytest.skip(str(exc))
    except BaseException:
        server.close()
        raise
    return server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = start_or_skip(PostgresServer())
    yield server
    server.close()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    server = start_or_skip(MariaDBServer())
    yield server
    server.close()


@pytest.fixture
def pg_database(postgres: PostgresServer) -> Iterator[str]:
    """Name of an empty database with the vector extension."""
    name = postgres.create_database()
    yield name
    postgres.drop_database(name)


@pytest.fixture
def maria_database(mariadb: MariaDBServer) -> Iterator[str]:
    """Name of an empty utf8mb4 database."""
    name = mariadb.create_database()
    yield name
    mariadb.drop_database(name)


@pytest.fixture
def shop(
    postgres: PostgresServer, mariadb: MariaDBServer, pg_database: str, maria_database: str, tmp_path: Path
) -> Iterator[Shop]:
    """A service without data beside two empty databases."""
    service = Service(tmp_path, COLLECTIONS)
    service.process.start()
    built = Shop(service, postgres, mariadb, (pg_database, maria_database))
    yield built
    built.close()


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line that stands at the end of the whole run: what a long run has seen."""
    return lambda line: request.node.user_properties.append((OUTCOME, line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, line in report.user_properties:
            if name == OUTCOME:
                terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module, not of the session: while it runs, no test of the same process can run an event loop."""
    from tests.integration.browser import browser_path, running_browser

    path = browser_path()
    if path is None:
        missing = "no Chromium: bash tests/setup_browser.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing} (CI runs every test)", pytrace=False)
        pytest.skip(missing)
    with running_browser(path) as running:
        yield running
