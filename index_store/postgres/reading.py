"""Reads of one moment, stored items by id, and what generations count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import CollectionRecord, GenerationRecord
from index_store.postgres.parameters import id_array, stored_vector
from index_store.postgres.schema import rows_table
from index_store.record import digest
from index_store.record.rows import Row
from index_store.types import (
    DIGEST_BUCKETS,
    CollectionSpec,
    CollectionStatus,
    GenerationStatus,
    Id,
    StoredItem,
)


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


def status_of(record: CollectionRecord, cursors: Sequence[Sequence[Any]]) -> CollectionStatus:
    """Return what a collection's generations count. cursors: generation, source and value of each."""
    pointer = record.pointer
    roles = (("current", pointer.current), ("next", pointer.next), ("former", pointer.former))
    found = []
    for role, member in roles:
        if member is None:
            continue
        each = record.members[member.name]
        found.append(
            GenerationStatus(
                each.name,
                role,  # type: ignore[arg-type]
                each.embedding_version,
                each.items,
                each.live,
                each.head,
                {source: value for number, source, value in cursors if number == each.number},
                dim=each.dim,
                origin=each.origin,
                contents=each.contents,
                awaiting=each.awaiting,
            )
        )
    current = next((each for each in found if each.role == "current"), None)
    others = [each for each in found if each.role != "current"]
    return CollectionStatus(record.spec, current, others, former_since=pointer.former_since)


def bucket_sums(
    connection: BoundedConnection, generation: GenerationRecord, parts: int
) -> npt.NDArray[np.uint64]:
    """(4096,) sums as they are kept, or `parts` of them, if more are wanted, added up from the rows'
    shares."""
    if parts <= DIGEST_BUCKETS:
        kept = connection.execute(
            "SELECT bucket, sum FROM digest_sum WHERE generation = %s", (generation.number,), binary=True
        )
        return digest.buckets_from(kept.fetchall())
    sums = np.zeros(parts, np.uint64)
    found = connection.execute(
        f"SELECT bucket & {parts - 1}, sum(share) FROM {rows_table(generation.number)} "
        "WHERE until IS NULL AND NOT deleted GROUP BY 1".encode()
    )
    for part, total in found:
        sums[part] = digest.to_unsigned(int(total))
    return sums
