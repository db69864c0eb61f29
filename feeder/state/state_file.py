"""Files in FEEDER_STATE_DIR: SQLite, durable at each commit, of one source alone; and what names them all."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from pathlib import Path

_META = """
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
FORGET = "DELETE FROM meta WHERE name = 'identity';"


class StateFile:
    """One such file. For one thread at a time. path: a file, or ":memory:". tables: the statements that make
    what is missing."""

    def __init__(self, path: str, tables: str) -> None:
        self._path = path
        self._tables = tables
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file, and make the tables that are missing."""
        if self._connection is None:
            self._connection = _opened(self._path, self._tables)

    def close(self) -> None:
        """Close it; twice is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @property
    def db(self) -> sqlite3.Connection:
        """The open connection."""
        assert self._connection is not None, "open() comes first"
        return self._connection

    def is_complete_for(self, identity: str) -> bool:
        """Tell whether the whole source `identity` has been written down here."""
        row = self.db.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        return row is not None and row[0] == identity

    def mark_complete_for(self, identity: str) -> None:
        """Declare that the whole source `identity` has been written down here."""
        self.db.execute("INSERT OR REPLACE INTO meta(name, value) VALUES('identity', ?)", (identity,))

    def invalidate(self) -> None:
        """Stand for no source until it is marked complete again."""
        self.db.execute(FORGET)


def _opened(path: str, tables: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)
    connection.executescript(_META + tables)
    return connection


def forget(path: str) -> None:
    """Invalidate a file if it exists: the next comparison rebuilds it."""
    if Path(path).exists():
        with contextlib.closing(_opened(path, "")) as connection:
            connection.execute(FORGET)


def rename(former: Path, path: Path) -> None:
    """Give a file that nobody has open another name, what is not yet written into it with it."""
    for end in ("-wal", ""):
        if Path(f"{former}{end}").exists():
            Path(f"{former}{end}").rename(f"{path}{end}")
    Path(f"{former}-shm").unlink(missing_ok=True)


def follower_of(directory: Path) -> str:
    """Return the name that a state directory was given when it was first used. Safe from any thread and
    process: the first name stays."""
    path = directory / "follower"
    if not path.exists():
        name = uuid.uuid4().hex
        ours = directory / f"follower.{name}"
        ours.write_text(name, encoding="ascii")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(ours)
        ours.unlink()
    return path.read_text(encoding="ascii")
