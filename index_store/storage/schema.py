"""The tables of the store, and how a connection to them is opened (docs/FORMAT.md)."""

from __future__ import annotations

import json
import sqlite3
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from index_store.diagnosis import what_helps
from index_store.errors import WriteFailed
from index_store.record.digest import to_signed, to_unsigned
from index_store.record.rows import Row
from index_store.storage.durable_files import sync_directory
from index_store.types import CollectionSpec, Id
from item_rules.ids import IdKind

FORMAT_VERSION = 1
STORE_FILE = "store.sqlite"
LEXICAL_KEY = "lexical_fields"
"""The key in `meta` of which fields words are taken from, as JSON: whoever seals knows no configuration."""
LOCK_FILE = "store.lock"

_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE cursor(source TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE digest(bucket INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
CREATE TABLE item(
  id {id_type} PRIMARY KEY NOT NULL, seq INTEGER NOT NULL, deleted INTEGER NOT NULL, active INTEGER NOT NULL,
  source_version INTEGER, content_hash BLOB, metadata TEXT, share INTEGER NOT NULL, crc INTEGER NOT NULL,
  vector BLOB);
CREATE UNIQUE INDEX item_seq ON item(seq, deleted)
"""
COLUMNS = "id, seq, deleted, active, source_version, content_hash, metadata, share, crc, vector"
LIVE = "deleted=0 AND active=1 AND vector IS NOT NULL"
"""The condition of rows that searches find."""
UPSERT = (
    f"INSERT INTO item({COLUMNS}) VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET "
    "seq=excluded.seq, deleted=excluded.deleted, active=excluded.active, "
    "source_version=excluded.source_version, content_hash=excluded.content_hash, "
    "metadata=excluded.metadata, share=excluded.share, crc=excluded.crc, vector=excluded.vector"
)
# The vector stands last: the small columns are read without touching its bytes.
_PRAGMAS = (
    "PRAGMA page_size=16384",  # 4 KiB pages hold one vector each: twice the file, a third of the speed
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # NORMAL loses acknowledged commits when the power fails
    "PRAGMA busy_timeout=5000",
    "PRAGMA cache_size=-65536",
    "PRAGMA wal_autocheckpoint=1000",
    "PRAGMA journal_size_limit=268435456",
    "PRAGMA trusted_schema=OFF",
)


class Cursor(Protocol):
    """What the store uses of the answer to a statement; `sqlite3.Cursor` fits."""

    def fetchone(self) -> Any:
        """Return the next row, None after the last."""

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What the store asks of a database connection; `sqlite3.Connection` in autocommit mode fits.
    Errors are `sqlite3.Error`."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run one statement with its parameters."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each set of parameters."""

    def close(self) -> None:
        """Close the connection; what was not committed is rolled back."""


Connector: TypeAlias = Callable[[Path], Connection]

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What a store that can't be used raises: SQLite's message may quote rotten bytes, which are no text."""


def connect_sqlite(path: Path) -> Connection:
    """Open an existing file. Usable from any thread, one at a time."""
    uri = f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    # Rotten text must reach the row's checksum instead of ending the whole read.
    connection.text_factory = _decode
    return connection


def connect_reading(path: Path) -> Connection:
    """Open an existing file that this connection never changes, its write-ahead log included."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    connection.text_factory = _decode
    return connection


def connect_archived(path: Path) -> Connection:
    """Open a file that no process changes, without creating any file next to it."""
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = _decode
    return connection


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def is_bindable(item_id: Id) -> bool:
    """Whether a statement can ask for that id: one that was read from damaged bytes may be no text."""
    return isinstance(item_id, int) or not any("\ud800" <= character <= "\udfff" for character in item_id)


def prepare(connection: Connection) -> None:
    """Set what SQLite forgets between connections, and what a new file keeps for ever."""
    for pragma in _PRAGMAS:
        connection.execute(pragma).fetchall()


def create_tables(connection: Connection, id_kind: IdKind, meta: dict[str, object]) -> None:
    """Fill a new, empty file in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    id_type = "INTEGER" if id_kind == "int64" else "TEXT"
    for statement in _TABLES.format(id_type=id_type).split(";"):
        connection.execute(statement)
    connection.executemany("INSERT INTO meta(key, value) VALUES(?,?)", list(meta.items()))
    connection.execute("COMMIT")


def read_lexical_fields(connection: Connection) -> tuple[str, ...]:
    """Return which fields of the metadata the words of this store's items are taken from; none where that was
    never noted, or can't be read. Raises sqlite3.Error."""
    found = connection.execute("SELECT value FROM meta WHERE key=?", (LEXICAL_KEY,)).fetchone()
    try:
        return tuple(map(str, json.loads(found[0]))) if found else ()
    except (TypeError, ValueError):
        return ()


def to_columns(row: Row) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for a row, its checksum among them."""
    return (
        row.id,
        row.seq,
        int(row.deleted),
        int(row.active),
        row.source_version,
        row.content_hash,
        row.metadata,
        to_signed(row.share),
        row.checksum(),
        row.vector,
    )


def from_columns(values: Sequence[Any]) -> tuple[Row, bool]:
    """The row and whether its checksum holds. A flipped byte may turn a column into another type, so
    a row that can't even be checked is as damaged as one that fails the check."""
    item_id, seq, deleted, active, source_version, content_hash, metadata, share, crc, vector = values
    row = Row(
        id=item_id,
        seq=seq,
        deleted=bool(deleted),
        active=bool(active),
        source_version=source_version,
        content_hash=content_hash,
        metadata=metadata,
        share=to_unsigned(share) if isinstance(share, int) else 0,
        vector=vector,
    )
    try:
        is_sound = row.checksum() == crc and deleted in (0, 1) and active in (0, 1)
    except (TypeError, ValueError, AttributeError, ArithmeticError, struct.error):
        is_sound = False
    return row, is_sound


def create_store(
    directory: Path, spec: CollectionSpec, embedding_version: str, connect: Connector = connect_sqlite
) -> None:
    """Make an empty store in an empty directory, durable on return. Raises OSError, WriteFailed."""
    path = directory / STORE_FILE
    path.touch(exist_ok=False)
    meta: dict[str, object] = {
        "store_uuid": uuid.uuid4().hex,
        "format_version": FORMAT_VERSION,
        "collection": spec.name,
        "embedding_version": embedding_version,
        "id_kind": spec.id_kind,
        "dim": spec.dim,
        "metric": spec.metric,
        "seq": 0,
        "items": 0,
        "live": 0,
        "awaiting": 0,
    }
    try:
        connection = connect(path)
        try:
            prepare(connection)
            create_tables(connection, spec.id_kind, meta)
        finally:
            connection.close()
    except SQLITE_ERRORS as exc:
        raise WriteFailed(f"no store can be made in {directory}: {exc}", what_helps(exc, directory)) from exc
    sync_directory(directory)
