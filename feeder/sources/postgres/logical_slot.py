"""Changes of a PostgreSQL table out of its log: a logical slot, read through SQL.

Needs `wal_level=logical`, a publication of the table (made by its owner) and a role with REPLICATION. Peeking
leaves everything in the slot until `acknowledge` advances it, so a crash at any moment repeats changes and
loses none. A slot keeps the server's log from being recycled while nobody reads it: watch `backlog`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from feeder.changes import Key
from feeder.errors import FeedLost, SettingsWrong, SourceDown
from feeder.sources.change_feed import Backlog, ChangeBatch, Tier
from feeder.sources.postgres import pgoutput
from feeder.sources.postgres.pgoutput import (
    Commit,
    Delete,
    Insert,
    MalformedMessage,
    Message,
    Relation,
    Row,
    Truncate,
    Update,
)  # fmt: skip
from feeder.sources.session import PostgresSession
from feeder.table_mapping import Identifier

log = logging.getLogger(__name__)

T = TypeVar("T")

IDLE_ADVANCE_BYTES = 16 * 1024 * 1024
_IN_USE_HINT = (
    "A statement of a feeder that was killed ends by itself. pg_stat_activity tells who else it is: that one"
    " needs a slot of its own."
)
_SLOT = """
SELECT plugin, database = current_database(), COALESCE(wal_status, ''), confirmed_flush_lsn::text,
       COALESCE(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn), 0)::int8
FROM pg_replication_slots WHERE slot_name = %s
"""
_FREE_SLOT = """
SELECT FROM pg_replication_slots WHERE slot_name = %s AND plugin = 'pgoutput' AND NOT active
AND database = current_database() AND COALESCE(wal_status, '') <> 'lost'
"""
_SERVER = """
SELECT (SELECT system_identifier FROM pg_control_system())::text,
       substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8),
       (SELECT r.oid FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
        WHERE p.pubname = %(publication)s AND r.prrelid = to_regclass(%(table)s)
        UNION ALL SELECT p.oid FROM pg_publication AS p
        WHERE p.pubname = %(publication)s AND p.puballtables LIMIT 1)::text,
       to_regclass(%(table)s)::oid::text, pg_current_wal_flush_lsn()::text
"""
_PEEK = """
SELECT data FROM pg_logical_slot_peek_binary_changes(
  %s, NULL, %s, 'proto_version', '1', 'publication_names', %s, 'binary', 'true')
"""
_GRANTED = """
SELECT current_setting('wal_level') = 'logical'
   AND EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolreplication OR rolsuper))
   AND EXISTS (SELECT FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %s
               LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
                     AND (c.relreplident = 'd' AND i.indisprimary
                          OR c.relreplident = 'i' AND i.indisreplident)
               WHERE c.oid = to_regclass(%s) AND (c.relreplident = 'f' OR i.indexrelid IS NOT NULL))
   AND EXISTS (SELECT FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
               WHERE p.pubname = %s AND r.prrelid = to_regclass(%s)
               UNION ALL SELECT FROM pg_publication WHERE pubname = %s AND puballtables)
