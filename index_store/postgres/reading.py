"""Reads of one moment, and stored items by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.parameters import id_array, stored_vector
from index_store.postgres.schema import rows_table
from index_store.record.rows import Row
from index_store.types import CollectionSpec, Id, StoredItem


@contextmanager
def one_moment(connection: BoundedConnection) -> Iterator[None]:
    """A transaction whose reads are all of one moment."""
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("ROLLBACK")


def read_items(
    connection: BoundedConnection, spec: CollectionSpec, ids: Sequence[Id], generation: GenerationRecord
) -> dict[Id, StoredItem] | None:
    """Return what the generation holds of these ids; None where it is not the current one any more. Raises
    psycopg.Error."""
    rows = connection.execute(
        "SELECT c.current, r.* FROM collection c LEFT JOIN LATERAL ("
        "SELECT id, seq, deleted, active, source_version, content_hash, metadata, vector "
        f"FROM {rows_table(generation.number)} WHERE until IS NULL AND NOT deleted AND id = ANY(%s)"
        ") r ON true WHERE c.name = %s".encode(),
        (id_array(list(dict.fromkeys(ids)), spec.id_kind), spec.name),
        binary=True,
    ).fetchall()
    if rows[0][0] != generation.number:
        return None
    items: dict[Id, StoredItem] = {}
    for _, item_id, seq, deleted, active, version, content_hash, metadata, vector in rows:
        if item_id is not None:
            row = Row(
                item_id, seq, deleted, active, version, content_hash, metadata, 0, stored_vector(vector)
            )
            items[item_id] = row.as_item()
    return items
