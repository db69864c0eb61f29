"""Items drawn at random from a store, the same ones for the same seed and content; nothing is read but them.

Positions are drawn between the first and the last row, so a row behind a gap of deleted ones comes more often
than others. Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from index_store.contents.table import ContentConnection, from_values, has_table
from index_store.types import Content, Id

_DRAWS_A_ROW = 8
"""Several draws may find the same row."""
_LIVE = "i.deleted=0 AND i.active=1 AND i.vector IS NOT NULL"


def draw_ids(connection: ContentConnection, seed: str, limit: int) -> list[Id]:
    """Return `limit` live ids in order, or all where there are no more."""
    return [item_id for (item_id,) in _drawn(connection, "i.id", "item i", "i", _LIVE, seed, limit)]


def draw_contents(connection: ContentConnection, seed: str, limit: int) -> list[tuple[Id, Content]]:
    """Return `limit` live items by id, each with what it is made of, or all where there are no more; those
    whose content is damaged are left out."""
    if not has_table(connection):
        return []
    columns = "c.id, c.kind, c.codec, c.hash, c.crc, c.data"
    table = "content c JOIN item i ON i.id=c.id AND i.content_hash=c.hash"
    found = _drawn(connection, columns, table, "c", _LIVE, seed, limit)
    kept = [(values[0], from_values(values)) for values in found]
    return [(item_id, each.content) for item_id, each in kept if each is not None]


def _drawn(
    connection: ContentConnection, columns: str, table: str, alias: str, where: str, seed: str, limit: int
) -> list[Sequence[Any]]:
    """The rows, by id."""
    query = f"SELECT {columns} FROM {table} WHERE {where}"
    few = connection.execute(f"{query} LIMIT ?", (limit + 1,)).fetchall()
    if len(few) <= limit:
        return sorted(few, key=lambda values: values[0])
    name = table.split(maxsplit=1)[0]
    low, high = connection.execute(f"SELECT min(rowid), max(rowid) FROM {name}").fetchone()
    found: dict[Id, Sequence[Any]] = {}
    for turn in range(_DRAWS_A_ROW * limit):
        drawn = hashlib.sha256(f"{seed}/{turn}".encode()).digest()
        at = low + int.from_bytes(drawn[:8]) % (high - low + 1)
        row = connection.execute(
            f"{query} AND {alias}.rowid>=? ORDER BY {alias}.rowid LIMIT 1", (at,)
        ).fetchone()
        if row is not None:
            found[row[0]] = row
        if len(found) == limit:
            break
    return [found[item_id] for item_id in sorted(found)]
