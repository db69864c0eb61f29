"""One write of a collection: the rows that it touches read, changed by the rules of every engine, written as
new versions, and committed by the heads.

1. the collection's lock is held to the end of the transaction: one writer at a time, in every process
2. the pointer is read, and of each generation the newest versions of the ids that the batch names, once what
   a killed writer may have left above the head is removed
3. the batch is applied in memory, in the order of the generations (`index_store.record`)
4. old versions are ended and new ones put in
5. counts, digest and cursors change, the heads move
6. the transaction commits. Whether it did is unknown where the connection breaks meanwhile: WriteFailed

Each step but 3 is one way to the server and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import psycopg

from index_store.answers.validation import check_dim, checked_batch
from index_store.errors import VersionMismatch, WriteFailed
from index_store.filter.cache import compiled_filter
from index_store.filter.texts import passing_texts
from index_store.postgres.connections import SERVER_HINT, BoundedConnection
from index_store.postgres.generations import (
    READ_COLLECTION,
    CollectionRecord,
    GenerationRecord,
    collection_record,
)
from index_store.postgres.parameters import id_array, stored_vector
from index_store.postgres.schema import rows_table
from index_store.postgres.words import put_words
from index_store.postgres.writes.versions import changed_counts, put_versions, store_counts
from index_store.record.batches import (
    CommitResult,
    Passes,
    TransactionRows,
    WriteJob,
    apply_batch,
    ids_of,
)
from index_store.record.digest import ShareHasher, to_unsigned
from index_store.record.generation_batch import GenerationWrite, acked, batch_for
from index_store.record.rows import Row
from index_store.types import Ack, CollectionSpec, Id, WriteBatch

COLLECTION_LOCK = "SELECT pg_advisory_xact_lock(hashtext(current_schema()), hashtext(%s))"
_UNREAD = b""
"""Of a vector that the batch replaces anyway: that there is one is all that has to be known."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write came to. record: of the collection, after it."""

    ack: Ack
    record: CollectionRecord


def write_batch(
    connection: BoundedConnection, known: CollectionRecord, batch: WriteBatch, metadata_bytes_max: int
) -> Written:
    """Store the whole batch, or nothing. known: what was last heard of the collection. Raises as
    `VectorIndex.write`; psycopg.Error where nothing was stored."""
    spec = known.spec
    batch = checked_batch(batch, spec, metadata_bytes_max, known.dims)
    takers = _takers(known, batch)
    with connection.pipeline():
        connection.execute("BEGIN")
        connection.execute(COLLECTION_LOCK, (spec.name,))
        reading = connection.execute(READ_COLLECTION.encode(), (spec.name,), binary=True)
        stored = [read_newest(connection, spec, each, batch) for each in takers]
        record = collection_record(spec, reading.fetchall())
    if record.dims != known.dims:
        batch = checked_batch(batch, spec, metadata_bytes_max, record.dims)
    addressed = _addressed(record, batch)
    found = [each.number for each in takers]
    takers = _takers(record, batch)
    if [each.number for each in takers] != found:
        with connection.pipeline():
            stored = [read_newest(connection, spec, each, batch) for each in takers]
    rows = [rows_of(cursor.fetchall()) for cursor in stored]
    done, works = _applied(batch, addressed, list(zip(takers, rows, strict=True)), metadata_bytes_max)
    added = [put_versions(connection, spec.id_kind, generation, work) for generation, work in works]
    for generation, work in works:
        put_words(connection, generation.number, spec, list(work.changed.values()))
    after = [changed_counts(*each, more) for each, more in zip(works, added, strict=True)]
    with _indeterminate(), connection.pipeline():
        for now, (_, work) in zip(after, works, strict=True):
            store_counts(connection, now, work)
        _store_cursors(connection, addressed, batch.cursors)
        connection.execute("COMMIT")
    members = {**record.members, **{each.name: each for each in after}}
    return Written(acked(done, addressed.name), replace(record, members=members))


def _takers(record: CollectionRecord, batch: WriteBatch) -> list[GenerationRecord]:
    """The generations that the batch goes to, in their order."""
    version = batch.embedding_version
    if version is None and record.current is not None:
        version = record.current.embedding_version
    return [
        each
        for each in record.in_order
        if each.embedding_version == version or each.embedding_version not in batch.except_versions
    ]


