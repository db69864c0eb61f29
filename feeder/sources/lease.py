"""Only one feeder for a collection of a service: a lock that the source database keeps as long as our
connection lives. Another service's feeder takes another lock, so that two services can follow one source.

Releases before this one took a lock that was the same for every service. It is looked at once, so that an
older feeder that still runs is not overlooked.

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

_HERE = "CONCAT(%s, ':', LEFT(MD5(DATABASE()), 8))"
_OTHERS_LOCK = """
SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid() AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND classid::bigint = %s AND objid::bigint = %s
"""
IDLE_SECONDS_MAX = 600
"""Longer than a full comparison, during which nobody asks for the lease."""


def former_key(collection: str) -> bytes:
    """Return what older releases named the lock after: the collection alone."""
    return hashlib.sha256(b"vector feeder\0" + collection.encode()).digest()


def key_of(collection: str, store: str) -> bytes:
    """Return what the lock is named after. store: the service's; empty: one that does not name it."""
    if not store:
        return former_key(collection)
    return hashlib.sha256(f"vector feeder\0{collection}\0{store}".encode()).digest()


class PostgresLease:
    """Fits sources.change_feed.Lease: an advisory lock. Needs no right but CONNECT."""

    def __init__(self, session: PostgresSession, collection: str, store: str) -> None:
        self._session = session
        self._collection = collection
        self._key = _number(key_of(collection, store))
        self._former = _number(former_key(collection)) if store else None
        self._backend: int | None = None

    def hold(self) -> None:
        """Take the advisory lock, or check that the connection still has it."""

        def lock(connection: psycopg.Connection[Any]) -> tuple[int, bool, bool]:
            backend = connection.info.backend_pid
            if backend == self._backend:
                connection.execute("SELECT 1")
                return backend, True, False
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
            return backend, bool(row and row[0]), self._is_older_at_work(connection)

        backend, is_held, is_older_at_work = self._session.execute(lock, is_quick=True)
        if not is_held or is_older_at_work:
            self.release()
            raise _another(self._collection, is_older_at_work)
        self._backend = backend

    def release(self) -> None:
        """End the connection, and the lock with it."""
        self._backend = None
        self._session.close()

    def _is_older_at_work(self, connection: psycopg.Connection[Any]) -> bool:
        if self._former is None:
            return False
        high, low = (self._former >> 32) & 0xFFFFFFFF, self._former & 0xFFFFFFFF
        return connection.execute(_OTHERS_LOCK, (high, low)).fetchone() is not None


class MariaLease:
    """Fits sources.change_feed.Lease, where no PostgreSQL takes part: a named lock. Needs no right at all."""

    def __init__(self, session: MariaSession, collection: str, store: str) -> None:
        self._session = session
        self._collection = collection
        self._name = "vs_" + key_of(collection, store).hex()[:40]
        self._former = "vs_" + former_key(collection).hex()[:40] if store else None
        self._thread: int | None = None

    def hold(self) -> None:
        """Take the named lock, or check that the connection still has it."""

        def lock(connection: pymysql.Connection[Any]) -> tuple[int, bool, bool]:
            thread = int(connection.thread_id())  # type: ignore[no-untyped-call]
            with connection.cursor() as cursor:
                if thread == self._thread:
                    cursor.execute("SELECT 1")
                    return thread, True, False
                # A server that never hears of us again must not keep the lock for hours.
                cursor.execute("SET SESSION wait_timeout = %s", (IDLE_SECONDS_MAX,))
                cursor.execute(f"SELECT GET_LOCK({_HERE}, 0)", (self._name,))
                row = cursor.fetchone()
                cursor.execute(f"SELECT IS_USED_LOCK({_HERE})", (self._former or "",))
                former = cursor.fetchone()
            return thread, bool(row and row[0]), bool(self._former and former and former[0])

        thread, is_held, is_older_at_work = self._session.execute(lock, is_quick=True)
        if not is_held or is_older_at_work:
            self.release()
            raise _another(self._collection, is_older_at_work)
        self._thread = thread

    def release(self) -> None:
        """End the connection, and the lock with it."""
        self._thread = None
        self._session.close()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)


def _another(collection: str, is_older: bool) -> AnotherFeeder:
    if is_older:
        return AnotherFeeder(
            f"{collection}: a feeder of an older release follows it",
            hint="Stop that one first: it takes the same lock for every service.",
        )
    return AnotherFeeder(f"{collection}: another feeder of this service holds the lease")
