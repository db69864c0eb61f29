"""Steps of a collection's generations: one that begins and takes along what does not depend on the embedding,
and roles that change hands.

One process takes a step at a time. The steps themselves commit with the row of `collection`, while no writer
of the collection has its lock: a later write finds the generations as they are then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from psycopg import errors

from index_store.contents.table import KeptContent
from index_store.errors import InvalidRequest
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import CollectionRecord, GenerationRecord, name_of, number_of
from index_store.postgres.parameters import id_array
from index_store.postgres.schema import (
    DIM_MAX,
    content_table,
    dropped_tables,
    generation_tables,
    rows_table,
)
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.words import begin_words, put_words
from index_store.postgres.writes.batches import COLLECTION_LOCK, read_newest, rows_of, transaction_rows
from index_store.postgres.writes.versions import changed_counts, put_versions, store_counts
from index_store.record.batches import WriteJob, apply_batch
from index_store.record.digest import ShareHasher
from index_store.record.generation_batch import carried
from index_store.record.pointer import GenerationName, Pointer, shown_again
from index_store.record.rows import Row
from index_store.types import CollectionSpec, Content, Id, ItemDelete, NewGeneration, WriteBatch
from item_rules.ids import IdKind
from item_rules.metadata import METADATA_BYTES_MAX

log = logging.getLogger(__name__)

_STEP_LOCK = "SELECT pg_advisory_{}lock(hashtext(current_schema()), hashtext('step ' || %s))"
_TRY_STEP_LOCK = "SELECT pg_try_advisory_lock(hashtext(current_schema()), hashtext('step ' || %s))"
_PAGE_ROWS = 2048
_WAIT_S = 3.0
_PAUSE_S = 0.2
_DROP_WAIT = "SET LOCAL lock_timeout = '2s'"
"""A search may be reading the table, and others would wait behind who waits for it."""
_COLUMNS = "id, seq, deleted, active, source_version, content_hash, metadata"
_SHOWN = (
    "SELECT t.id FROM {target} t JOIN {current} c ON c.id = t.id AND c.until IS NULL AND NOT c.active "
    "WHERE t.until IS NULL AND t.active AND t.vector IS NOT NULL AND {among} ORDER BY t.id LIMIT 1000"
)


@dataclass(frozen=True, slots=True)
class StepClock:
    """How a step waits for whoever fills the generation that it makes current. clock: seconds that only go
    forward. now: since the epoch."""

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    pause: Callable[[float], object] = threading.Event().wait
    wait_s: float = _WAIT_S


def take_step(
    connection: BoundedConnection,
    spec: CollectionSpec,
    step: str,
    embedding_version: str,
    begins: NewGeneration,
    timing: StepClock,
    *,
    is_forced: bool,
) -> CollectionRecord:
    """Take one step and return the collection after it. Raises GenerationConflict, InvalidRequest;
    psycopg.Error."""
    connection.execute(_STEP_LOCK.format("").encode(), (spec.name,))
    try:
        record = read_collection(connection, spec)
        _drop_unnamed(connection, spec, record)
        if step == "begin":
            _begin(connection, record, embedding_version, begins)
        else:
            _move(connection, record, step, embedding_version, timing, is_forced=is_forced)
        record = read_collection(connection, spec)
        _drop_unnamed(connection, spec, record)
    finally:
        if not connection.broken:
            connection.execute(_STEP_LOCK.format("un").encode(), (spec.name,))
    log.info(
        "generation_advanced",
        extra={"collection": spec.name, "step": step, "embedding_version": embedding_version},
    )
    return record


def drop_leftovers(connection: BoundedConnection, spec: CollectionSpec) -> None:
    """Drop what earlier steps left, unless one is being taken. Raises psycopg.Error."""
    found = connection.execute(_TRY_STEP_LOCK, (spec.name,)).fetchone()
    if found != (True,):
        return
    try:
        _drop_unnamed(connection, spec, read_collection(connection, spec))
    finally:
        if not connection.broken:
            connection.execute(_STEP_LOCK.format("un").encode(), (spec.name,))


def _drop_unnamed(connection: BoundedConnection, spec: CollectionSpec, record: CollectionRecord) -> None:
    """Drop the tables of generations without a role; what is in use is left to the next step."""
    known = connection.execute("SELECT number FROM generation WHERE collection = %s", (spec.name,)).fetchall()
    for number in (number for (number,) in known if name_of(number) not in record.members):
        try:
            with connection.transaction():
                connection.execute(_DROP_WAIT)
                for statement in dropped_tables(number):
                    connection.execute(statement.encode())
        except errors.LockNotAvailable:
            log.info("generation_kept", extra={"generation": name_of(number), "reason": "it is being read"})


def store_pointer(connection: BoundedConnection, spec: CollectionSpec, pointer: Pointer) -> None:
    """Give a collection's generations their roles."""
    numbers = [
        None if each is None else number_of(each.name)
        for each in (pointer.current, pointer.next, pointer.former)
    ]
    connection.execute(
        "UPDATE collection SET current = %s, next = %s, former = %s, former_since = %s WHERE name = %s",
        (*numbers, pointer.former_since, spec.name),
    )


