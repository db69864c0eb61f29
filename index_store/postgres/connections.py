"""Connections to PostgreSQL: few, used again, each use bounded in time; what its errors mean.

A server that is away refuses or falls silent. Whoever takes a connection says how long its use may last,
and gets StoreUnavailable then, whether the server refuses, hangs or is half-way gone. A connection that has
failed is closed, and the next use opens another one: nothing has to be restarted when the server is back.
"""

from __future__ import annotations

import logging
import math
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from index_store.errors import IndexStoreError, ReadOnly, StoreUnavailable, WriteFailed
from index_store.postgres.parameters import register_vectors

log = logging.getLogger(__name__)

Found = TypeVar("Found")

SERVER_HINT = (
    "see whether the database of INDEX_URL answers (pg_isready -h HOST -p PORT) and lets its user in"
)
ADDRESS_HINT = "see which parameters libpq knows (PostgreSQL's manual: Connection URIs) and restart"
_PGVECTOR_MIN = (0, 8)
"""The first one that goes on with a graph until enough rows pass a condition."""
_GRACE_S = 1.0
"""How long after the server's own limit the wait for its answer ends: it has fallen silent."""
_SETTINGS = (
    # An ordered index scan is then chosen wherever one fits. Which search takes the graph is decided here, by
    # what the search asks for; a search that must not take it orders by what no index has.
    "SET enable_sort = off",
    "SET hnsw.iterative_scan = strict_order",
    "SET hnsw.max_scan_tuples = 2147483647",
    "SET jit = off",
    "SET idle_in_transaction_session_timeout = 60000",
    "SET client_encoding = 'UTF8'",
    # An acknowledged write is on disk, whatever the server's default is; a stronger one is kept.
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') IN ('off', 'local')",
)


@dataclass(frozen=True, slots=True)
class PostgresLimits:
    """connections_max: of this process. connect_s: to open one. silent_s: how long no other one is
    opened after one was waited for in vain. wait_s: until one is free. read_s, write_s: of one call, the wait
    for the server included. pass_s: of what reads or copies a whole generation."""

    connections_max: int = 8
    connect_s: float = 5.0
    silent_s: float = 1.0
    wait_s: float = 5.0
    read_s: float = 10.0
    write_s: float = 60.0
    pass_s: float = 600.0


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every wait for the server ends at `give_up_at`, in seconds of time.monotonic."""

    give_up_at: float = math.inf
    statement_ms: int = -1
    ef: int = 0

    def wait(self, gen: PQGen[Found], interval: float = 0.1, timeout: float | None = None) -> Found:
        """See psycopg. Raises OperationalError when the time is over."""
        left = max(0.0, self.give_up_at - time.monotonic())
        return super().wait(gen, interval, left if timeout is None else min(left, timeout))


class Connections:
    """The connections of one process. `using` is safe from any thread, and in a process that was forked
    since: what it inherited it neither uses nor closes."""

    def __init__(
        self,
        dsn: str,
        limits: PostgresLimits,
        check: Callable[[BoundedConnection], object] | None = None,
    ) -> None:
        """dsn: a URL or the key words of libpq. check: what a new connection has to pass before it is used;
        it raises why it can't be. Opens nothing."""
        self.dsn = dsn
        self.limits = limits
        self._check = check
        self._lock = threading.Lock()
        self._inherited: list[list[BoundedConnection]] = []
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._idle: list[BoundedConnection] = []
        self._free = threading.Semaphore(self.limits.connections_max)
        self._is_closed = False
        self._silent_until = -math.inf

    def close(self) -> None:
        """Close every connection; those in use when their use ends."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def using(self, limit_s: float) -> Iterator[BoundedConnection]:
        """A connection for one thread, in autocommit mode, outside of any transaction. limit_s: of the whole
        use. Raises StoreUnavailable, ReadOnly for every error of the server, and closes the connection
        then."""
        if os.getpid() != self._process:
            self._leave_inherited()
        free, give_up_at = self._free, time.monotonic() + limit_s
        if not free.acquire(timeout=min(limit_s, self.limits.wait_s)):
            raise StoreUnavailable(
                f"all {self.limits.connections_max} connections to the database are in use",
                "send fewer requests at once, or see what keeps the database busy (pg_stat_activity)",
            )
        try:
            connection = self._take(give_up_at, limit_s)
            is_sound = False
            try:
                yield connection
                is_sound = True
            except IndexStoreError:
                is_sound = True  # the server has nothing to do with it
                raise
            finally:
                self._give_back(connection, is_sound=is_sound and _is_idle(connection))
        except psycopg.Error as exc:
            meaning = meaning_of(exc)
            if meaning is None:
                raise
            raise meaning from exc
        finally:
            free.release()

    def run(self, limit_s: float, work: Callable[[BoundedConnection], Found]) -> Found:
        """Return what `work` makes of a connection; see `using`."""
        with self.using(limit_s) as connection:
            return work(connection)

    def _take(self, give_up_at: float, limit_s: float) -> BoundedConnection:
        connection = self._idle_one()
        if connection is None:
            connection = self._connect(give_up_at)
        connection.give_up_at = give_up_at + _GRACE_S
        statement_ms = math.ceil(limit_s * 1000)
        if connection.statement_ms != statement_ms:
            connection.execute(f"SET statement_timeout = {statement_ms}".encode())
            connection.statement_ms = statement_ms
        return connection

    def _idle_one(self) -> BoundedConnection | None:
        """One that the server has not closed meanwhile: nothing is to be read from it."""
        while True:
            with self._lock:
                if self._is_closed:
                    raise StoreUnavailable("the index is closed", SERVER_HINT)
                if not self._idle:
                    return None
                connection = self._idle.pop()
            with suppress(OSError, ValueError, psycopg.Error):
                if not connection.closed and not _is_readable(connection.fileno()):
                    return connection
            connection.close()

    def _connect(self, give_up_at: float) -> BoundedConnection:
        began_at = time.monotonic()
        if began_at < self._silent_until:  # who asks for one collection after the other waits once
            raise StoreUnavailable("the database has just not answered in time", SERVER_HINT)
        connected_by = min(give_up_at, began_at + self.limits.connect_s)
        left = max(1, math.ceil(connected_by - began_at))
        try:
            connection = BoundedConnection.connect(
                self.dsn, autocommit=True, connect_timeout=left,
                application_name="index_store", keepalives_idle=30, keepalives_interval=10,
            )  # fmt: skip
        except psycopg.ProgrammingError as exc:  # libpq can't read the text; its message names no password
            raise StoreUnavailable(f"INDEX_URL can't be read: {exc}".strip(), ADDRESS_HINT) from None
        except psycopg.Error as exc:
            if isinstance(exc, errors.ConnectionTimeout):
                self._silent_until = time.monotonic() + self.limits.silent_s
            raise meaning_of(exc) or exc from exc
        try:
            connection.give_up_at = connected_by + _GRACE_S
            _prepare(connection)
            connection.give_up_at = give_up_at + _GRACE_S
            if self._check is not None:
                self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: BoundedConnection, *, is_sound: bool) -> None:
        with self._lock:
            if is_sound and not self._is_closed and self._process == os.getpid():
                self._idle.append(connection)
                return
        connection.close()

    def _leave_inherited(self) -> None:
        """Begin again in a forked process: closing a connection there would end the parent's."""
        with self._lock:
            if os.getpid() != self._process:
                self._inherited.append(self._idle)
                self._begin()


