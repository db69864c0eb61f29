"""The embedded `VectorIndex`: collections in a data directory, searched in this process.

Several processes may hold one data directory; each sees the others' acknowledged writes in its next search
and their generation changes in its next call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import faiss

from index_store.ann.compiled.all_kernels import warm_kernels
from index_store.answers.hits import no_hits
from index_store.answers.requests import outcome_of
from index_store.answers.validation import (
    check_dim,
    check_ids,
    check_parts,
    check_spec,
    check_version,
    checked_batch,
)
from index_store.awaiting import AwaitingItem
from index_store.catalog.identity import record_origin
from index_store.contents.table import read_awaiting, read_some
from index_store.engine.collection import Collection, Step
from index_store.engine.generation import Generation
from index_store.engine.generation_batch import commit_each, takers_of
from index_store.engine.open_generations import OpenGenerations
from index_store.engine.reading.generation_reader import GenerationReader, current_generation, generation_of
from index_store.engine.reading.item_reader import ItemReader
from index_store.engine.reading.word_reader import WordReader
from index_store.engine.status import footprints, statuses
from index_store.engine.step_guard import lost_ids
from index_store.engine.write_order import WriteOrder
from index_store.errors import (
    Unavailable,
    UnknownCollection,
    VersionMismatch,
    without_errors,
)
from index_store.footprint import Footprint
from index_store.maintenance.backup import backup_data
from index_store.record.digest import BUCKETS
from index_store.record.generation_batch import GenerationWrite, acked
from index_store.storage.disk_guard import RESERVE_BYTES, Ballast, DiskGuard, FreeBytes, free_bytes
from index_store.storage.group_commit import WriterLimits
from index_store.storage.schema import Connector, connect_sqlite
from index_store.storage.store import Store
from index_store.types import (
    ALIKE,
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
    Trouble,
    WriteBatch,
)
from item_rules.metadata import METADATA_BYTES_MAX


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """min_seq_wait_s: how long a search waits for its min_seq. item_lock_wait_s: how long a write waits for
    another one of the same item. disk_reserve_bytes: room that writes leave
    free. metadata_bytes_max: of one item. writer: queue and transaction sizes."""

    min_seq_wait_s: float = 0.2
    item_lock_wait_s: float = 30.0
    disk_reserve_bytes: int = RESERVE_BYTES
    metadata_bytes_max: int = METADATA_BYTES_MAX
    writer: WriterLimits = field(default_factory=WriterLimits)


class _Collections(dict[str, Collection]):
    """Every collection by its name. Raises UnknownCollection."""

    def __missing__(self, name: str) -> Collection:
        raise UnknownCollection(f"there is no collection {name!r}", "collection")


class EmbeddedIndex:
    """Fits the ports of `index_store.port`. `open` before use, `close` after; all methods from any thread."""

    def __init__(
        self,
        data_dir: Path,
        specs: Sequence[CollectionSpec],
        *,
        limits: EngineLimits | None = None,
        connect: Connector = connect_sqlite,
        free: FreeBytes = free_bytes,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._data_dir = data_dir
        self._searching = threading.local()
        self._limits = limits or EngineLimits()
        self._clock = clock
        self._connect = connect
        self._free = free
        self._ballast = Ballast(data_dir, free)
        self._collections = _Collections()
        self._write_orders: dict[str, WriteOrder] = {}
        for spec in specs:
            check_spec(spec)
            directory = self._directory_of(spec.name)
            self._collections[spec.name] = Collection(directory, spec, self._make_store, connect, clock, now)
            self._write_orders[spec.name] = WriteOrder(directory, self._limits.item_lock_wait_s)

    def open(self) -> Mapping[str, Unavailable]:
        """Read every collection that is not open yet into memory. Return why some can't be opened, by name;
        the others serve, and a later call tries those again. From one thread at a time."""
        warm_kernels()
        failures = self._open_each()
        if not failures:
            self._ballast.refill(self._limits.disk_reserve_bytes)
        elif self._data_dir.is_dir() and self._ballast.release_if_full():
            failures = self._open_each()
        return failures

    def _open_each(self) -> dict[str, Unavailable]:
        failures: dict[str, Unavailable] = {}
        for name, collection in self._collections.items():
            try:
                collection.open()
            except Unavailable as exc:
                failures[name] = exc
            except BaseException:
                self.close()
                raise
        return failures

    def close(self) -> None:
        """Commit what waits and close every file; see `VectorIndex.close`."""
        for collection in self._collections.values():
            collection.close()

    def search(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        """See `VectorIndex.search`."""
        return without_errors(self.search_each(collection, requests))

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        """See `BatchSearch.search_each`. FAISS runs in the calling thread alone."""
        if not hasattr(self._searching, "is_alone"):
            # Requests are the parallel work; threads inside one search only wait for each other (1 ms to 9).
            faiss.omp_set_num_threads(1)  # of this thread alone
            self._searching.is_alone = True
        found = self._collections[collection]
        members = found.acquire()
        try:
            if members.current is None:
                return [outcome_of(request, found.spec, partial(no_hits, found.spec)) for request in requests]
            return members.current.answers(requests, self._limits.min_seq_wait_s)
        finally:
            found.release(members)

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        """See `VectorIndex.write`."""
        found = self._collections[collection]
        found.open_remaining()
        with found.members() as members:
            members.require_all()
            dims = members.dims
        batch = checked_batch(batch, found.spec, self._limits.metadata_bytes_max, dims)
        first: dict[str, GenerationWrite] = {}
        done: dict[str, GenerationWrite] = {}
        addressed = ""
        with ExitStack() as order:
            is_in_order = False
            # A generation may begin while others are being written: look again until none is missing.
            while True:
                with found.members() as members:
                    members.require_all()
                    addressed = addressed or _addressed(found.spec, members, batch).name
                    takers = takers_of(members.in_order(), batch, addressed)
                    waiting = [g for g in takers if g.name not in done]
                    if not waiting:
                        return acked({**done, **first}, addressed)
                    if is_in_order or len(members.generations) == 1:
                        commit_each(waiting, batch, addressed, done)
                        continue
                order.enter_context(self._write_orders[collection].holding(batch))
                is_in_order = True
                # Somebody else may have written these items since: all generations get this one once more.
                first, done = done, {}

    def newest_seq(self, collection: str) -> int | None:
        """See `VectorIndex`: the newest seq that is known without reading the disk."""
        return self._collections[collection].newest_seq()

    def is_caught_up(self, collection: str) -> bool:
        """See `SeqSource.is_caught_up`."""
        return self._collections[collection].is_caught_up()

    def get(self, collection: str, ids: Sequence[Id]) -> list[StoredItem | None]:
        """See `VectorIndex.get`."""
        found = self._collections[collection]
        check_ids(ids, found.spec)
        with found.members() as members:
            if members.current is None:
                return [None] * len(ids)
            rows = members.current.store.read(list(dict.fromkeys(ids)))
        return [rows[item_id].as_item() if item_id in rows else None for item_id in ids]

    def status(self, collection: str) -> CollectionStatus:
        """See `VectorIndex.status`."""
        found = self._collections[collection]
        with found.members() as members:
            found_statuses = statuses(members)
            troubles = [trouble for g in members.in_order() for trouble in g.store.troubles()]
            unopened, since = members.unopened, members.pointer.former_since or members.stamp[1] / 1e9
        troubles += [Trouble("generation_not_open", each.reason, each.hint) for each in unopened]
        current = [status for status in found_statuses if status.role == "current"]
        others = [status for status in found_statuses if status.role != "current"]
        first = current[0] if current else None
        return CollectionStatus(found.spec, first, others, list(dict.fromkeys(troubles)), since, unopened)

    def footprints(self, collection: str) -> list[Footprint]:
        """See `FootprintSource.footprints`."""
        with self._collections[collection].members() as members:
            return footprints(members)

    def digest(self, collection: str, parts: int = BUCKETS, embedding_version: str | None = None) -> Digest:
        """See `VectorIndex.digest`."""
        found = self._collections[collection]
        check_parts(parts, ())
        with found.members() as members:
            return generation_of(found.spec, members, embedding_version).store.compute_digest(parts)

    def digest_rows(
        self,
        collection: str,
        numbers: Sequence[int],
        parts: int = BUCKETS,
        embedding_version: str | None = None,
    ) -> Iterator[DigestRow]:
        """See `VectorIndex.digest_rows`. The rows are read before the first one is returned."""
        found = self._collections[collection]
        check_parts(parts, numbers)
        with found.members() as members:
            store = generation_of(found.spec, members, embedding_version).store
            return iter(list(store.compute_digest_rows(numbers, parts)))

    def dims_by_version(self, collection: str) -> Mapping[str, int]:
        """See `DimSource.dims_by_version`."""
        return self._collections[collection].open_generations.dims

    def advance(
        self,
        collection: str,
        step: Step,
        embedding_version: str,
        begins: NewGeneration = ALIKE,
        *,
        is_forced: bool = False,
    ) -> CollectionStatus:
        """See `VectorIndex.advance`."""
        check_version(embedding_version)
        self._collections[collection].apply_step(step, embedding_version, begins, is_forced=is_forced)
        return self.status(collection)

    def awaiting(
        self, collection: str, embedding_version: str, after: Id | None, limit: int
    ) -> list[AwaitingItem]:
        """See `RebuildSource.awaiting`."""
        with self._collections[collection].members() as members:
            generation = members.opened_version(embedding_version)
            if generation is None:
                return []
            with generation.store.reading() as connection:
                return read_awaiting(connection, after, limit)

    def find_lost(
        self, collection: str, embedding_version: str, suspects: Sequence[Id] | None = None
    ) -> list[Id]:
        """See `RebuildSource.find_lost`."""
        found = self._collections[collection]
        with found.members() as members:
            target = generation_of(found.spec, members, embedding_version).store
            return lost_ids(current_generation(members).store, target, suspects)

    def content_sample(self, collection: str, limit: int) -> list[Content]:
        """See `RebuildSource.content_sample`."""
        with self._collections[collection].members() as members:
            if members.current is None:
                return []
            with members.current.store.reading() as connection:
                return read_some(connection, limit)

    def catch_up_others(self, collection: str, wanted: Set[str] = frozenset()) -> list[str]:
        """See `RebuildSource.catch_up_others`."""
        found = self._collections[collection]
        found.open_remaining()
        with found.members() as members:
            return members.follow_others(wanted)

    def record_origin(self, collection: str, embedding_version: str, origin: str) -> bool:
        """See `RebuildSource.record_origin`."""
        with self._collections[collection].members() as members:
            generation = members.opened_version(embedding_version)
            if generation is None:
                return False
            return record_origin(generation.store.directory, self._connect, origin)

    def replay_source(self) -> GenerationReader:
        """Return what reads any generation."""
        return GenerationReader(self._collections)

    def word_source(self) -> WordReader:
        """Return what knows the words of each collection."""
        return WordReader(self._collections)

    def item_source(self) -> ItemReader:
        """Return what lists and counts stored items."""
        return ItemReader(self._collections)

    def backup(self, directory: Path) -> Mapping[str, int]:
        """Write a hot copy of all stores of the data directory to a new `directory`; return the seq of each
        copied store by file name.

        Reads and writes go on. The copy is whole when this returns and absent when it raises; every
        generation of every collection is in it as of one commit, with its cursors, without segments.
        `python -m index_store restore DIRECTORY DATA_DIR` puts it back. Takes about as long as copying the
        files: call it from a thread that may block, and only one at a time. `directory` must lie where the
        service may write and never come from a caller unchecked. Raises WriteFailed, StoreDamaged,
        Unavailable."""
        seqs: Mapping[str, int] = backup_data(self._data_dir, directory, self._connect).facts["seqs"]
        return seqs

    def _directory_of(self, collection: str) -> Path:
        return self._data_dir / "collections" / collection

    def _make_store(self, directory: Path, embedding_version: str) -> Store:
        return Store(
            directory,
            embedding_version,
            connect=self._connect,
            disk=DiskGuard(directory, self._limits.disk_reserve_bytes, self._free),
            limits=replace(self._limits.writer, metadata_bytes_max=self._limits.metadata_bytes_max),
        )


def _addressed(spec: CollectionSpec, members: OpenGenerations, batch: WriteBatch) -> Generation:
    """The generation whose Ack answers the write. Its dim is looked at once more: it may have begun after the
    batch was checked, whose vectors are all of one dim."""
    current = members.current
    if batch.embedding_version is None:
        return current_generation(members)
    if batch.is_for_current and current and current.embedding_version != batch.embedding_version:
        raise VersionMismatch(spec.name, current.embedding_version, batch.embedding_version)
    found = generation_of(spec, members, batch.embedding_version)
    for vector in (item.vector for item in batch.items if item.vector is not None):
        check_dim(vector, found.dim, "vector")
        break
    return found