@contextmanager
def _writers_waiting(connection: BoundedConnection, spec: CollectionSpec) -> Iterator[None]:
    """A transaction in which nobody writes to the collection."""
    with connection.transaction():
        connection.execute(COLLECTION_LOCK, (spec.name,))
        yield


def _move(
    connection: BoundedConnection,
    record: CollectionRecord,
    step: str,
    embedding_version: str,
    timing: StepClock,
    *,
    is_forced: bool,
) -> None:
    before = record.pointer
    moved = before.after_step(step, embedding_version)
    if moved.former != before.former:
        moved = replace(moved, former_since=timing.now())
    if is_forced or moved.current is None or before.current in (None, moved.current):
        with _writers_waiting(connection, record.spec):
            store_pointer(connection, record.spec, moved)
        return
    current, target = record.members[before.current.name], record.members[moved.current.name]
    shown = _ShownByStep(connection, record.spec, current, target)
    shown.compare()
    give_up_at = timing.clock() + timing.wait_s
    while True:
        with _writers_waiting(connection, record.spec):
            if not shown.compare():
                store_pointer(connection, record.spec, moved)
                return
        if timing.clock() >= give_up_at:
            raise shown_again(shown.ids)
        timing.pause(_PAUSE_S)


class _ShownByStep:
    """Which ids the current generation hides or has deleted while the target shows them; each look after the
    first one reads what was written since."""

    def __init__(
        self,
        connection: BoundedConnection,
        spec: CollectionSpec,
        current: GenerationRecord,
        target: GenerationRecord,
    ) -> None:
        self._connection = connection
        self._spec = spec
        self._tables = {"current": rows_table(current.number), "target": rows_table(target.number)}
        self._numbers = (current.number, target.number)
        self._seen: tuple[int, int] | None = None
        self.ids: list[Id] = []

    def compare(self) -> bool:
        """Return whether there are any."""
        heads = dict(
            self._connection.execute(
                "SELECT number, head FROM generation WHERE number = ANY(%s)", (list(self._numbers),)
            ).fetchall()
        )
        if self._seen is None:
            found = self._among("true")
        else:
            seen_current, seen_target = self._seen
            found = (
                self._among("t.id = ANY(%s)", id_array(self.ids, self._spec.id_kind)) if self.ids else set()
            )
            found |= self._among(f"c.seq > {seen_current}") | self._among(f"t.seq > {seen_target}")
        self._seen = (heads[self._numbers[0]], heads[self._numbers[1]])
        self.ids = sorted(found)
        return bool(found)

    def _among(self, condition: str, *parameters: object) -> set[Id]:
        statement = _SHOWN.format(**self._tables, among=condition)
        return {item_id for (item_id,) in self._connection.execute(statement.encode(), parameters)}


