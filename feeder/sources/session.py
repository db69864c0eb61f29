"""One connection to a source database that comes back after a failure, and never hangs for ever.

A statement runs under the server's own time limit. A server that stops answering altogether (frozen host,
half-open link) keeps acknowledging at TCP level, so a watchdog shuts the socket down a little later.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import psycopg
import pymysql

from feeder.errors import SettingsWrong, SourceDown
from feeder.settings import Database

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5
QUICK_SECONDS = 15.0
"""What a question about one row, or a lock, may take before the database counts as frozen."""
WATCHDOG_GRACE_S = 5.0
PAUSE_S = 0.5
PAUSE_S_MAX = 30.0
MARIADB_PASSING = frozenset(
    {1040, 1053, 1129, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1226, 1317, 1412, 1927, 1969}
)
"""What a server says while it is full, ends, or somebody is in the way. Whatever else it says (user,
password, database, grant, column, syntax) does not pass by waiting."""
MARIADB_SAYS = range(1000, 2000)


NO_POSTGRES = "invalid response to SSL negotiation"


class Closable(Protocol):
    """What can be closed: a connection of any driver."""

    def close(self) -> None:
        """Let it go."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """timeout_s: of one statement. retries: attempts after the first, with growing, jittered pauses."""

    timeout_s: float
    retries: int
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class Driver(Generic[C]):
    """What differs between databases. socket_of gives the descriptor a watchdog may shut down."""

    connect: Callable[[], C]
    socket_of: Callable[[C], int]
    broken: tuple[type[Exception], ...]
    is_denied: Callable[[Exception], bool]


class Session(Generic[C]):
    """For one thread at a time. `run` may call its work several times: work reads, or writes
    what may be written twice."""

    def __init__(self, name: str, driver: Driver[C], policy: RetryPolicy) -> None:
        self._name = name
        self._driver = driver
        self._policy = policy
        self._connection: C | None = None

    def execute(self, work: Callable[[C], T], *, is_quick: bool = False) -> T:
        """Return what `work` returns. Raises SourceDown after the last attempt, SettingsWrong when the
        database refuses the login. is_quick: give a frozen server QUICK_SECONDS, not a whole statement's."""
        policy = self._policy.timeout_s
        timeout_s = min(policy, QUICK_SECONDS) if is_quick else policy
        for attempt in range(self._policy.retries + 1):
            try:
                return self._attempt(work, timeout_s)
            except self._driver.broken as exc:
                self.close()
                if self._driver.is_denied(exc):
                    raise SettingsWrong(f"{self._name} refuses: {_first_line(exc)}") from exc
                if attempt == self._policy.retries:
                    raise SourceDown(f"{self._name} does not answer: {_first_line(exc)}") from exc
                log.warning("source_retried", extra={"source": self._name, "why": _first_line(exc)})
                pause = min(PAUSE_S * float(2**attempt), PAUSE_S_MAX)
                self._policy.sleep(pause * (0.5 + self._policy.jitter() / 2))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def close(self) -> None:
        """End the connection if there is one; the next `execute` makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be the broken one
                connection.close()

    def _attempt(self, work: Callable[[C], T], timeout_s: float) -> T:
        if self._connection is None:
            self._connection = self._driver.connect()
        with _watchdog(self._driver.socket_of(self._connection), timeout_s + WATCHDOG_GRACE_S):
            return work(self._connection)


@contextlib.contextmanager
def _watchdog(descriptor: int, seconds: float) -> Iterator[None]:
    """Shut a socket down after `seconds`, so that a read from it fails."""
    held = socket.socket(fileno=os.dup(descriptor))

    def bite() -> None:
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, bite)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        held.close()


def _first_line(exc: Exception) -> str:
    text = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return f"{text} (is it MariaDB? Then say so: SRC_DB_ENGINE=mariadb)" if NO_POSTGRES in text else text


PostgresSession: TypeAlias = "Session[psycopg.Connection[Any]]"
MariaSession: TypeAlias = "Session[pymysql.Connection[Any]]"


def postgres_session(database: Database, policy: RetryPolicy, *, writes: bool = False) -> PostgresSession:
    """A session whose statements end after patience.timeout_s, read-only unless it `writes`."""

    def connect() -> psycopg.Connection[Any]:
        milliseconds = int(policy.timeout_s * 1000)
        return psycopg.connect(
            host=database.host, port=database.port, dbname=database.name, user=database.user,
            password=database.password, autocommit=True, connect_timeout=CONNECT_SECONDS,
            application_name="vector-feeder", client_encoding="UTF8",
            keepalives_idle=30, keepalives_interval=10, keepalives_count=3, tcp_user_timeout=30_000,
            options=f"-c statement_timeout={milliseconds}"
            f" -c default_transaction_read_only={'off' if writes else 'on'}"
            f" -c idle_in_transaction_session_timeout={milliseconds}"
            # The server, too: it must not keep a lease for a feeder whose host is gone.
            " -c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
            " -c tcp_user_timeout=30000",
        )  # fmt: skip

    def is_denied(exc: Exception) -> bool:
        if isinstance(exc, psycopg.OperationalError) and exc.sqlstate:
            return exc.sqlstate[:2] in ("28", "3D")
        # A refused login carries no SQLSTATE; its words are the server's own, never translated here.
        return any(words in str(exc) for words in ("authentication failed", "does not exist", NO_POSTGRES))

    driver = Driver(
        connect, lambda c: c.fileno(), (psycopg.OperationalError, psycopg.InterfaceError), is_denied
    )
    return Session(str(database), driver, policy)


class MariaConnection(pymysql.connections.Connection):
    """As the driver connects when nothing is said about TLS: with it where the server has it, and without
    looking at its certificate. The driver loads every authority of this machine first, to ask none of them:
    20 ms of a processor for each connection, and a feeder that comes back makes six at once."""

    def _create_ssl_ctx(self, _sslp: object) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def maria_session(database: Database, policy: RetryPolicy, *, writes: bool = False) -> MariaSession:
    """A session with time limits on every read (the driver has none of its own), read-only unless it
    `writes`. READ COMMITTED: each statement sees what is committed when it begins."""

    def connect() -> pymysql.Connection[Any]:
        connection = MariaConnection(
            host=database.host, port=database.port, database=database.name, user=database.user,
            password=database.password, charset="utf8mb4", autocommit=True, connect_timeout=CONNECT_SECONDS,
            read_timeout=CONNECT_SECONDS, write_timeout=policy.timeout_s,
            init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, "
            + ("READ WRITE" if writes else "READ ONLY"),
        )  # fmt: skip
        # A frozen server takes connections and never greets: the driver's connect_timeout does not see that.
        connection._read_timeout = policy.timeout_s  # type: ignore[attr-defined]
        return connection

    def is_denied(exc: Exception) -> bool:
        return bool(exc.args) and exc.args[0] in MARIADB_SAYS and exc.args[0] not in MARIADB_PASSING

    broken = (pymysql.err.OperationalError, pymysql.err.InterfaceError, OSError)
    driver = Driver(connect, _maria_socket, broken, is_denied)
    return Session(str(database), driver, policy)


def _maria_socket(connection: pymysql.Connection[Any]) -> int:
    descriptor: int = connection._sock.fileno()  # type: ignore[attr-defined]
    return descriptor