def _addressed(record: CollectionRecord, batch: WriteBatch) -> GenerationRecord:
    """The generation whose Ack answers the write. Raises VersionMismatch, GenerationConflict,
    InvalidVector."""
    current, version = record.current, batch.embedding_version
    if batch.is_for_current and current is not None and version not in (None, current.embedding_version):
        raise VersionMismatch(record.spec.name, current.embedding_version, str(version))
    found = record.require(version)
    for vector in (item.vector for item in batch.items if item.vector is not None):
        check_dim(vector, found.dim, "vector")
        break
    return found


def read_newest(
    connection: BoundedConnection, spec: CollectionSpec, generation: GenerationRecord, batch: WriteBatch
) -> psycopg.Cursor[Any]:
    """Ask for the newest versions of the ids of a batch, tombstones too. A vector is read where the batch may
    keep it."""
    table = rows_table(generation.number)
    head = f"(SELECT head FROM generation WHERE number = {generation.number})"
    connection.execute(f"DELETE FROM {table} WHERE seq > {head}".encode())
    connection.execute(f"UPDATE {table} SET until = NULL WHERE until > {head}".encode())
    is_plain = generation.embedding_version == batch.embedding_version
    kept = {item.id for item in batch.items if item.vector is None or not is_plain}
    return connection.execute(
        "SELECT id, seq, deleted, active, source_version, content_hash, metadata, share, vector IS NOT NULL, "
        f"CASE WHEN id = ANY(%s) THEN vector END FROM {table} WHERE until IS NULL AND id = ANY(%s)".encode(),
        (id_array(sorted(kept), spec.id_kind), id_array(ids_of([batch]), spec.id_kind)),
        binary=True,
    )


def rows_of(found: Sequence[Sequence[Any]]) -> dict[Id, Row]:
    """Return what `read_newest` found, by id."""
    rows = {}
    for item_id, seq, deleted, active, version, content_hash, metadata, share, has_vector, vector in found:
        stored = stored_vector(vector) if vector is not None else _UNREAD if has_vector else None
        rows[item_id] = Row(
            item_id, seq, deleted, active, version, content_hash, metadata, to_unsigned(share), stored
        )
    return rows


def _applied(
    batch: WriteBatch,
    addressed: GenerationRecord,
    takers: Sequence[tuple[GenerationRecord, dict[Id, Row]]],
    metadata_bytes_max: int,
) -> tuple[dict[str, GenerationWrite], list[tuple[GenerationRecord, TransactionRows]]]:
    """What each generation makes of the batch. What the first one does not hold is not made known to others
    without a vector."""
    passes: Passes | None = None
    if batch.only_where is not None:
        passes = partial(passing_texts, compiled_filter(batch.only_where).node)
    done: dict[str, GenerationWrite] = {}
    works = []
    for generation, rows in takers:
        is_addressed = generation.number == addressed.number
        part = batch_for(generation.embedding_version, batch, is_addressed=is_addressed)
        known = next(iter(done.values())).held if done else frozenset[Id]()
        work, committed = applied_to(generation, rows, WriteJob(part, known, passes), metadata_bytes_max)
        held = {item.id for item in part.items}.difference(committed.unknown_ids)
        done[generation.name] = GenerationWrite(committed, generation.embedding_version, held)
        works.append((generation, work))
    return done, works


def applied_to(
    generation: GenerationRecord, rows: dict[Id, Row], job: WriteJob, metadata_bytes_max: int
) -> tuple[TransactionRows, CommitResult]:
    """Return what a batch makes of the newest versions of its ids."""
    work = TransactionRows(seq=generation.head, before=rows, damaged={}, now=dict(rows))
    hasher = ShareHasher(generation.embedding_version)
    return work, apply_batch(work, job, hasher, metadata_bytes_max)


def _store_cursors(
    connection: BoundedConnection, generation: GenerationRecord, cursors: Mapping[str, str]
) -> None:
    for source, value in cursors.items():
        connection.execute(
            "INSERT INTO cursor(generation, source, value) VALUES(%s, %s, %s) "
            "ON CONFLICT(generation, source) DO UPDATE SET value = excluded.value",
            (generation.number, source, value),
        )


@contextmanager
def _indeterminate() -> Iterator[None]:
    """Says of a connection that breaks in here that nobody knows whether the transaction committed."""
    try:
        yield
    except psycopg.OperationalError as exc:
        if exc.sqlstate is not None and not exc.sqlstate.startswith("57P"):
            raise
        raise WriteFailed(
            f"the write failed and may or may not be stored; repeating it is safe ({exc})", SERVER_HINT
        ) from exc
