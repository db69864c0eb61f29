"""What a rebuild, a comparison and an operator ask of one generation, beside searches. Every function reads
as of the head of the generation that it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from index_store.awaiting import AwaitingItem
from index_store.footprint import Footprint
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import id_array, stored_vector
from index_store.postgres.schema import GRAPH_DIM_MAX, content_table, rows_table
from index_store.postgres.searches.row_fetcher import GRAPH_FROM
from index_store.record.digest import to_unsigned
from index_store.record.rows import Row
from index_store.types import Content, Id, StoredItem
from item_rules.ids import IdKind

_GRAPH_BYTES = "COALESCE(pg_relation_size(to_regclass(%s)), 0)"
_VISIBLE = "r.seq <= %s AND (r.until IS NULL OR r.until > %s)"
"""Of rows `r` that hold at a head, which is to be given twice."""
_LIVE = f"{_VISIBLE} AND r.active AND r.vector IS NOT NULL"
_STORED = "r.id, r.seq, r.deleted, r.active, r.source_version, r.content_hash, r.metadata, r.share, r.vector"
"""What `_row` reads."""
_DRAWN = "hashtextextended(r.id::text, %s)"


def read_awaiting(
    connection: BoundedConnection, generation: GenerationRecord, after: Id | None, limit: int
) -> list[AwaitingItem]:
    """Return the next items by id that are made of a kept content and have no vector."""
    behind, start = ("", ()) if after is None else ("r.id > %s AND ", (after,))
    query = (
        f"SELECT r.id, c.content_hash, c.kind, c.data FROM {_items_with_content(generation)} "
        f"WHERE {behind}{_VISIBLE} AND NOT r.deleted AND r.vector IS NULL ORDER BY r.id LIMIT %s"
    )
    found = _rows(connection, query, *start, generation.head, generation.head, limit)
    return [AwaitingItem(row[0], bytes(row[1]), Content(row[2], bytes(row[3]))) for row in found]


def read_lost(
    connection: BoundedConnection,
    id_kind: IdKind,
    current: GenerationRecord,
    target: GenerationRecord,
    suspects: Sequence[Id] | None,
) -> list[Id]:
    """Return the ids, in order, that are live in `current` and not in `target`. suspects: look at these
    only."""
    among = "" if suspects is None else " AND r.id = ANY(%s)"
    chosen = () if suspects is None else (id_array(list(suspects), id_kind),)
    sides: list[str] = []
    values: list[Any] = []
    for each in (current, target):
        sides.append(f"SELECT r.id FROM {rows_table(each.number)} r WHERE {_LIVE}{among}")
        values += [each.head, each.head, *chosen]
    return [row[0] for row in _rows(connection, f"{sides[0]} EXCEPT {sides[1]} ORDER BY 1", *values)]


def read_some_contents(
    connection: BoundedConnection, generation: GenerationRecord, limit: int
) -> list[Content]:
    """Return the first kept contents by id."""
    query = f"SELECT kind, data FROM {content_table(generation.number)} ORDER BY id LIMIT %s"
    return [Content(kind, bytes(data)) for kind, data in _rows(connection, query, limit)]


def draw_ids(connection: BoundedConnection, generation: GenerationRecord, seed: str, limit: int) -> list[Id]:
    """Return `limit` live ids in order, drawn by `seed` out of all, or all where there are no more."""
    table, head = rows_table(generation.number), generation.head
    query = f"SELECT r.id FROM {table} r WHERE {_LIVE} ORDER BY {_DRAWN}, r.id LIMIT %s"
    return sorted(row[0] for row in _rows(connection, query, head, head, _number_of(seed), limit))


def draw_contents(
    connection: BoundedConnection, generation: GenerationRecord, seed: str, limit: int, bytes_max: int
) -> list[tuple[Id, Content]]:
    """Return `limit` live items by id, drawn by `seed`, each with what it is made of, or all where there are
    no more. Fewer, drawn among them, where they weigh more than `bytes_max` together, and one at least."""
    items, head = _items_with_content(generation), generation.head
    drawn = f"SELECT r.id, length(c.data) FROM {items} WHERE {_LIVE} ORDER BY {_DRAWN}, r.id LIMIT %s"
    chosen: list[Id] = []
    size = 0
    for item_id, length in _rows(connection, drawn, head, head, _number_of(seed), limit):
        size += length
        if chosen and size > bytes_max:
            break
        chosen.append(item_id)
    query = f"SELECT id, kind, data FROM {content_table(generation.number)} WHERE id = ANY(%s) ORDER BY id"
    found = _rows(connection, query, chosen) if chosen else []
    return [(item_id, Content(kind, bytes(data))) for item_id, kind, data in found]


def read_footprint(connection: BoundedConnection, generation: GenerationRecord) -> Footprint:
    """Return what a generation takes on the server. Every row is in the graph index from its commit on, once
    there is one; until then, where one will be made, all count as not sealed. Hidden rows are versions that
    were replaced and not removed yet."""
    waits = not generation.ef and generation.live >= GRAPH_FROM and generation.dim <= GRAPH_DIM_MAX
    rows, content = rows_table(generation.number), content_table(generation.number)
    query = (
        f"SELECT (SELECT count(*) FROM {rows} WHERE until IS NOT NULL), "
        f"(SELECT count(*) FROM {rows} WHERE until IS NULL AND deleted), "
        f"pg_total_relation_size('{rows}') + pg_total_relation_size('{content}') - {_GRAPH_BYTES}, "
        f"{_GRAPH_BYTES}"
    )
    graph = f"{rows}_graph"
    ((hidden, tombstones, store_bytes, graph_bytes),) = _rows(connection, query, graph, graph)
    return Footprint(
        generation=generation.name,
        delta_rows=generation.live if waits else 0,
        segments=0,
        sealed_rows=hidden + (0 if waits else generation.live),
        hidden_rows=hidden,
        tombstones=tombstones,
        store_bytes=store_bytes,
        mapped_bytes=graph_bytes,
    )


def note_origin(connection: BoundedConnection, generation: GenerationRecord, origin: str) -> bool:
    """Note what made the vectors of a generation; return whether it said otherwise before."""
    query = "UPDATE generation SET origin = %s WHERE number = %s AND origin <> %s"
    return connection.execute(query, (origin, generation.number, origin)).rowcount > 0


def read_stored(
    connection: BoundedConnection, id_kind: IdKind, generation: GenerationRecord, ids: Sequence[Id]
) -> dict[Id, StoredItem]:
    """Return what the generation holds of these ids, without those that it does not know."""
    table = rows_table(generation.number)
    query = f"SELECT {_STORED} FROM {table} r WHERE {_VISIBLE} AND NOT r.deleted AND r.id = ANY(%s)"
    values = (generation.head, generation.head, id_array(list(ids), id_kind))
    found = connection.execute(query.encode(), values, binary=True).fetchall()
    return {row[0]: _row(row).as_item() for row in found}


def read_row(connection: BoundedConnection, generation: GenerationRecord, item_id: Id) -> Row | None:
    """Return the newest version of one item, a tombstone too; None for nothing."""
    query = f"SELECT {_STORED} FROM {rows_table(generation.number)} r WHERE {_VISIBLE} AND r.id = %s"
    values = (generation.head, generation.head, item_id)
    found = connection.execute(query.encode(), values, binary=True).fetchone()
    return None if found is None else _row(found)


def _row(values: Sequence[Any]) -> Row:
    item_id, seq, deleted, active, version, content_hash, metadata, share, vector = values
    share, stored = to_unsigned(share), stored_vector(vector)
    return Row(item_id, seq, deleted, active, version, content_hash, metadata, share, stored)


def _items_with_content(generation: GenerationRecord) -> str:
    """Items `r` beside what they are made of, `c`."""
    return (
        f"{rows_table(generation.number)} r JOIN {content_table(generation.number)} c "
        "ON c.id = r.id AND c.content_hash = r.content_hash"
    )


def _rows(connection: BoundedConnection, query: str, *values: object) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode(), values).fetchall()


def _number_of(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], signed=True)