def _is_idle(connection: BoundedConnection) -> bool:
    """Whether it is outside of any transaction, or comes out of it."""
    if connection.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        with suppress(psycopg.Error):
            connection.rollback()
    return connection.info.transaction_status == TransactionStatus.IDLE


def _is_readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _prepare(connection: BoundedConnection) -> None:
    """Raises StoreUnavailable where pgvector is missing or too old."""
    found = connection.execute(
        "SELECT extversion, to_regtype('vector')::oid FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    if found is None or found[1] is None:
        raise StoreUnavailable(
            "the database has no extension `vector`, or it lies outside of the search_path",
            "CREATE EXTENSION vector, by a superuser or the owner of the database; name its schema in the "
            "search_path of INDEX_URL",
        )
    version = tuple(int(part) for part in found[0].split(".")[:2])
    if version < _PGVECTOR_MIN:
        raise StoreUnavailable(
            f"pgvector is {found[0]}, 0.8 or newer is needed", "ALTER EXTENSION vector UPDATE, by its owner"
        )
    register_vectors(connection, found[1])
    connection.execute("SELECT '[1]'::vector")  # loads the library, which knows its settings then
    connection.execute("; ".join(_SETTINGS).encode())


def meaning_of(error: psycopg.Error) -> IndexStoreError | None:
    """Return what an error of the server or of the way to it means for the index; None for a mistake of ours,
    which it is no use to repeat."""
    said = str(error).strip().splitlines()
    text = said[0] if said else type(error).__name__
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return ReadOnly(f"the database takes no writes: {text}", "name the primary in INDEX_URL")
    if isinstance(error, errors.QueryCanceled):
        hint = "see what keeps the database busy (pg_stat_activity), or allow more time"
        return StoreUnavailable(f"the database took too long: {text}", hint)
    if isinstance(error, errors.InsufficientPrivilege):
        hint = "give the role of INDEX_URL the rights to its schema"
        return StoreUnavailable(f"the database refuses: {text}", hint)
    if isinstance(error, errors.UndefinedTable):
        return StoreUnavailable(f"a table of the index is missing: {text}", "restart, or restore a backup")
    if isinstance(error, errors.DiskFull):
        return WriteFailed(f"the database has no room left: {text}", "free space on the database's disk")
    if not isinstance(error, psycopg.OperationalError | psycopg.InternalError | psycopg.InterfaceError):
        return None
    return StoreUnavailable(f"the database can't answer now: {text}", SERVER_HINT)
