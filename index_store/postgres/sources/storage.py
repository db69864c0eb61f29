"""A database as the storage of an index: what can be told of it without opening a collection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg

from index_store.errors import IndexStoreError, StoreUnavailable
from index_store.footprint import DiskSpace
from index_store.postgres.connections import SERVER_HINT, Connections, PostgresLimits
from index_store.types import GenerationIdentity

log = logging.getLogger(__name__)

_READ_S = 5.0
_AWAY_S = 2.0
"""A server that did not answer is not waited for again: a start asks for each collection."""
_IDENTITY = (
    "SELECT g.embedding_version, g.dim, g.origin FROM collection c JOIN generation g ON g.number = c.current "
    "WHERE c.name = %s"
)
_ANY_BEGUN = "SELECT EXISTS(SELECT 1 FROM collection WHERE current IS NOT NULL)"


class Database:
    """Fits `index_store.port.IndexStorage`. Keeps no connection open."""

    def __init__(self, dsn: str, clock: Callable[[], float] = time.monotonic) -> None:
        """dsn: a URL or the key words of libpq. Opens nothing. clock: seconds that only go forward."""
        self._dsn = dsn
        self._clock = clock
        self._away_until = 0.0
        self._reason = ""
        self._store_id = ""

    def store_id(self) -> str:
        """See `IndexStorage`. Empty before an index was opened over the database, and while that is away."""
        if not self._store_id:
            try:
                (self._store_id,) = self._read("SELECT store_id FROM index_schema") or ("",)
            except IndexStoreError as exc:
                log.warning("store_not_named", extra={"error": str(exc)})
        return self._store_id

    def current_identity(self, collection: str) -> GenerationIdentity | None:
        """See `IndexStorage`."""
        try:
            found = self._read(_IDENTITY, collection)
        except IndexStoreError as exc:
            log.warning("generation_not_identified", extra={"collection": collection, "error": str(exc)})
            return None
        return None if found is None else GenerationIdentity(*found)

    def is_empty(self) -> bool:
        """See `IndexStorage`."""
        found = self._read(_ANY_BEGUN)
        return found is None or not found[0]

    def quarantined_bytes(self) -> Mapping[str, Sequence[int]]:
        """See `IndexStorage`. A generation is dropped with the step that takes its role."""
        return {}

    def disk_space(self) -> DiskSpace:
        """See `IndexStorage`. The disk is the server's."""
        return DiskSpace(None, None)

    def _read(self, query: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row; None where there is none, or no table yet. Raises StoreUnavailable."""
        if self._clock() < self._away_until:
            raise StoreUnavailable(self._reason, SERVER_HINT)
        connections = Connections(self._dsn, PostgresLimits(connections_max=1))
        try:
            with connections.using(_READ_S) as connection:
                try:
                    return connection.execute(query.encode(), values).fetchone()
                except psycopg.errors.UndefinedTable:
                    return None
        except IndexStoreError as exc:
            self._away_until, self._reason = self._clock() + _AWAY_S, str(exc)
            raise
        finally:
            connections.close()
