"""Which rows are hidden from searches, and which are live, by their small columns: no vector is read."""

from __future__ import annotations

from collections.abc import Iterable

from index_store.storage.schema import Connection
from index_store.types import Id

_IDS_A_SELECT = 500
HIDDEN, LIVE = "(deleted=1 OR active=0)", "deleted=0 AND active=1 AND vector IS NOT NULL"
BEGINNING = -1
"""Before the first seq."""


def newest_seq(connection: Connection) -> int:
    """Return the seq of the last commit."""
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    return int(seq)


def ids_that_are(connection: Connection, condition: str, after_seq: int) -> list[Id]:
    """Return the ids of which the condition (HIDDEN or LIVE) holds among rows changed after `after_seq`; from
    the beginning it looks at every row, later at the new ones alone."""
    if after_seq == BEGINNING:
        return [row[0] for row in connection.execute(f"SELECT id FROM item WHERE {condition}")]
    query = f"SELECT id FROM item INDEXED BY item_seq WHERE seq>? AND {condition}"
    return [row[0] for row in connection.execute(query, (after_seq,))]


def among(connection: Connection, condition: str, ids: Iterable[Id]) -> set[Id]:
    """Return those of these ids of which the condition holds."""
    wanted, found = sorted(ids), set[Id]()
    for start in range(0, len(wanted), _IDS_A_SELECT):
        some = wanted[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        rows = connection.execute(f"SELECT id FROM item WHERE {condition} AND id IN ({marks})", some)
        found.update(row[0] for row in rows)
    return found