"""


@dataclass(frozen=True, slots=True)
class SlotNames:
    """The slot and the publication of one side of one collection, the column that keys are read from, and
    what a key becomes. former: the slot's name before slots bore the service's, None where that is `slot`."""

    slot: str
    former: str | None
    publication: str
    table: Identifier
    column: str
    read_key: Callable[[Key], Key]


def drop_slot(session: PostgresSession, slot: str) -> bool:
    """Drop a slot of this database that nobody reads; return whether there was one. Raises SourceDown,
    SettingsWrong where this role may not."""

    def drop(connection: psycopg.Connection[Any]) -> bool:
        if connection.execute(_FREE_SLOT, (slot,)).fetchone() is None:
            return False
        connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
        return True

    try:
        return session.execute(drop)
    except psycopg.Error as exc:
        raise SettingsWrong(f"slot {slot!r} can't be dropped: {exc}") from exc


class _SlotReading:
    """What one peek has come across so far, of table `oid`. end_lsn: of the last whole transaction."""

    def __init__(self, oid: int, column: str, read_key: Callable[[Key], Key]) -> None:
        self._oid = oid
        self._column = column
        self._read_key = read_key
        self._position = 0
        self._type_oid = 0
        self.keys: dict[Key, None] = {}
        self.gap: str | None = None
        self.end_lsn: int | None = None
        self.committed_at_s: float | None = None

    def add_message(self, message: Message) -> None:
        if isinstance(message, Commit):
            self.end_lsn = message.end_lsn
            self.committed_at_s = self.committed_at_s or message.committed_at_s
        elif isinstance(message, Truncate):
            if self._oid in message.oids:
                self.gap = "the table was truncated"
        elif isinstance(message, Relation | Insert | Update | Delete) and message.oid == self._oid:
            self._add_own_message(message)

    def _add_own_message(self, message: Relation | Insert | Update | Delete) -> None:
        if isinstance(message, Relation):
            self._set_columns(message)
        elif isinstance(message, Insert):
            self._add(message.new)
        elif isinstance(message, Delete):
            self._add(message.old)
        else:
            self._add(message.new)
            if message.old is not None:
                self._add(message.old)

    def _set_columns(self, relation: Relation) -> None:
        position = relation.position_of(self._column)
        if position is None or not relation.columns[position].is_key:
            raise MalformedMessage(
                f"column {self._column!r} is not published, or not part of the table's REPLICA IDENTITY:"
                " deletes would go unseen"
            )
        self._position, self._type_oid = position, relation.columns[position].type_oid

    def _add(self, row: Row) -> None:
        key = pgoutput.decode(row[self._position], self._type_oid)
        if key is not None:
            self.keys[self._read_key(key)] = None


class PostgresSlotFeed:
    """Fits sources.change_feed.ChangeFeed."""

    tier: Tier = "log"

    def __init__(
        self, session: PostgresSession, names: SlotNames, changes_max: int, pause: Callable[[float], object]
    ) -> None:
        self._session = session
        self._names = names
        self._changes_max = changes_max
        self._pause = pause
        self._oid = 0
        self._server = ""
        self._confirmed = 0

    def is_granted(self) -> bool:
        """Tell whether the database lets this role read its log, publishes the table, and names the key of
        what is deleted."""
        names = self._names

        def ask(connection: psycopg.Connection[Any]) -> bool:
            table = sql.Identifier(*names.table).as_string(connection)
            parameters = (names.column, table, names.publication, table, names.publication)
            row = connection.execute(_GRANTED, parameters).fetchone()
            return row is not None and bool(row[0])

        return self._session.execute(ask)

    def open(self, bookmark: str | None) -> None:
        """Resume the slot at the bookmark. Raises FeedLost where slot, server, table or publication are not
        those that the bookmark was written for, or the server is no longer where it was."""
        slot = self._names.slot
        self._read_table_oid()
        server, now = self._server_position()
        stored = _parsed_bookmark(bookmark)
        if stored is not None and stored.slot not in (slot, ""):
            raise FeedLost(
                f"the bookmark is of slot {stored.slot!r}, ours is {slot!r}: another service's data"
            )
        if stored is not None and not stored.slot and self._names.former is not None:
            self._adopt_former_slot(self._names.former)
        found = self._run(lambda connection: connection.execute(_SLOT, (slot,)).fetchone())
        if found is None:
            raise FeedLost(f"there is no slot {slot!r}: it was never made, or dropped")
        plugin, is_here, wal_status, confirmed_text, _ = found
        if plugin != "pgoutput" or not is_here:
            raise FeedLost(f"slot {slot!r} is of another plugin or database")
        if wal_status == "lost" or confirmed_text is None:
            raise FeedLost(f"slot {slot!r} is lost: the server removed log that was not read yet")
        if stored is None:
            raise FeedLost(f"the service holds no bookmark for slot {slot!r}")
        stored_lsn = stored.lsn
        if stored.server != server:
            raise FeedLost(f"slot {slot!r} is on server {server}, the bookmark is of {stored.server}")
        self._confirmed = pgoutput.parse_lsn(confirmed_text)
        if stored_lsn < self._confirmed:
            raise FeedLost(
                f"slot {slot!r} begins at {confirmed_text}, the service is at"
                f" {pgoutput.format_lsn(stored_lsn)}: the slot was made again, or the service went back to a"
                " backup"
            )
        if stored_lsn > now:
            raise FeedLost(f"the server is at {pgoutput.format_lsn(now)}, before the bookmark: it went back")
        self._server = server

    def restart(self) -> str:
        """Drop the slot, make it again, and return where it begins."""
        slot = self._names.slot
        self._read_table_oid()
        self._server, _ = self._server_position()

        def create(connection: psycopg.Connection[Any]) -> str:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s AND database = current_database() AND plugin = 'pgoutput'",
                (slot,),
            )
            row = connection.execute(
                "SELECT lsn::text FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,)
            ).fetchone()
            assert row is not None
            return str(row[0])

        self._confirmed = pgoutput.parse_lsn(self._run(create))
        return self._bookmark(self._confirmed)

    def read(self) -> ChangeBatch:
        """Return the keys of whole transactions behind what was acknowledged, without advancing the slot."""
        server, before = self._server_position()
        if server != self._server:
            raise FeedLost(f"slot {self._names.slot!r} was on {self._server}, it is on {server} now")
        found = self._run(self._peek)
        if found.end_lsn is not None:
            return ChangeBatch(
                keys=list(found.keys),
                gap=found.gap,
                bookmark=self._bookmark(found.end_lsn),
                receipt=found.end_lsn,
                is_full=len(found.keys) >= self._changes_max,
                committed_at_s=found.committed_at_s,
            )
        if before - self._confirmed > IDLE_ADVANCE_BYTES:
            # Nothing of ours in all that log: let the server recycle it. A transaction still open now
            # commits behind `before`, and is sent whole when it does.
            return ChangeBatch(bookmark=self._bookmark(before), receipt=before)
        return ChangeBatch()

    def acknowledge(self, batch: ChangeBatch) -> None:
        """Advance the slot behind this batch: the server may recycle the log before it."""
        if batch.receipt is None or batch.receipt <= self._confirmed:
            return
        lsn = pgoutput.format_lsn(batch.receipt)
        statement = "SELECT end_lsn::text FROM pg_replication_slot_advance(%s, %s::pg_lsn)"
        self._run(lambda connection: connection.execute(statement, (self._names.slot, lsn)).fetchone())
        self._confirmed = batch.receipt

    def wait_for_changes(self, seconds: float) -> None:
        """Wait `seconds`: a slot read through SQL wakes nobody."""
        self._pause(seconds)

    def backlog(self) -> Backlog:
        """Return how many bytes of log the server keeps for the slot. Raises FeedLost where it is gone."""
        slot = self._names.slot
        found = self._run(lambda connection: connection.execute(_SLOT, (slot,)).fetchone())
        if found is None or found[2] == "lost":
            raise FeedLost(f"slot {slot!r} is gone or lost")
        return Backlog(retained_bytes=int(found[4]))

    def close(self) -> None:
        """Let the connection go; the slot stays."""
        self._session.close()

    def _adopt_former_slot(self, former: str) -> None:
        """Copy `former` to a slot of our own, at the same position, and drop that one: it was this service's,
        since the service holds its position."""
        slot = self._names.slot

        def copy(connection: psycopg.Connection[Any]) -> bool:
            found = connection.execute(_FREE_SLOT, (former,)).fetchone()
            if found is None:
                return False
            if connection.execute(_FREE_SLOT, (slot,)).fetchone() is None:
                connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", (former, slot))
            connection.execute("SELECT pg_drop_replication_slot(%s)", (former,))
            return True

        if self._run(copy):
            log.info("slot_renamed", extra={"former": former, "slot": slot})

    def _peek(self, connection: psycopg.Connection[Any]) -> _SlotReading:
        names = self._names
        reading = _SlotReading(self._oid, names.column, names.read_key)
        parameters = (names.slot, self._changes_max, names.publication)
        with connection.cursor(binary=True) as cursor:
            # Row by row: one transaction may be larger than memory, its keys are not.
            for (data,) in cursor.stream(_PEEK, parameters):
                reading.add_message(pgoutput.parse(data))
        return reading

    def _read_table_oid(self) -> None:
        def ask(connection: psycopg.Connection[Any]) -> Sequence[Any] | None:
            table = sql.Identifier(*self._names.table).as_string(connection)
            return connection.execute("SELECT to_regclass(%s)::oid", (table,)).fetchone()

        row = self._run(ask)
        if row is None or row[0] is None:
            raise SettingsWrong(f"no table {'.'.join(self._names.table)}")
        self._oid = int(row[0])

    def _server_position(self) -> tuple[str, int]:
        """Return the name of the log we read, and the position it has reached. Other names are another
        server, another timeline, and a table or publication made again: a server leaves changes out of the
        log in silence while a table is not published. Raises FeedLost while it is not."""

        def ask(connection: psycopg.Connection[Any]) -> Sequence[Any] | None:
            table = sql.Identifier(*self._names.table).as_string(connection)
            parameters = {"publication": self._names.publication, "table": table}
            return connection.execute(_SERVER, parameters).fetchone()

        row = self._run(ask, is_quick=True)
        assert row is not None
        if row[2] is None:
            raise FeedLost(f"the publication {self._names.publication!r} does not hold our table")
        return "/".join(row[:4]), pgoutput.parse_lsn(row[4])

    def _bookmark(self, lsn: int) -> str:
        position = {"server": self._server, "lsn": pgoutput.format_lsn(lsn), "slot": self._names.slot}
        return json.dumps(position)

    def _run(self, work: Callable[[psycopg.Connection[Any]], T], *, is_quick: bool = False) -> T:
        slot = self._names.slot
        try:
            return self._session.execute(work, is_quick=is_quick)
        except SourceDown as exc:  # after all attempts: these pass for a link that broke
            if isinstance(exc.__cause__, psycopg.errors.ObjectNotInPrerequisiteState):
                raise FeedLost(f"slot {slot!r}: {str(exc.__cause__).strip()}") from exc
            if isinstance(exc.__cause__, psycopg.errors.ObjectInUse):
                raise SourceDown(f"{exc.__cause__}: another connection reads it", hint=_IN_USE_HINT) from exc
            raise
        except psycopg.errors.UndefinedObject as exc:
            raise FeedLost(f"slot {slot!r}: {str(exc).strip()}") from exc
        except MalformedMessage as exc:
            raise FeedLost(f"slot {slot!r}: {exc}") from exc
        except psycopg.Error as exc:
            raise SettingsWrong(f"slot {slot!r}: {str(exc).strip()}") from exc


@dataclass(frozen=True, slots=True)
class _Bookmark:
    """slot: empty where a release wrote it that had one slot for every service."""

    server: str
    lsn: int
    slot: str


def _parsed_bookmark(bookmark: str | None) -> _Bookmark | None:
    if bookmark is None:
        return None
    try:
        value = json.loads(bookmark)
        return _Bookmark(str(value["server"]), pgoutput.parse_lsn(value["lsn"]), str(value.get("slot", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise FeedLost(f"not a bookmark of a slot: {bookmark[:80]!r}") from exc
