"""Writes of a collection that share a commit: the rows that they touch read, changed by the rules of every
engine, written as new versions, and committed by the heads.

1. the collection's lock is held to the end of the transaction: one writer at a time, in every process
2. the pointer is read, and of each generation the newest versions of the ids that the batches name, once what
   a killed writer may have left above the head is removed
3. each batch is applied in memory, in the order of the generations (`index_store.record`)
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

from index_store.answers.validation import check_dim
from index_store.errors import IndexStoreError, VersionMismatch, WriteFailed
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
class WriteResults:
    """What several writes came to, in order: an Ack, or what refuses the batch. record: of the collection
    after them."""

    outcomes: Sequence[Ack | IndexStoreError]
    record: CollectionRecord


@dataclass(slots=True)
class _GenerationWork:
    """What the batches make of one generation."""

    generation: GenerationRecord
    work: TransactionRows


def write_batches(
    connection: BoundedConnection,
    known: CollectionRecord,
    batches: Sequence[WriteBatch],
    metadata_bytes_max: int,
) -> WriteResults:
    """Store each batch whole, or nothing of it, in one commit. batches: checked. known: what was last heard
    of the collection. Raises WriteFailed; psycopg.Error where nothing was stored."""
    record, cursors = _begin(connection, known, batches)
    if record.in_order != known.in_order or cursors is None:
        with connection.pipeline():
            cursors = [read_newest(connection, record.spec, each, batches) for each in record.in_order]
    works = {
        each.name: _GenerationWork(each, transaction_rows(each, rows_of(cursor.fetchall())))
        for each, cursor in zip(record.in_order, cursors, strict=True)
    }
    feeds: dict[tuple[int, str], str] = {}
    outcomes: list[Ack | IndexStoreError] = []
    for batch in batches:
        try:
            outcomes.append(_apply(record, works, batch, metadata_bytes_max, feeds))
        except IndexStoreError as exc:
            outcomes.append(exc)
    after = _store(connection, record.spec, list(works.values()), feeds)
    members = {**record.members, **{each.name: each for each in after}}
    return WriteResults(outcomes, replace(record, members=members))


def _begin(
    connection: BoundedConnection, known: CollectionRecord, batches: Sequence[WriteBatch]
) -> tuple[CollectionRecord, list[psycopg.Cursor[Any]] | None]:
    """Wait for the collection's lock and read what the batches touch, of the generations as they are known,
    all on one way to the server. No rows where one of them is gone."""
    spec = known.spec
    try:
        with connection.pipeline():
            connection.execute("BEGIN")
            connection.execute(COLLECTION_LOCK, (spec.name,))
            reading = connection.execute(READ_COLLECTION.encode(), (spec.name,), binary=True)
            cursors = [read_newest(connection, spec, each, batches) for each in known.in_order]
        return collection_record(spec, reading.fetchall()), cursors
    except psycopg.errors.UndefinedTable:
        connection.rollback()
    with connection.pipeline():
        connection.execute("BEGIN")
        connection.execute(COLLECTION_LOCK, (spec.name,))
        reading = connection.execute(READ_COLLECTION.encode(), (spec.name,), binary=True)
    return collection_record(spec, reading.fetchall()), None


def _store(
    connection: BoundedConnection,
    spec: CollectionSpec,
    works: Sequence[_GenerationWork],
    feeds: Mapping[tuple[int, str], str],
) -> list[GenerationRecord]:
    """Write what has changed, and commit. Return the generations after it."""
    added = [put_versions(connection, spec.id_kind, each.generation, each.work) for each in works]
    for each in works:
        put_words(connection, each.generation.number, spec, list(each.work.changed.values()))
    after = [
        changed_counts(each.generation, each.work, more) for each, more in zip(works, added, strict=True)
    ]
    with _indeterminate(), connection.pipeline():
        for now, each in zip(after, works, strict=True):
            store_counts(connection, now, each.work)
        _store_cursors(connection, feeds)
        connection.execute("COMMIT")
    return after


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
    for other, vectors in batch.other_vectors.items():
        dim = record.dims.get(other)
        for position, each in enumerate(vectors):
            if each is not None and dim is not None:
                check_dim(each, dim, f"other_vectors[{position}]")
    return found


def read_newest(
    connection: BoundedConnection,
    spec: CollectionSpec,
    generation: GenerationRecord,
    batches: Sequence[WriteBatch],
) -> psycopg.Cursor[Any]:
    """Ask for the newest versions of the ids of some batches, tombstones too. A vector is read where one of
    them may keep it."""
    table = rows_table(generation.number)
    head = f"(SELECT head FROM generation WHERE number = {generation.number})"
    connection.execute(f"DELETE FROM {table} WHERE seq > {head}".encode())
    connection.execute(f"UPDATE {table} SET until = NULL WHERE until > {head}".encode())
    version = generation.embedding_version
    kept = {
        item.id
        for batch in batches
        for item in batch.items
        if item.vector is None or batch.embedding_version != version
    }
    return connection.execute(
        "SELECT id, seq, deleted, active, source_version, content_hash, metadata, share, vector IS NOT NULL, "
        f"CASE WHEN id = ANY(%s) THEN vector END FROM {table} WHERE until IS NULL AND id = ANY(%s)".encode(),
        (id_array(sorted(kept), spec.id_kind), id_array(ids_of(batches), spec.id_kind)),
        binary=True,
        prepare=False,  # so that a list is looked up by hashes
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


def _apply(
    record: CollectionRecord,
    works: Mapping[str, _GenerationWork],
    batch: WriteBatch,
    metadata_bytes_max: int,
    feeds: dict[tuple[int, str], str],
) -> Ack:
    """Change the rows of each generation that takes the batch, and note its cursors in `feeds`. What the
    first one does not hold is not made known to others without a vector. Raises as `_addressed`; then nothing
    is changed."""
    addressed = _addressed(record, batch)
    passes: Passes | None = None
    if batch.only_where is not None:
        passes = partial(passing_texts, compiled_filter(batch.only_where).node)
    done: dict[str, GenerationWrite] = {}
    for each in record.in_order:
        if each is not addressed and each.embedding_version in batch.except_versions:
            continue
        part = batch_for(each.embedding_version, batch, is_addressed=each is addressed)
        known = next(iter(done.values())).held if done else frozenset[Id]()
        job = WriteJob(part, known, passes)
        committed = apply_batch(
            works[each.name].work, job, ShareHasher(each.embedding_version), metadata_bytes_max
        )
        held = {item.id for item in part.items}.difference(committed.unknown_ids)
        done[each.name] = GenerationWrite(committed, each.embedding_version, held)
    feeds.update({(addressed.number, source): value for source, value in batch.cursors.items()})
    return acked(done, addressed.name)


def transaction_rows(generation: GenerationRecord, rows: dict[Id, Row]) -> TransactionRows:
    """Return the rows that a transaction begins with. rows: the newest versions of the ids that it
    touches."""
    return TransactionRows(seq=generation.head, before=rows, damaged={}, now=dict(rows))


def _store_cursors(connection: BoundedConnection, feeds: Mapping[tuple[int, str], str]) -> None:
    for (number, source), value in feeds.items():
        connection.execute(
            "INSERT INTO cursor(generation, source, value) VALUES(%s, %s, %s) "
            "ON CONFLICT(generation, source) DO UPDATE SET value = excluded.value",
            (number, source, value),
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
