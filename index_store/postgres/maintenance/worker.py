"""Looks after an index in PostgreSQL beside whoever searches and writes: seals generations and prunes them.

To seal is to make PostgreSQL gather statistics (ANALYZE), to make the graph, and to measure the breadth that
it is searched with. Any number of processes may call this; a lock of the database lets one of them work at a
time. Nothing here keeps a search or a write waiting, and all of it may be killed at any moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import errors

from index_store.errors import IndexStoreError
from index_store.postgres.connections import BoundedConnection, Connections, PostgresLimits
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.maintenance.graphs import (
    RECALL_WANTED,
    build_graph,
    measured_ef,
    rebuild_graph,
)
from index_store.postgres.maintenance.history import VersionHistory
from index_store.postgres.opening import has_schema
from index_store.postgres.schema import GRAPH_DIM_MAX, rows_table
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.searches.row_fetcher import GRAPH_FROM
from index_store.postgres.writes.steps import drop_leftovers
from index_store.types import CollectionSpec

log = logging.getLogger(__name__)

_LOCK = "SELECT pg_{}lock(hashtext(current_schema()), hashtext('maintenance of every collection'))"
_PASS_S = 86_400.0
"""Of one look, which may make a graph of many millions of rows."""


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    """graph_from: live items from which on a graph is made. quiet_s: how long nothing was written before it
    is, for rows are read in faster without one; graph_at_once: so many live items don't wait for that.
    history_s: how long pages can be turned. grace_s: longer than a search takes. changed_share: of a
    generation, new since statistics were gathered or live since the graph was measured, that lets it be done
    again. queries: that it is measured with. look_s: between two looks."""

    graph_from: int = GRAPH_FROM
    quiet_s: float = 10.0
    graph_at_once: int = 50_000
    history_s: float = 900.0
    grace_s: float = 120.0
    changed_share: float = 0.2
    queries: int = 200
    look_s: float = 2.0


class _Sealed(NamedTuple):
    """What was done for a generation. As of the columns of the same names."""

    sealed_head: int
    measured_live: int


class DatabaseMaintenance:
    """`maintain_once` and `maintain_forever` belong to one thread."""

    def __init__(
        self,
        dsn: str,
        limits: DatabaseLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """dsn: as of `PostgresIndex`. Opens nothing. clock: seconds that only go forward."""
        self._limits = limits or DatabaseLimits()
        self._connections = Connections(dsn, PostgresLimits(connections_max=1), has_schema)
        self._clock = clock
        self._history = VersionHistory(self._limits.history_s, self._limits.grace_s, clock)
        self._changed: dict[int, tuple[int, float]] = {}
        """Of a generation: its head, and since when it is that."""

    def close(self) -> None:
        """Close the connection."""
        self._connections.close()

    def maintain_forever(self, stop: threading.Event) -> None:
        """Look again and again. A server that is away is waited for; why is logged once."""
        told: str | None = None
        while not stop.is_set():
            try:
                self.maintain_once()
                told = None
            except IndexStoreError as exc:
                if str(exc) != told:
                    log.warning("maintenance_interrupted", extra={"error": str(exc), "hint": exc.hint})
                told = str(exc)
            stop.wait(self._limits.look_s)

    def maintain_once(self) -> bool:
        """Look at every generation once and do what it needs; return False where another process does, or no
        index was opened yet. Raises StoreUnavailable, ReadOnly, UnknownFormat."""
        with self._connections.using(_PASS_S) as connection:
            if connection.execute(_LOCK.format("try_advisory_").encode()).fetchone() != (True,):
                return False
            try:
                for spec in _collections(connection):
                    self._look_after(connection, spec)
            except errors.UndefinedTable:
                return False
            finally:
                if not connection.broken:
                    connection.execute(_LOCK.format("advisory_un").encode())
        return True

    def _look_after(self, connection: BoundedConnection, spec: CollectionSpec) -> None:
        drop_leftovers(connection, spec)
        record = read_collection(connection, spec)
        for generation in record.in_order:
            named = {"collection": spec.name, "generation": generation.name}
            try:
                self._seal(connection, record.spec_of(generation), generation, named)
                removed = self._history.prune(connection, generation.number, generation.head)
            except errors.UndefinedTable:
                continue  # another step has dropped it meanwhile
            except (errors.ProgramLimitExceeded, errors.OutOfMemory, errors.DiskFull) as exc:
                log.error("generation_not_sealed", extra={**named, "error": str(exc)})
                continue
            if removed:
                log.info("versions_pruned", extra={**named, "rows": removed})

    def _seal(
        self,
        connection: BoundedConnection,
        spec: CollectionSpec,
        generation: GenerationRecord,
        named: dict[str, str],
    ) -> None:
        done = _sealed(connection, generation.number)
        written = generation.head - done.sealed_head
        if written > self._limits.changed_share * done.sealed_head:
            connection.execute(f"ANALYZE {rows_table(generation.number)}".encode())
            _store(connection, generation.number, sealed_head=generation.head)
        if not self._needs_graph(generation):
            return
        began = time.perf_counter()
        is_new = build_graph(connection, spec, generation)
        if is_new:
            log.info("graph_made", extra={**named, "seconds": round(time.perf_counter() - began, 1)})
        change = abs(generation.live - done.measured_live)
        if not is_new and generation.ef and change <= self._limits.changed_share * done.measured_live:
            return
        breadth = measured_ef(connection, spec, generation, self._limits.queries)
        if breadth.recall < RECALL_WANTED and not is_new:
            rebuild_graph(connection, generation)
            breadth = measured_ef(connection, spec, generation, self._limits.queries)
        _store(connection, generation.number, ef=breadth.ef, measured_live=generation.live)
        log.info("graph_measured", extra={**named, "ef": breadth.ef, "recall": round(breadth.recall, 4)})

    def _needs_graph(self, generation: GenerationRecord) -> bool:
        """Whether there is one, or it is time to make it."""
        if generation.dim > GRAPH_DIM_MAX:
            return False
        head, since = self._changed.get(generation.number, (-1, 0.0))
        if head != generation.head:
            since = self._clock()
            self._changed[generation.number] = generation.head, since
        if generation.ef:
            return True
        is_quiet = self._clock() - since >= self._limits.quiet_s
        return generation.live >= self._limits.graph_from and (
            is_quiet or generation.live >= self._limits.graph_at_once
        )


def _collections(connection: BoundedConnection) -> list[CollectionSpec]:
    """All of them; the dim is that of no generation."""
    found = connection.execute("SELECT name, id_kind, metric FROM collection ORDER BY name").fetchall()
    return [CollectionSpec(name, id_kind, 1, metric) for name, id_kind, metric in found]


def _sealed(connection: BoundedConnection, number: int) -> _Sealed:
    found = connection.execute(
        "SELECT sealed_head, measured_live FROM generation WHERE number = %s", (number,)
    ).fetchone()
    return _Sealed(0, 0) if found is None else _Sealed(*found)


def _store(connection: BoundedConnection, number: int, **values: int) -> None:
    columns = ", ".join(f"{name} = %s" for name in values)
    connection.execute(
        f"UPDATE generation SET {columns} WHERE number = %s".encode(), (*values.values(), number)
    )
