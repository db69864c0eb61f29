"""Only one feeder a collection: a lock that the source database keeps as long as our connection lives.

A feeder that loses the connection may still have a write under way. That write cannot undo a newer feeder's:
every write carries a source_version that was taken before its rows were read.
"""

from __future__ import annotations

import hashlib
from typing import Any

import psycopg
import pymysql

from feeder.errors import AnotherFeeder
from feeder.sources.session import MariaSession, PostgresSession

IDLE_SECONDS_MAX = 600
"""Longer than a full comparison, during which nobody asks for the lease."""


class PostgresLease:
    """Fits sync.Lease: an advisory lock. Needs no right but CONNECT."""

    def __init__(self, session: PostgresSession, collection: str) -> None:
        self._session = session
        self._collection = collection
        digest = hashlib.sha256(b"vector feeder\0" + collection.encode()).digest()
        self._key = int.from_bytes(digest[:8], "big", signed=True)
        self._backend: int | None = None

    def hold(self) -> None:
        def lock(connection: psycopg.Connection[Any]) -> tuple[int, bool]:
            backend = connection.info.backend_pid
            if backend == self._backend:
                connection.execute("SELECT 1")
                return backend, True
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
            return backend, bool(row and row[0])

        backend, is_held = self._session.run(lock, is_quick=True)
        if not is_held:
            self.release()
            raise AnotherFeeder(f"{self._collection}: another feeder holds the lease; this one stops")
        self._backend = backend

    def release(self) -> None:
        self._backend = None
        self._session.close()


class MariaLease:
    """Fits sync.Lease, where no PostgreSQL takes part: a named lock. Needs no right at all."""

    def __init__(self, session: MariaSession, collection: str) -> None:
        self._session = session
        self._collection = collection
        self._name = "vs_" + hashlib.sha256(b"vector feeder\0" + collection.encode()).hexdigest()[:40]
        self._thread: int | None = None

    def hold(self) -> None:
        def lock(connection: pymysql.Connection[Any]) -> tuple[int, bool]:
            thread = int(connection.thread_id())  # type: ignore[no-untyped-call]
            with connection.cursor() as cursor:
                if thread == self._thread:
                    cursor.execute("SELECT 1")
                    return thread, True
                # A server that never hears of us again must not keep the lock for hours.
                cursor.execute("SET SESSION wait_timeout = %s", (IDLE_SECONDS_MAX,))
                cursor.execute("SELECT GET_LOCK(CONCAT(%s, ':', LEFT(MD5(DATABASE()), 8)), 0)", (self._name,))
                row = cursor.fetchone()
            return thread, bool(row and row[0])

        thread, is_held = self._session.run(lock, is_quick=True)
        if not is_held:
            self.release()
            raise AnotherFeeder(f"{self._collection}: another feeder holds the lease; this one stops")
        self._thread = thread

    def release(self) -> None:
        self._thread = None
        self._session.close()
