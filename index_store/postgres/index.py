"""`VectorIndex` over PostgreSQL with pgvector: any number of processes over one database.

What an answer or a write means is decided by the code that the embedded engine uses too (`record`, `answers`,
`query`); here are the statements that read and write rows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from psycopg import errors

from index_store.ann.compiled.all_kernels import warm_kernels
from index_store.answers.requests import outcome_of
from index_store.answers.validation import check_ids, check_parts, check_spec, check_version, checked_batch
from index_store.awaiting import AwaitingItem
from index_store.errors import (
    IndexStoreError,
    InvalidVector,
    Unavailable,
    UnknownCollection,
    without_errors,
)
from index_store.footprint import Footprint
from index_store.hints import TRY_AGAIN
from index_store.postgres.connections import BoundedConnection, Connections, PostgresLimits
from index_store.postgres.generations import (
    CollectionRecord,
    GenerationRecord,
    collection_record,
    newest_of,
)
from index_store.postgres.listing.row_items import RowItems
from index_store.postgres.opening import has_schema, open_schema
from index_store.postgres.parameters import int_array
from index_store.postgres.reading import bucket_sums, one_moment, read_items, status_of
from index_store.postgres.schema import rows_table
from index_store.postgres.searches.collection_search import CollectionSearch, read_collection
from index_store.postgres.searches.known_keys import RowKeys
from index_store.postgres.searches.row_fetcher import GRAPH_FROM
from index_store.postgres.searches.selectivity import FilterShares
from index_store.postgres.sources.generation_reader import GenerationSource
from index_store.postgres.sources.generation_reading import (
    note_origin,
    read_awaiting,
    read_footprint,
    read_lost,
    read_some_contents,
)
from index_store.postgres.words import is_other_fields, reread_words
from index_store.postgres.writes.batches import COLLECTION_LOCK, write_batches
from index_store.postgres.writes.commit_queue import CommitQueue
from index_store.postgres.writes.steps import StepClock, take_step
from index_store.record import digest
from index_store.types import (
    ALIKE,
    DIGEST_BUCKETS,
    Ack,
    CollectionSpec,
    CollectionStatus,
    Content,
    Digest,
    DigestRow,
    Id,
    NewGeneration,
    SearchOutcome,
    SearchRequest,
    SearchResult,
    StoredItem,
    WriteBatch,
)
from item_rules.metadata import METADATA_BYTES_MAX

log = logging.getLogger(__name__)

_MIN_SEQ_WAIT_S = 0.2
_TRIES = 5

Found = TypeVar("Found")


@dataclass(slots=True)
class _Collection:
    """What a process knows of one collection. record: as last heard, assigned whole."""

    spec: CollectionSpec
    search: CollectionSearch
    queue: CommitQueue
    record: CollectionRecord


class _PostgresCollections(dict[str, _Collection]):
    """Every collection by its name. Raises UnknownCollection."""

    def __missing__(self, name: str) -> _Collection:
        raise UnknownCollection(f"there is no collection {name!r}", "collection")


class PostgresIndex:
    """Fits `VectorIndex`, `BatchSearch`, `SeqSource` and `DimSource`. `open` before use, `close` after; all
    methods from any thread."""

    def __init__(
        self,
        dsn: str,
        specs: Sequence[CollectionSpec],
        *,
        limits: PostgresLimits | None = None,
        metadata_bytes_max: int = METADATA_BYTES_MAX,
        graph_from: int = GRAPH_FROM,
        timing: StepClock | None = None,
    ) -> None:
        """dsn: a URL or the key words of libpq; the first schema of its search_path holds the tables."""
        self._limits = limits or PostgresLimits()
        self._is_open = False
        self.connections = Connections(dsn, self._limits, self._check)
        self._metadata_bytes_max = metadata_bytes_max
        self._patience = timing or StepClock()
        self._collections = _PostgresCollections()
        self._noting = threading.Lock()
        keys, shares = RowKeys(), FilterShares()
        for spec in specs:
            check_spec(spec)
            search = CollectionSearch(
                spec, partial(self._note, spec.name), keys, shares,
                graph_from=graph_from, wait_s=_MIN_SEQ_WAIT_S,
            )  # fmt: skip
            nothing = collection_record(spec, [(None, None, None, 0.0, None)])
            queue = CommitQueue(partial(self._commit, spec.name), self._limits.write_s)
            self._collections[spec.name] = _Collection(spec, search, queue, nothing)
        self._items = RowItems(self.connections, self._spec_of, keys)
        self._source = GenerationSource(self.connections, self._spec_of, keys, shares, graph_from=graph_from)

    def _spec_of(self, name: str) -> CollectionSpec:
        return self._collections[name].spec

    def _note(self, name: str, heard: CollectionRecord | GenerationRecord) -> None:
        found = self._collections[name]
        with self._noting:
            found.record = newest_of(found.record, heard)

    def _check(self, connection: BoundedConnection) -> object:
        """Nothing is read or written where the tables are not this version's, or not of these collections."""
        specs = [each.spec for each in self._collections.values()]
        return has_schema(connection) if self._is_open else open_schema(connection, specs)

    def open(self) -> Mapping[str, Unavailable]:
        """Make or find the tables and read which generations there are. Return why that can't be done, by
        collection; a later call tries again."""
        warm_kernels()
        try:
            with self.connections.using(self._limits.write_s) as connection:
                for each in self._collections.values():
                    each.record = read_collection(connection, each.spec)
            self._is_open = True
            for each in self._collections.values():
                self._reread_words(each)
        except Unavailable as exc:
            return dict.fromkeys(self._collections, exc)
        return {}

    def _reread_words(self, found: _Collection) -> None:
        """Read the words of a collection whose lexical fields are others than before; writes wait for that.
        Where it can't be done now, searches by words are refused, and the next process tries again."""
        try:
            with self.connections.using(self._limits.pass_s) as connection:
                for generation in found.record.in_order:
                    if is_other_fields(connection, generation.number, found.spec):
                        with connection.transaction():
                            connection.execute(COLLECTION_LOCK, (found.spec.name,))
                            if is_other_fields(connection, generation.number, found.spec):
                                reread_words(connection, generation.number, found.spec)
                        log.info("words_read", extra={"generation": generation.name})
        except Unavailable as exc:
            log.error("words_not_read", extra={"collection": found.spec.name, "error": str(exc)})

    def close(self) -> None:
        """Close the connections; acknowledged writes are on the server's disk."""
        self.connections.close()

    def search(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """See `VectorIndex.search`."""
        return without_errors(self.search_each(collection, requests))

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        """See `BatchSearch.search_each`."""
        found = self._collections[collection]
        outcomes: list[SearchOutcome] = []
        with self.connections.using(self._limits.read_s) as connection:
            for request in requests:
                answer = partial(_answered, found, connection)
                outcomes.append(outcome_of(request, found.spec, answer))
        return outcomes

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        """See `VectorIndex.write`."""
        found = self._collections[collection]
        try:
            checked = checked_batch(batch, found.spec, self._metadata_bytes_max, found.record.dims)
        except InvalidVector:  # perhaps of a generation that is not known here yet
            with self.connections.using(self._limits.read_s) as connection:
                found.record = read_collection(connection, found.spec)
            checked = checked_batch(batch, found.spec, self._metadata_bytes_max, found.record.dims)
        return found.queue.write_in_turn(checked)

    def _commit(self, name: str, batches: Sequence[WriteBatch]) -> Sequence[Ack | IndexStoreError]:
        found = self._collections[name]
        with self.connections.using(self._limits.write_s) as connection:
            written = write_batches(connection, found.record, batches, self._metadata_bytes_max)
        self._note(name, written.record)
        return written.outcomes

    def get(self, collection: str, ids: Sequence[Id]) -> list[StoredItem | None]:
        """See `VectorIndex.get`."""
        found = self._collections[collection]
        check_ids(ids, found.spec)
        with self.connections.using(self._limits.read_s) as connection:
            items = _of_current(connection, found, partial(read_items, connection, found.spec, ids))
        return [(items or {}).get(item_id) for item_id in ids]

    def item_source(self) -> RowItems:
        """Return what lists and counts stored items; fits `ItemSource`."""
        return self._items

    def newest_seq(self, collection: str) -> int | None:
        """See `SeqSource.newest_seq`. Others commit without being heard of here: a search has to look."""
        assert self._collections[collection]
        return None

    def is_caught_up(self, collection: str) -> bool:
        """See `SeqSource.is_caught_up`. A search has nothing to do first: the rows are the server's."""
        return bool(self._collections[collection])

    def dims_by_version(self, collection: str) -> Mapping[str, int]:
        """See `DimSource.dims_by_version`."""
        return self._collections[collection].record.dims

    def status(self, collection: str) -> CollectionStatus:
        """See `VectorIndex.status`."""
        found = self._collections[collection]
        with self.connections.using(self._limits.read_s) as connection, one_moment(connection):
            record = read_collection(connection, found.spec)
            cursors = connection.execute(
                "SELECT generation, source, value FROM cursor WHERE generation = ANY(%s)",
                (int_array([each.number for each in record.in_order]),),
            ).fetchall()
        self._note(collection, record)
        return status_of(record, cursors)

    def digest(
        self, collection: str, parts: int = DIGEST_BUCKETS, embedding_version: str | None = None
    ) -> Digest:
        """See `VectorIndex.digest`."""
        found = self._collections[collection]
        check_parts(parts, ())
        with self.connections.using(self._limits.pass_s) as connection, one_moment(connection):
            generation = read_collection(connection, found.spec).require(embedding_version)
            sums = bucket_sums(connection, generation, parts)
        root = digest.root_of(digest.fold_buckets(sums, DIGEST_BUCKETS))
        return Digest(root, digest.fold_buckets(sums, parts), generation.items, generation.head)

    def digest_rows(
        self,
        collection: str,
        numbers: Sequence[int],
        parts: int = DIGEST_BUCKETS,
        embedding_version: str | None = None,
    ) -> Iterator[DigestRow]:
        """See `VectorIndex.digest_rows`. The rows are read before the first one is returned."""
        found = self._collections[collection]
        check_parts(parts, numbers)
        with self.connections.using(self._limits.pass_s) as connection, one_moment(connection):
            generation = read_collection(connection, found.spec).require(embedding_version)
            rows = connection.execute(
                f"SELECT id, share, active, vector IS NOT NULL FROM {rows_table(generation.number)} "
                "WHERE until IS NULL AND NOT deleted "
                f"AND (bucket & {parts - 1}) = ANY(%s) ORDER BY id".encode(),
                (int_array(list(numbers)),),
                binary=True,
            ).fetchall()
        return iter([DigestRow(each[0], digest.to_unsigned(each[1]), *each[2:]) for each in rows])

    def advance(
        self,
        collection: str,
        step: Literal["begin", "promote", "rollback", "abort", "retire"],
        embedding_version: str,
        begins: NewGeneration = ALIKE,
        *,
        is_forced: bool = False,
    ) -> CollectionStatus:
        """See `VectorIndex.advance`."""
        check_version(embedding_version)
        found = self._collections[collection]
        with self.connections.using(self._limits.pass_s) as connection:
            found.record = take_step(
                connection, found.spec, step, embedding_version, begins, self._patience, is_forced=is_forced
            )
        return self.status(collection)

    def footprints(self, collection: str) -> list[Footprint]:
        """See `FootprintSource.footprints`."""
        spec = self._collections[collection].spec
        with self.connections.using(self._limits.read_s) as connection:
            record = read_collection(connection, spec)
            return [read_footprint(connection, each) for each in record.in_order]

    def awaiting(
        self, collection: str, embedding_version: str, after: Id | None, limit: int
    ) -> list[AwaitingItem]:
        """See `RebuildSource.awaiting`."""
        spec = self._collections[collection].spec
        with self.connections.using(self._limits.pass_s) as connection:
            record = read_collection(connection, spec)
            if embedding_version not in record.dims:
                return []
            return read_awaiting(connection, record.require(embedding_version), after, limit)

    def find_lost(
        self, collection: str, embedding_version: str, suspects: Sequence[Id] | None = None
    ) -> list[Id]:
        """See `RebuildSource.find_lost`."""
        spec = self._collections[collection].spec
        with self.connections.using(self._limits.pass_s) as connection:
            record = read_collection(connection, spec)
            sides = record.require(None), record.require(embedding_version)
            return read_lost(connection, spec.id_kind, *sides, suspects)

    def content_sample(self, collection: str, limit: int) -> list[Content]:
        """See `RebuildSource.content_sample`."""
        spec = self._collections[collection].spec
        with self.connections.using(self._limits.read_s) as connection:
            current = read_collection(connection, spec).current
            return [] if current is None else read_some_contents(connection, current, limit)

    def catch_up_others(self, collection: str, wanted: Set[str] = frozenset()) -> Sequence[str]:  # noqa: ARG002
        """See `RebuildSource.catch_up_others`. The rows are the server's: there is nothing to read."""
        return list(self._collections[collection].record.dims)[1:]

    def record_origin(self, collection: str, embedding_version: str, origin: str) -> bool:
        """See `RebuildSource.record_origin`."""
        spec = self._collections[collection].spec
        with self.connections.using(self._limits.write_s) as connection:
            record = read_collection(connection, spec)
            if embedding_version not in record.dims:
                return False
            return note_origin(connection, record.require(embedding_version), origin)

    def replay_source(self) -> GenerationSource:
        """Return what reads any generation, and explains answers."""
        return self._source

    def word_source(self) -> GenerationSource:
        """Return what knows the words of each collection."""
        return self._source


def _answered(found: _Collection, connection: BoundedConnection, request: SearchRequest) -> SearchResult:
    return found.search.answer_from(connection, found.record, request)


def _of_current(
    connection: BoundedConnection, found: _Collection, read: Callable[[GenerationRecord], Found | None]
) -> Found | None:
    """Return what `read` finds in the current generation; it returns None where another one is current by
    now. None where there is none."""
    for _ in range(_TRIES):
        current = found.record.current
        if current is not None:
            try:
                items = read(current)
            except errors.UndefinedTable:
                items = None
            if items is not None:
                return items
        found.record = read_collection(connection, found.spec)
        if found.record.current is None:
            return None
    raise Unavailable(
        f"the generations of {found.spec.name!r} change faster than they can be read", TRY_AGAIN
    )
