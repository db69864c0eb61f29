"""Names the implementations of what runs all the time: leases, and the feeds by which changes are noticed."""

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
from feeder.sources.polling import PollingFeed
from feeder.sources.postgres.catalog import INTEGERS, table_info
from feeder.sources.postgres.logical_slot import PostgresSlotFeed, SlotNames
from feeder.sources.session import RetryPolicy, maria_session, postgres_session
from feeder.sources.triggers.dirty_set import WatchedTable
from feeder.sources.triggers.feed import TriggerFeed, UnreadRows
from feeder.sources.triggers.statements import MariaStatements, PostgresStatements
from feeder.table_mapping import CollectionTables, Identifier

log = logging.getLogger(__name__)

STORE_ID_CHARACTERS = 12
"""Of the store's name, in names that have little room."""
SLOT_COLLECTION_MAX = 63 - len("vs__vectors_") - STORE_ID_CHARACTERS

Pause: TypeAlias = Callable[[float], object]
"""Waits for seconds, or until the feeder is to end; `threading.Event.wait` fits."""


def short_retries(settings: Settings) -> RetryPolicy:
    """Of what runs all the time: after the second attempt whoever follows says so, and waits."""
    return RetryPolicy(settings.bounds.source_timeout_s, min(settings.bounds.retries, 1))


def lease_of(settings: Settings, tables: CollectionTables, policy: RetryPolicy, store: str) -> Lease:
    """The vector database is the one place all feeders of a collection share; without one, the items'.
    store: names the service's data directory; two services may follow one source."""
    database = settings.items_database(tables)
    if tables.vectors is None and database is not None:
        if database.engine == "mariadb":
            return MariaLease(maria_session(database, policy), tables.name, store)
        return PostgresLease(postgres_session(database, policy), tables.name, store)
    return PostgresLease(postgres_session(settings.vector_database(), policy), tables.name, store)


def feeds_of(
    settings: Settings, tables: CollectionTables, pause: Pause, store: str
) -> dict[Side, ChangeFeed]:
    """Return how each side's changes are noticed: by the best that its database grants, or as configured."""
    return {
        watch.side: _feed(settings, tables, watch, pause, store)
        for watch in source_tables_of(settings, tables)
    }


def unread_rows(
    settings: Settings, tables: CollectionTables, feeds: Mapping[Side, ChangeFeed], store: str
) -> Mapping[Side, int]:
    """Delete what triggers wrote on sides that are followed otherwise, if nobody reads it; return how many
    rows are left there."""
    left: dict[Side, int] = {}
    for watch in source_tables_of(settings, tables):
        if feeds[watch.side].tier == "triggers":
            continue
        unread = UnreadRows(
            _statements(settings, watch, time.sleep), _watched(settings, tables, watch), store
        )
        try:
            left[watch.side] = unread.tidy()
        except SettingsWrong as exc:  # what nobody reads is no reason not to follow
            log.warning("unread_rows_not_seen", extra={"collection": tables.name, "why": str(exc)})
        finally:
            unread.close()
    return left


def better_tier(
    settings: Settings, tables: CollectionTables, feeds: Mapping[Side, ChangeFeed], store: str
) -> str | None:
    """Return what a database has come to grant since the feeds were chosen; None: nothing better."""
    if settings.tier != "auto":
        return None
    for watch in source_tables_of(settings, tables):
        present = feeds[watch.side].tier
        if present == "log":
            continue
        feed = _log_feed(settings, tables, watch, time.sleep, store)
        if feed is None and present == "poll":
            feed = _trigger_feed(settings, tables, watch, time.sleep, store)
        if feed is not None:
            feed.close()
            return f"{watch.side} can be followed by {feed.tier} now, not {present}"
    return None


def trigger_targets_of(settings: Settings, tables: CollectionTables, pause: Pause) -> list[TriggerTarget]:
    """Return where triggers can be installed: the vector table, and the items table if there is one."""
    return [
        TriggerTarget(_statements(settings, watch, pause), _watched(settings, tables, watch))
        for watch in source_tables_of(settings, tables)
    ]


