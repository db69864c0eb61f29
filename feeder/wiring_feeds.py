"""Names the implementations at one collection's sources: tables, leases, and feeds of changes."""

from __future__ import annotations

import importlib.util
import logging
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from feeder.changes import Key
from feeder.errors import SettingsWrong
from feeder.settings import Database, Settings
from feeder.sources.change_feed import ChangeFeed, GrantedFeed, Lease, Side
from feeder.sources.lease import MariaLease, PostgresLease
from feeder.sources.mariadb.items import MariaDBItems
from feeder.sources.polling import PollingFeed
from feeder.sources.port import ItemSource, VectorSource
from feeder.sources.postgres.catalog import INTEGERS, table_info
from feeder.sources.postgres.items import PostgresItems
from feeder.sources.postgres.logical_slot import PostgresSlotFeed, SlotNames, drop_slot
from feeder.sources.postgres.vectors import PgVectorSource
from feeder.sources.session import RetryPolicy, maria_session, postgres_session
from feeder.sources.triggers.dirty_set import WatchedTable
from feeder.sources.triggers.feed import TriggerFeed, UnreadRows
from feeder.sources.triggers.statements import MariaStatements, PostgresStatements
from feeder.table_mapping import CollectionTables, Identifier

log = logging.getLogger(__name__)

STORE_ID_CHARACTERS = 12
"""Of the store's name, in names that have little room."""
NEXT_READER = "n"
"""Stands before the store's name where tables of `source.next` are read."""
SLOT_COLLECTION_MAX = 63 - len("vs__vectors_") - STORE_ID_CHARACTERS

Pause: TypeAlias = Callable[[float], object]
"""Waits for seconds, or until the feeder is to end; `threading.Event.wait` fits."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One side of one collection: its database, its table, and the column that names its rows. name: what its
    publication and triggers are named after."""

    name: str
    database: Database
    side: Side
    table: Identifier
    column: str


@dataclass(frozen=True, slots=True)
class TriggerTarget:
    """A table that triggers can be installed on, and what speaks to its database."""

    statements: PostgresStatements | MariaStatements
    watched: WatchedTable


