"""Which items were shown under a key: shared by all workers, bounded, and gone with the service.

A convenience of infinite scroll. What is forgotten (too long ago, too much, a restart, a fault of the file)
is shown again; nothing is hidden that was not answered under the same key.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import orjson

from index_store.types import Id

T = TypeVar("T")

log = logging.getLogger(__name__)

_KEY_BYTES: Final = 16
_BUSY_S: Final = 0.5
_PAGE_BYTES: Final = 4096
_PAGES_MIN: Final = 64
_SWEEP_S: Final = 60.0
_SWEEPS: Final = 100
"""So often while as many keys come as there may be: in between there can be a hundredth more."""
_EVICTED_SHARE: Final = 10
_TABLES: Final = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS seen (key BLOB PRIMARY KEY, used_at REAL NOT NULL, ids BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS seen_used ON seen (used_at);
CREATE TABLE IF NOT EXISTS secret (only INTEGER PRIMARY KEY CHECK (only = 1), bytes BLOB NOT NULL);
"""
_EVICT: Final = "DELETE FROM seen WHERE key IN (SELECT key FROM seen ORDER BY used_at LIMIT ?)"


class SeenLimits(NamedTuple):
    """keys_max: of all collections; the one that was used longest ago goes first. ids_max: of a key; the
    oldest go first. bytes_max: of all. kept_s: after its last use a key is forgotten."""

    keys_max: int
    ids_max: int
    bytes_max: int
    kept_s: float


class SeenCounts(NamedTuple):
    """Keys that are remembered, and bytes that they take."""

    keys: int
    bytes_count: int


class SeenItems:
    """Every method blocks for some 100 us, and is safe from any thread. None raises: a fault is logged, and
    nothing is remembered then. Keys are kept as keyed hashes only."""

    def __init__(
        self, shared_dir: Path | None, limits: SeenLimits, clock: Callable[[], float] = time.time
    ) -> None:
        """shared_dir: where the workers' one file stands; None for one worker. clock: seconds."""
        self._path = ":memory:" if shared_dir is None else str(shared_dir / "seen.sqlite")
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._secret = b""
        self._swept_at = 0.0
        self._writes = 0

    def shown_ids(self, collection: str, key: str) -> list[Id]:
        """Return what was shown, the oldest first."""

        def read(connection: sqlite3.Connection) -> list[Id]:
            return self._stored(connection, self._hash(collection, key))

        return self._run(read, [])

    def note_shown(self, collection: str, key: str, ids: Sequence[Id]) -> None:
        """Remember an answer, beside those before."""

        def write(connection: sqlite3.Connection) -> None:
            hashed = self._hash(collection, key)
            with _transaction(connection):
                self._put(connection, hashed, ids)
                self._sweep_if_due(connection)

        self._run(write, None)

    def forget(self, collection: str, key: str) -> None:
        """Begin anew."""

        def write(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.execute("DELETE FROM seen WHERE key=?", (self._hash(collection, key),))

        self._run(write, None)

    def counts(self) -> SeenCounts:
        """Return how much is remembered, by any worker."""

        def read(connection: sqlite3.Connection) -> SeenCounts:
            (keys,) = connection.execute(
                "SELECT count(*) FROM seen WHERE used_at > ?", (self._clock() - self._limits.kept_s,)
            ).fetchone()
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            return SeenCounts(keys, (pages - free) * _PAGE_BYTES)

        return self._run(read, SeenCounts(0, 0))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._opened()
                return work(self._connection)
            except (sqlite3.Error, OSError, ValueError) as exc:
                log.warning("seen_items_unavailable", extra={"error": str(exc)})
                return otherwise

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.executescript(f"PRAGMA page_size = {_PAGE_BYTES}; {_TABLES}")
        pages = max(_PAGES_MIN, self._limits.bytes_max // _PAGE_BYTES)
        connection.execute(f"PRAGMA max_page_count = {pages}")
        connection.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
        (self._secret,) = connection.execute("SELECT bytes FROM secret").fetchone()
        return connection

    def _hash(self, collection: str, key: str) -> bytes:
        data = f"{collection}\0{key}".encode(errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=_KEY_BYTES, key=self._secret).digest()

    def _stored(self, connection: sqlite3.Connection, hashed: bytes) -> list[Id]:
        found = connection.execute(
            "SELECT ids FROM seen WHERE key=? AND used_at > ?",
            (hashed, self._clock() - self._limits.kept_s),
        ).fetchone()
        ids: list[Id] = [] if found is None else orjson.loads(found[0])
        return ids

    def _put(self, connection: sqlite3.Connection, hashed: bytes, ids: Sequence[Id]) -> None:
        known = list(dict.fromkeys([*self._stored(connection, hashed), *ids]))
        row = (hashed, self._clock(), orjson.dumps(known[-self._limits.ids_max :]))
        for _ in range(_EVICTED_SHARE):
            try:
                connection.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", row)
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode != sqlite3.SQLITE_FULL:
                    raise
                (keys,) = connection.execute("SELECT count(*) FROM seen").fetchone()
                connection.execute(_EVICT, (1 + keys // _EVICTED_SHARE,))

    def _sweep_if_due(self, connection: sqlite3.Connection) -> None:
        now, limits = self._clock(), self._limits
        self._writes += 1
        if self._writes % max(1, limits.keys_max // _SWEEPS) and abs(now - self._swept_at) < _SWEEP_S:
            return
        self._swept_at = now
        connection.execute("DELETE FROM seen WHERE used_at <= ?", (now - limits.kept_s,))
        (keys,) = connection.execute("SELECT count(*) FROM seen").fetchone()
        if keys > limits.keys_max:
            connection.execute(_EVICT, (keys - limits.keys_max,))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