def _begin(
    connection: BoundedConnection, record: CollectionRecord, embedding_version: str, begins: NewGeneration
) -> None:
    spec = record.spec
    record.pointer.with_new_generation(embedding_version)  # refuses what can't begin
    dim = begins.dim or next(iter(record.dims.values()), spec.dim)
    if dim > DIM_MAX:
        raise InvalidRequest(f"PostgreSQL holds vectors of at most {DIM_MAX} numbers, not {dim}", "dim")
    target = new_generation(connection, spec, embedding_version, dim)
    named = GenerationName(target.name, embedding_version)
    current = record.current
    copied = _CopyState(target, 0)
    if current is not None:
        # Most of it while others write; what they wrote meanwhile when nobody does.
        copied = _copy(connection, spec, current, copied, with_contents=begins.with_contents)
    with _writers_waiting(connection, spec):
        if current is not None:
            _copy(connection, spec, current, copied, with_contents=begins.with_contents)
        store_pointer(connection, spec, record.pointer.with_next(named))


def new_generation(
    connection: BoundedConnection, spec: CollectionSpec, embedding_version: str, dim: int
) -> GenerationRecord:
    """Make the tables of a generation, which no pointer names yet."""
    with connection.transaction():
        found = connection.execute(
            "UPDATE index_schema SET generations_begun = generations_begun + 1 RETURNING generations_begun"
        ).fetchone()
        assert found is not None
        number = int(found[0])
        for statement in generation_tables(number, spec.id_kind, dim):
            connection.execute(statement.encode())
        connection.execute(
            "INSERT INTO generation(number, collection, embedding_version, dim) VALUES(%s, %s, %s, %s)",
            (number, spec.name, embedding_version, dim),
        )
        begin_words(connection, number, spec)
    return GenerationRecord(number, embedding_version, dim, 0, 0, 0, 0, 0, 0, "", 0, 0.0)


class _CopyState(NamedTuple):
    """How far a copy has come. seq: of the source."""

    target: GenerationRecord
    seq: int


def _copy(
    connection: BoundedConnection,
    spec: CollectionSpec,
    source: GenerationRecord,
    copied: _CopyState,
    *,
    with_contents: bool,
) -> _CopyState:
    """Give the target what was written to the source since, less vectors: who is known, active, deleted,
    metadata and, with_contents, the kept content."""
    target, seq = copied
    while True:
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM {rows_table(source.number)} WHERE until IS NULL AND seq > {seq} "
            f"ORDER BY seq LIMIT {_PAGE_ROWS}".encode(),
            binary=True,
        ).fetchall()
        if not found:
            return _CopyState(target, seq)
        rows = [
            Row(item_id, at, deleted, active, version, content_hash, metadata, 0, None)
            for item_id, at, deleted, active, version, content_hash, metadata in found
        ]
        made_of_content = [row.id for row in rows if row.content_hash is not None and with_contents]
        kept = read_contents(connection, source.number, made_of_content, spec.id_kind)
        batch = WriteBatch(
            [carried(row, kept.get(row.id)) for row in rows if not row.deleted],
            [ItemDelete(row.id, row.source_version) for row in rows if row.deleted],
        )
        with connection.transaction():
            newest = rows_of(read_newest(connection, spec, target, [batch]).fetchall())
            work = transaction_rows(target, newest)
            job = WriteJob(batch, {item.id for item in batch.items})
            apply_batch(work, job, ShareHasher(target.embedding_version), METADATA_BYTES_MAX)
            target = changed_counts(target, work, put_versions(connection, spec.id_kind, target, work))
            put_words(connection, target.number, spec, list(work.changed.values()))
            store_counts(connection, target, work)
        seq = rows[-1].seq


def read_contents(
    connection: BoundedConnection, number: int, ids: Sequence[Id], id_kind: IdKind
) -> dict[Id, KeptContent]:
    """Return what is kept of these ids; whether it is an item's content its content_hash tells."""
    if not ids:
        return {}
    found = connection.execute(
        f"SELECT id, content_hash, kind, data FROM {content_table(number)} WHERE id = ANY(%s)".encode(),
        (id_array(ids, id_kind),),
        binary=True,
    )
    return {item_id: KeptContent(Content(kind, data), held) for item_id, held, kind, data in found}
