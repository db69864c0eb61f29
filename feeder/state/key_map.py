"""Which ids of the index each row of the vector table may stand behind.

A database's log and its triggers name a changed row by its primary key; a deleted row's id can't be read any
more. This file remembers it. An id is added before the service stores what came of a change, and the row's
former ids go after that, before the source forgets the change: a crash in between leaves an id too many,
which costs one look, and never one too few, which would stay in the index for good. Without the file, or with
one of another table, a full comparison rebuilds it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from feeder.changes import Key
from feeder.state.state_file import FORGET, StateFile
from vector_client.types import Id

VARIABLES = 500
_WRITTEN_ROWS = 10_000
IN_MEMORY = ":memory:"
_FORMAT = 2
_TABLES = """
DROP TABLE IF EXISTS row;
CREATE TABLE IF NOT EXISTS carried(
  source_key NOT NULL, id NOT NULL, PRIMARY KEY(source_key, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS carried_id ON carried(id);
"""
_SWAP = f"""
BEGIN IMMEDIATE;
DROP TABLE carried;
ALTER TABLE carried_next RENAME TO carried;
CREATE INDEX carried_id ON carried(id);
{FORGET}
COMMIT;
"""


class KeyMap(StateFile):
    """For one thread. path: a file, or IN_MEMORY for one use."""

    def __init__(self, path: str) -> None:
        super().__init__(path, _TABLES)
        self._waiting: list[tuple[Sequence[Key], Sequence[Id]]] = []
        self._next: list[tuple[Sequence[Key], Sequence[Id]]] = []

    def is_complete_for(self, identity: str) -> bool:
        """Tell whether every row of the table `identity` has been written down."""
        return super().is_complete_for(f"{_FORMAT} {identity}")

    def ids_of(self, keys: Iterable[Key]) -> set[Id]:
        """Return the ids that these rows may have brought into the index; rows never seen, none."""
        return set(self._lookup("SELECT DISTINCT id FROM carried WHERE source_key IN ({})", keys))

    def keys_of(self, ids: Iterable[Id]) -> set[Key]:
        """Return the keys of rows that may have brought these ids into the index."""
        return set(self._lookup("SELECT source_key FROM carried WHERE id IN ({})", ids))

    def add_current(self, rows: Mapping[Key, Sequence[Id]]) -> None:
        """Add, durably, what the rows carry now to what they carried, before the service is. Costs
        nothing where nothing is new."""
        self._execute("INSERT OR IGNORE INTO carried(source_key, id) VALUES(?, ?)", _present(rows))

    def add_missing(self, pairs: Sequence[tuple[Key, Id]]) -> None:
        """Add what a comparison found lacking. It may be out of date by now: an id too many."""
        if pairs:
            self._execute("INSERT OR IGNORE INTO carried(source_key, id) VALUES(?, ?)", pairs)

    def view(self) -> KeyMapView:
        """Return a read-only view of a complete map, for another thread."""
        assert self._path != IN_MEMORY, "nobody else sees what is in memory"
        return KeyMapView(self._path)

    def drop_former(self, rows: Mapping[Key, Sequence[Id]]) -> None:
        """Forget what the rows carried before, now that the service has stored what they carry; nothing: the
        row is gone or has nothing to store. Rows that share a key carry several ids."""
        others = [
            (key, former)
            for key, former in self._pairs_of(rows)
            if former not in rows[key]  # few ids a key
        ]
        if others:
            self._execute("DELETE FROM carried WHERE source_key = ? AND id = ?", others)

    def _pairs_of(self, keys: Iterable[Key]) -> list[tuple[Key, Id]]:
        wanted, found = list(keys), []
        for start in range(0, len(wanted), VARIABLES):
            some = wanted[start : start + VARIABLES]
            marks = ",".join("?" * len(some))
            statement = f"SELECT source_key, id FROM carried WHERE source_key IN ({marks})"
            found += self._db.execute(statement, some).fetchall()
        return found

    def _execute(self, statement: str, values: Sequence[tuple[Key | Id, ...]]) -> None:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        db.executemany(statement, values)
        db.execute("COMMIT")

    def begin_rebuild(self) -> None:
        """Begin a new map; the present one stays until it is finished."""
        self._waiting.clear()
        self._next.clear()
        self.db.executescript(
            "DROP TABLE IF EXISTS carried_next;"
            "CREATE TABLE carried_next("
            "source_key NOT NULL, id NOT NULL, PRIMARY KEY(source_key, id)) WITHOUT ROWID"
        )

    def add_to_rebuild(self, keys: Sequence[Key], ids: Sequence[Id]) -> None:
        """A list that lives in memory is only made when it is asked for: most comparisons find nothing."""
        if self._path == IN_MEMORY:
            self._waiting.append((keys, ids))
        else:
            self._next.append((keys, ids))
            if sum(len(some) for some, _ in self._next) >= _WRITTEN_ROWS:
                self._write_next()

    def _write_next(self) -> None:
        """In few transactions: each waits for the disk."""
        waiting, self._next = self._next, []
        keys = [key for some, _ in waiting for key in some]
        self._insert(self.db, "carried_next", keys, [item_id for _, some in waiting for item_id in some])

    @staticmethod
    def _insert(db: sqlite3.Connection, table: str, keys: Sequence[Key], ids: Sequence[Id]) -> None:
        db.execute("BEGIN")
        db.executemany(
            f"INSERT OR REPLACE INTO {table}(source_key, id) VALUES(?, ?)", zip(keys, ids, strict=True)
        )
        db.execute("COMMIT")

    def finish_rebuild(self) -> None:
        """Replace the old map by the new one, not yet marked complete."""
        self._write_next()
        self.db.executescript(_SWAP)

    def mark_complete_for(self, identity: str) -> None:
        """Declare the list whole: every row of the table `identity` stands in it, and the index holds what
        follows from it. Not before: changes not read yet are understood against the old list, and what the
        new one leaves out has to be found by the comparison that made it."""
        super().mark_complete_for(f"{_FORMAT} {identity}")

    @property
    def _db(self) -> sqlite3.Connection:
        """The connection, with everything that was added."""
        waiting, self._waiting = self._waiting, []
        for keys, ids in waiting:
            self._insert(self.db, "carried", keys, ids)
        return self.db

    def _lookup(self, statement: str, values: Iterable[Key]) -> Iterable[Id]:
        wanted = list(values)
        for start in range(0, len(wanted), VARIABLES):
            some = wanted[start : start + VARIABLES]
            for (found,) in self._db.execute(statement.format(",".join("?" * len(some))), some):
                yield found


class KeyMapView:
    """A read-only view of a key map that another thread writes. For one thread, which opens it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def missing_pairs(self, keys: Sequence[Key], ids: Sequence[Id]) -> list[tuple[Key, Id]]:
        """Return which of these rows do not stand there with their ids."""
        if self._connection is None:
            self._connection = sqlite3.connect(f"{Path(self._path).absolute().as_uri()}?mode=ro", uri=True)
        pairs = list(zip(keys, ids, strict=True))
        held: set[tuple[Key, Id]] = set()
        for start in range(0, len(keys), VARIABLES):
            some = keys[start : start + VARIABLES]
            marks = ",".join("?" * len(some))
            statement = f"SELECT source_key, id FROM carried WHERE source_key IN ({marks})"
            held.update(self._connection.execute(statement, some))
        return [pair for pair in pairs if pair not in held]

    def close(self) -> None:
        """Let the connection go."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _present(rows: Mapping[Key, Sequence[Id]]) -> list[tuple[Key, Id]]:
    return [(key, item_id) for key, ids in rows.items() for item_id in ids]