class SourceBuilder:
    """Builds what reads and follows one collection's sources. For one thread; nothing is open yet.

    store_id: names the service's data directory, since two services may follow one source, or one twice
    (`reader_of`); empty: a service that does not name it.
    """

    def __init__(self, settings: Settings, tables: CollectionTables, store_id: str = "") -> None:
        self._settings = settings
        self._tables = tables
        self._store_id = store_id
        bounds = settings.bounds
        self._patient = RetryPolicy(bounds.source_timeout_s, bounds.retries)
        # A follower logs what is wrong after the second attempt, and waits by itself.
        self._brief = RetryPolicy(bounds.source_timeout_s, min(bounds.retries, 1))

    def vector_source(self) -> VectorSource:
        """Return a connection to the vector table. Raises SettingsWrong where none is configured."""
        tables = self._tables
        if tables.vectors is None:
            raise SettingsWrong(
                f"{tables.name}: no vector table is configured", hint="Use `sync`: it brings the content."
            )
        session = postgres_session(self._settings.vector_database(), self._patient)
        return PgVectorSource(session, tables.vectors, tables.id_kind, tables.dim)

    def item_source(self) -> ItemSource | None:
        """Return a connection to the items table, None where there is none. Raises SettingsWrong."""
        tables, database = self._tables, self._settings.items_database(self._tables)
        if database is None or tables.items is None:
            return None
        if database.engine == "mariadb":
            return MariaDBItems(maria_session(database, self._patient), tables.items, tables.id_kind)
        return PostgresItems(postgres_session(database, self._patient), tables.items, tables.id_kind)

    def lease(self, *, is_followed: bool = False) -> Lease:
        """Return the lease at the one database that all feeders of the collection share: that of the vectors,
        or else of the items. is_followed: by somebody who says soon what is wrong, and waits by himself."""
        policy = self._brief if is_followed else self._patient
        name, database = self._tables.name, self._settings.items_database(self._tables)
        if self._tables.vectors is not None or database is None:
            database = self._settings.vector_database()
        if database.engine == "mariadb":
            return MariaLease(maria_session(database, policy), name, self._store_id)
        return PostgresLease(postgres_session(database, policy), name, self._store_id)

    def feeds(self, pause: Pause) -> dict[Side, ChangeFeed]:
        """Return how each side's changes are noticed: by the best that its database grants, or as configured.
        Raises SettingsWrong where what is configured is not granted, SourceDown."""
        found: dict[Side, ChangeFeed] = {}
        try:
            for table in self.source_tables():
                found[table.side] = self._feed(table, pause)
        except BaseException:
            for feed in found.values():
                feed.close()
            raise
        return found

    def unread_rows(self, feeds: Mapping[Side, ChangeFeed]) -> Mapping[Side, int]:
        """Delete what triggers wrote on sides that are followed otherwise, if nobody reads it; return how
        many rows are left there. Drop what a follower of `source.next` left behind, where it is named no
        more: a slot keeps log until it is read."""
        if not self._tables.is_next and not self._tables.other_versions and self._store_id:
            self._drop_slots_of_next(feeds)
        left: dict[Side, int] = {}
        for table in self.source_tables():
            if feeds[table.side].tier == "triggers":
                continue
            unread = UnreadRows(self._statements(table, time.sleep), self._watched(table), self._store_id)
            try:
                left[table.side] = unread.tidy()
            except SettingsWrong as exc:  # what nobody reads is no reason not to follow
                log.warning("unread_rows_not_seen", extra={"collection": self._tables.name, "why": str(exc)})
            finally:
                unread.close()
        return left

    def _drop_slots_of_next(self, feeds: Mapping[Side, ChangeFeed]) -> None:
        for table in self.source_tables():
            if feeds[table.side].tier != "log" or table.database.engine != "postgresql":
                continue
            slot = name_of_slot(self._tables.name, table.side, f"{NEXT_READER}{self._store_id}")
            session = postgres_session(table.database, self._brief, writes=True)
            try:
                if drop_slot(session, slot):
                    log.info("unread_slot_dropped", extra={"collection": self._tables.name, "slot": slot})
            except SettingsWrong as exc:
                log.warning("unread_slot_kept", extra={"collection": self._tables.name, "why": str(exc)})
            finally:
                session.close()

    def better_tier(self, feeds: Mapping[Side, ChangeFeed]) -> str | None:
        """Return what a database has come to grant since the feeds were chosen; None: nothing better."""
        if self._settings.tier != "auto":
            return None
        for table in self.source_tables():
            present = feeds[table.side].tier
            if present == "log":
                continue
            feed = self._log_feed(table, time.sleep)
            if feed is None and present == "poll":
                feed = self._trigger_feed(table, time.sleep)
            if feed is not None:
                feed.close()
                return f"{table.side} can be followed by {feed.tier} now, not {present}"
        return None

    def trigger_targets(self, pause: Pause) -> list[TriggerTarget]:
        """Return where triggers can be installed: the vector table, and the items table if there is one; of
        `source.next` a vector table of its own alone, since each other one is watched for the collection."""
        tables = self.source_tables()
        if self._tables.is_next:
            tables = [table for table in tables if table.name != self._tables.name]
        return [TriggerTarget(self._statements(table, pause), self._watched(table)) for table in tables]

    def source_tables(self) -> list[SourceTable]:
        """Return the tables that make up the collection."""
        found: list[SourceTable] = []
        vectors, items = self._tables.vectors, self._tables.items
        if vectors is not None:
            database = self._settings.vector_database()
            name = self._tables.watched_as
            found.append(SourceTable(name, database, "vectors", vectors.table, vectors.key))
        items_database = self._settings.items_database(self._tables)
        if items_database is not None and items is not None:
            found.append(SourceTable(self._tables.name, items_database, "items", items.table, items.id))
        return found

    def _feed(self, table: SourceTable, pause: Pause) -> ChangeFeed:
        choice, name = self._settings.tier, self._tables.label
        if choice in ("auto", "log"):
            feed = self._log_feed(table, pause)
            if feed is not None:
                return feed
            if choice == "log":
                raise SettingsWrong(
                    f"{name}: {table.database} does not grant its log for the {table.side}",
                    hint="Grant what docs/FEEDER.md says under Rights, or set FEEDER_TIER=auto.",
                )
        if choice in ("auto", "triggers"):
            feed = self._trigger_feed(table, pause)
            if feed is not None:
                return feed
            if choice == "triggers":
                raise SettingsWrong(
                    f"{name}: no triggers for the {table.side} in {table.database}",
                    hint="Run `python -m feeder install-triggers` as the tables' owner, and grant what"
                    " docs/FEEDER.md says.",
                )
        return PollingFeed(self._settings.bounds.poll_s, time.monotonic, pause)

    def _trigger_feed(self, table: SourceTable, pause: Pause) -> GrantedFeed | None:
        rows_max = self._settings.bounds.changes_max
        statements = self._statements(table, pause)
        return _granted(TriggerFeed(statements, self._watched(table), rows_max, self._store_id))

    def _log_feed(self, table: SourceTable, pause: Pause) -> GrantedFeed | None:
        changes_max, read_key = self._settings.bounds.changes_max, self._read_key(table)
        name = f"vs_{table.name}_{table.side}".replace("-", "_")
        if table.database.engine == "postgresql":
            slot = name_of_slot(self._tables.name, table.side, self._store_id)
            former = name if self._store_id else None
            names = SlotNames(slot, former, name, table.table, table.column, read_key)
            session = postgres_session(table.database, self._brief, writes=True)
            return _granted(PostgresSlotFeed(session, names, changes_max, pause))
        if importlib.util.find_spec("pymysqlreplication") is None:
            about = {"collection": self._tables.name, "mend": "pip install '.[binlog]'"}
            log.info("binlog_not_installed", extra=about)
            return None
        return self._binlog_feed(table, f"{name}_{self._store_id}" if self._store_id else name)

    def _binlog_feed(self, table: SourceTable, name: str) -> GrantedFeed | None:
        # Only here: the library behind it is an extra.
        from feeder.sources.mariadb.binlog import BinlogNames, MariaBinlogFeed

        server_id = 0x40000000 | zlib.crc32(f"{name}@{table.database.name}".encode()) & 0x3FFFFFFF
        names = BinlogNames(table.table, table.column, self._read_key(table), server_id)
        session = maria_session(table.database, self._brief)
        changes_max = self._settings.bounds.changes_max
        return _granted(MariaBinlogFeed(session, table.database, names, changes_max))

    def _statements(self, table: SourceTable, pause: Pause) -> PostgresStatements | MariaStatements:
        if table.database.engine == "postgresql":
            return PostgresStatements(postgres_session(table.database, self._brief, writes=True))
        return MariaStatements(maria_session(table.database, self._brief, writes=True), pause)

    def _watched(self, table: SourceTable) -> WatchedTable:
        to_key: Callable[[str], Key | None] = self._read_key(table)
        if table.side == "vectors":
            session = postgres_session(table.database, self._brief)
            try:
                info = session.execute(lambda connection: table_info(connection, table.table, [table.column]))
            finally:
                session.close()
            to_key = int if info.columns[table.column].type in INTEGERS else str
        return WatchedTable(table.name, table.side, table.table, table.column, to_key)

    def _read_key(self, table: SourceTable) -> Callable[[Key], Key]:
        """An items table may hold a number where the collection has a text; a primary key stays as it is."""
        if table.side == "vectors":
            return lambda key: key
        return int if self._tables.id_kind == "int64" else str


def reader_of(tables: CollectionTables, store_id: str) -> str:
    """Return whose the lease, slots and rows of triggers are: two followers of one service that read the same
    tables, for two generations, are kept apart like those of two services."""
    return f"{NEXT_READER}{store_id}" if tables.is_next and store_id else store_id


def name_of_slot(collection: str, side: Side, store_id: str) -> str:
    """Return the name of a service's own slot: 63 characters at most, of a-z, 0-9 and _."""
    name = collection.replace("-", "_")
    if not store_id:
        return f"vs_{name}_{side}"
    if len(name) > SLOT_COLLECTION_MAX or name != collection:  # "a-b" and "a_b" are two
        name = f"{name[: SLOT_COLLECTION_MAX - 9]}_{zlib.crc32(collection.encode()):08x}"
    return f"vs_{name}_{side}_{store_id[:STORE_ID_CHARACTERS]}"


def _granted(feed: GrantedFeed) -> GrantedFeed | None:
    """Return the feed; None, and closed, where its database does not grant it."""
    if feed.is_granted():
        return feed
    feed.close()
    return None