def source_tables_of(settings: Settings, tables: CollectionTables) -> list[SourceTable]:
    """Return the tables that make up a collection."""
    watches: list[SourceTable] = []
    if tables.vectors is not None:
        database = settings.vector_database()
        watches.append(SourceTable(database, "vectors", tables.vectors.table, tables.vectors.key))
    items = settings.items_database(tables)
    if items is not None and tables.items is not None:
        watches.append(SourceTable(items, "items", tables.items.table, tables.items.id))
    return watches


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One side of one collection: its database, its table, and the column that names its rows."""

    database: Database
    side: Side
    table: Identifier
    column: str


@dataclass(frozen=True, slots=True)
class TriggerTarget:
    statements: PostgresStatements | MariaStatements
    watched: WatchedTable


def _feed(
    settings: Settings, tables: CollectionTables, watch: SourceTable, pause: Pause, store: str
) -> ChangeFeed:
    choice, bounds = settings.tier, settings.bounds
    if choice in ("auto", "log"):
        feed = _log_feed(settings, tables, watch, pause, store)
        if feed is not None:
            return feed
        if choice == "log":
            raise SettingsWrong(
                f"{tables.name}: {watch.database} does not grant its log for the {watch.side}: docs/FEEDER.md"
            )
    if choice in ("auto", "triggers"):
        dirty = _trigger_feed(settings, tables, watch, pause, store)
        if dirty is not None:
            return dirty
        if choice == "triggers":
            raise SettingsWrong(
                f"{tables.name}: no triggers for the {watch.side} in {watch.database}:"
                " `python -m feeder install-triggers`"
            )
    return PollingFeed(bounds.poll_s, time.monotonic, pause)


def _trigger_feed(
    settings: Settings, tables: CollectionTables, watch: SourceTable, pause: Pause, store: str
) -> GrantedFeed | None:
    dirty = TriggerFeed(
        _statements(settings, watch, pause),
        _watched(settings, tables, watch),
        settings.bounds.changes_max,
        store,
    )
    if dirty.is_granted():
        return dirty
    dirty.close()
    return None


def _log_feed(
    settings: Settings, tables: CollectionTables, watch: SourceTable, pause: Pause, store: str
) -> GrantedFeed | None:
    policy, changes_max = short_retries(settings), settings.bounds.changes_max
    name = f"vs_{tables.name}_{watch.side}".replace("-", "_")
    read_key = _read_key(tables, watch)
    if watch.database.engine == "postgresql":
        slot_name = name_of_slot(tables.name, watch.side, store)
        former = name if store else None
        names = SlotNames(slot_name, former, name, watch.table, watch.column, read_key)
        session = postgres_session(watch.database, policy, writes=True)
        slot = PostgresSlotFeed(session, names, changes_max, pause)
        if slot.is_granted():
            return slot
        slot.close()
        return None
    if importlib.util.find_spec("pymysqlreplication") is None:
        log.info("binlog_not_installed", extra={"collection": tables.name, "mend": "pip install '.[binlog]'"})
        return None
    return _binlog_feed(settings, watch, f"{name}_{store}" if store else name, read_key)


def name_of_slot(collection: str, side: Side, store: str) -> str:
    """Return the name of a service's own slot: 63 characters at most, of a-z, 0-9 and _."""
    name = collection.replace("-", "_")
    if not store:
        return f"vs_{name}_{side}"
    if len(name) > SLOT_COLLECTION_MAX or name != collection:  # "a-b" and "a_b" are two
        name = f"{name[: SLOT_COLLECTION_MAX - 9]}_{zlib.crc32(collection.encode()):08x}"
    return f"vs_{name}_{side}_{store[:STORE_ID_CHARACTERS]}"


def _binlog_feed(
    settings: Settings, watch: SourceTable, name: str, read_key: Callable[[Key], Key]
) -> GrantedFeed | None:
    # Only here: the library behind it is an extra.
    from feeder.sources.mariadb.binlog import BinlogNames, MariaBinlogFeed

    server_id = 0x40000000 | zlib.crc32(f"{name}@{watch.database.name}".encode()) & 0x3FFFFFFF
    names = BinlogNames(watch.table, watch.column, read_key, server_id)
    session = maria_session(watch.database, short_retries(settings))
    feed = MariaBinlogFeed(session, watch.database, names, settings.bounds.changes_max)
    if feed.is_granted():
        return feed
    feed.close()
    return None


def _statements(settings: Settings, watch: SourceTable, pause: Pause) -> PostgresStatements | MariaStatements:
    policy = short_retries(settings)
    if watch.database.engine == "postgresql":
        return PostgresStatements(postgres_session(watch.database, policy, writes=True))
    return MariaStatements(maria_session(watch.database, policy, writes=True), pause)


def _watched(settings: Settings, tables: CollectionTables, watch: SourceTable) -> WatchedTable:
    to_key: Callable[[str], Key | None] = _read_key(tables, watch)
    if watch.side == "vectors":
        session = postgres_session(watch.database, short_retries(settings))
        try:
            info = session.execute(lambda connection: table_info(connection, watch.table, [watch.column]))
        finally:
            session.close()
        to_key = int if info.columns[watch.column].type in INTEGERS else str
    return WatchedTable(tables.name, watch.side, watch.table, watch.column, to_key)


def _read_key(tables: CollectionTables, watch: SourceTable) -> Callable[[Key], Key]:
    """An items table may hold a number where the collection has a text; a primary key is taken as it is."""
    if watch.side == "vectors":
        return lambda key: key
    return int if tables.id_kind == "int64" else str
