"""Items drawn at random from a store, the same ones for the same seed and content.

Positions are drawn between the first and the last row, so a row behind a gap of deleted ones comes more often
than others. Every function runs inside the caller's transaction.
"""

from __future__ import annotations

import hashlib

from index_store.contents.table import ContentConnection, has_table, read_contents
from index_store.types import Content, Id

_DRAWS_A_ROW = 32
"""Several draws may find the same row, or none."""
_ROWS_A_DRAW = 64
"""So many rows are looked at for a live one: half of a catalogue may be hidden, all in one place."""
_LIVE = "i.deleted=0 AND i.active=1 AND i.vector IS NOT NULL"


def draw_ids(connection: ContentConnection, seed: str, limit: int) -> list[Id]:
    """Return `limit` live ids in order, or all where there are no more."""
    return _drawn(connection, "item", f"SELECT i.id FROM item i WHERE {_LIVE}", "i", seed, limit)


def draw_contents(
    connection: ContentConnection, seed: str, limit: int, bytes_max: int
) -> list[tuple[Id, Content]]:
    """Return `limit` live items by id, each with what it is made of, or all where there are no more; those
    whose content is damaged are left out. Fewer, drawn among them, where they weigh more than `bytes_max`
    together, and one at least."""
    if not has_table(connection):
        return []
    query = f"SELECT c.id FROM content c JOIN item i ON i.id=c.id AND i.content_hash=c.hash WHERE {_LIVE}"
    ids = _drawn(connection, "content", query, "c", seed, limit)
    found: dict[Id, Content] = {}
    size = 0
    for item_id in sorted(ids, key=lambda each: hashlib.sha256(f"{seed}/{each}".encode()).digest()):
        kept = read_contents(connection, [item_id]).get(item_id)
        if kept is None:
            continue
        size += len(kept.content.data)
        if found and size > bytes_max:
            break
        found[item_id] = kept.content
    return [(item_id, found[item_id]) for item_id in ids if item_id in found]


def _drawn(
    connection: ContentConnection, table: str, query: str, alias: str, seed: str, limit: int
) -> list[Id]:
    """Ids that `query` gives, in order; alias: of `table` in it."""
    first: list[Id] = [each for (each,) in connection.execute(f"{query} LIMIT ?", (limit + 1,))]
    if len(first) <= limit:
        return sorted(first)
    low, high = connection.execute(f"SELECT min(rowid), max(rowid) FROM {table}").fetchone()
    near = f"SELECT rowid FROM {table} WHERE rowid>=? ORDER BY rowid LIMIT {_ROWS_A_DRAW}"
    found: set[Id] = set()
    for turn in range(_DRAWS_A_ROW * limit):
        drawn = hashlib.sha256(f"{seed}/{turn}".encode()).digest()
        at = low + int.from_bytes(drawn[:8]) % (high - low + 1)
        row = connection.execute(
            f"{query} AND {alias}.rowid IN ({near}) ORDER BY {alias}.rowid LIMIT 1", (at,)
        ).fetchone()
        if row is not None:
            found.add(row[0])
        if len(found) == limit:
            break
    rest = [each for each in first if each not in found]
    return sorted([*found, *rest[: limit - len(found)]])
