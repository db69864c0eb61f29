"""Connections to real servers that refuse, or that are frozen."""

from __future__ import annotations

import signal
import time
from contextlib import closing

import pytest

from feeder.errors import SettingsWrong, SourceDown
from feeder.settings import Database
from feeder.sources.session import CONNECT_SECONDS, RetryPolicy, maria_session, postgres_session
from tests.integration.databases import MariaDBServer, PostgresServer

SLACK_S = 9.0
"""For a machine under load. What this must tell apart is a call that ends and one that does not."""


def never(_: float) -> None:
    raise AssertionError("it waits, for what no waiting mends")


def database_of(server: MariaDBServer | PostgresServer, name: str) -> Database:
    if isinstance(server, PostgresServer):
        return Database("postgresql", "127.0.0.1", server.port, name, "postgres", server.password)
    return Database("mariadb", "127.0.0.1", server.port, name, "root", server.password)


@pytest.mark.parametrize("statement", ["SELECT nope", "SELEKT 1", "SELECT 1 FROM information_schema.nope"])
def test_what_mariadb_refuses_is_not_tried_again(
    mariadb: MariaDBServer, maria_database: str, statement: str
) -> None:
    policy = RetryPolicy(5, 3, sleep=never)
    with closing(maria_session(database_of(mariadb, maria_database), policy)) as session:
        try:
            session.execute(lambda connection: connection.cursor().execute(statement))
        except SettingsWrong as exc:
            assert "refuses" in str(exc)
        except Exception as exc:
            assert "nope" in str(exc) or "SELEKT" in str(exc)  # the adapter above says it in its words
        else:
            raise AssertionError("it was answered")


def test_another_kind_of_server_is_named(mariadb: MariaDBServer, maria_database: str) -> None:
    wrong = Database("postgresql", "127.0.0.1", mariadb.port, maria_database, "root", mariadb.password)
    with (
        closing(postgres_session(wrong, RetryPolicy(5, 3, sleep=never))) as session,
        pytest.raises(SettingsWrong, match="SRC_DB_ENGINE=mariadb"),
    ):
        session.execute(lambda connection: connection.execute("SELECT 1"))


def test_a_frozen_server_that_never_greets_is_given_up(mariadb: MariaDBServer, maria_database: str) -> None:
    policy = RetryPolicy(60, 0)
    with closing(maria_session(database_of(mariadb, maria_database), policy)) as session:
        mariadb.send(signal.SIGSTOP)
        began = time.monotonic()
        try:
            with pytest.raises(SourceDown):
                session.execute(lambda connection: connection.ping())
        finally:
            mariadb.send(signal.SIGCONT)
        assert time.monotonic() - began < CONNECT_SECONDS + SLACK_S


def test_connecting_reads_no_certificates(mariadb: MariaDBServer, maria_database: str) -> None:
    """The driver's own way loads all of this machine's, 20 ms each time, and then looks at none."""
    with closing(maria_session(database_of(mariadb, maria_database), RetryPolicy(5, 0))) as session:
        loaded = session.execute(lambda connection: connection.ctx.cert_store_stats())  # type: ignore[attr-defined]
    assert loaded["x509_ca"] == 0
