"""Which id each row of the vector table carried when it was last read.

A database's log and its triggers name a changed row by its primary key; a deleted row's id can't be read any
more. This file remembers it. It is written after the service has stored what came of a change and before the
source forgets the change, so that a crash in between repeats work and loses none. Without the file, or with
one of another table, a full comparison makes it anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from feeder import statefile
from feeder.changes import Key
from vector_client.types import Id

VARIABLES = 500
IN_MEMORY = ":memory:"
_TABLES = """
CREATE TABLE IF NOT EXISTS row(source_key PRIMARY KEY NOT NULL, id NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS row_id ON row(id);
"""
_SWAP = f"""
BEGIN IMMEDIATE;
DROP TABLE row;
ALTER TABLE row_next RENAME TO row;
CREATE INDEX row_id ON row(id);
{statefile.FORGET}
COMMIT;
"""


class Ledger:
    """For one thread. path: a file, or IN_MEMORY for one use."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[tuple[Sequence[Key], Sequence[Id]]] = []

    def open(self) -> None:
        self._connection = statefile.opened(self._path, _TABLES)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def is_of(self, identity: str) -> bool:
        """Tell whether every row of the table `identity` has been written down."""
        return statefile.is_of(self._db, identity)

    def ids_of(self, keys: Iterable[Key]) -> set[Id]:
        """Return the ids that these rows carried; rows never seen carried none."""
        return set(self._looked_up("SELECT DISTINCT id FROM row WHERE source_key IN ({})", keys))

    def keys_of(self, ids: Iterable[Id]) -> set[Key]:
        return set(self._looked_up("SELECT source_key FROM row WHERE id IN ({})", ids))

    def note(self, rows: Mapping[Key, Id | None]) -> None:
        """Write down, durably, what the rows carry now; None: the row is gone or has nothing to store."""
        there = [(key, item_id) for key, item_id in rows.items() if item_id is not None]
        gone = [(key,) for key, item_id in rows.items() if item_id is None]
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO row(source_key, id) VALUES(?, ?)", there)
        db.executemany("DELETE FROM row WHERE source_key = ?", gone)
        db.execute("COMMIT")

    def begin_anew(self) -> None:
        """Start a new list beside the present one."""
        self._waiting.clear()
        self._connected.executescript(
            "DROP TABLE IF EXISTS row_next;"
            "CREATE TABLE row_next(source_key PRIMARY KEY NOT NULL, id NOT NULL) WITHOUT ROWID"
        )

    def add(self, keys: Sequence[Key], ids: Sequence[Id]) -> None:
        """A list that lives in memory is only made when it is asked for: most comparisons find nothing."""
        if self._path == IN_MEMORY:
            self._waiting.append((keys, ids))
        else:
            self._insert(self._connected, "row_next", keys, ids)

    @staticmethod
    def _insert(db: sqlite3.Connection, table: str, keys: Sequence[Key], ids: Sequence[Id]) -> None:
        db.execute("BEGIN")
        db.executemany(
            f"INSERT OR REPLACE INTO {table}(source_key, id) VALUES(?, ?)", zip(keys, ids, strict=True)
        )
        db.execute("COMMIT")

    def end_anew(self) -> None:
        """Put the new list in the place of the old one, unconfirmed."""
        self._connected.executescript(_SWAP)

    def confirm(self, identity: str) -> None:
        """Declare the list whole: every row of the table `identity` stands in it, and the index holds what
        follows from it. Not before: changes not read yet are understood against the old list, and what the
        new one leaves out has to be found by the comparison that made it."""
        statefile.confirm(self._db, identity)

    @property
    def _db(self) -> sqlite3.Connection:
        """The connection, with everything that was added."""
        waiting, self._waiting = self._waiting, []
        for keys, ids in waiting:
            self._insert(self._connected, "row", keys, ids)
        return self._connected

    @property
    def _connected(self) -> sqlite3.Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    def _looked_up(self, statement: str, values: Iterable[Key]) -> Iterable[Id]:
        wanted = list(values)
        for start in range(0, len(wanted), VARIABLES):
            some = wanted[start : start + VARIABLES]
            for (found,) in self._db.execute(statement.format(",".join("?" * len(some))), some):
                yield found
