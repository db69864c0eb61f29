"""A `VectorIndex` of dictionaries and loops: slow, obvious, and held to the same contract as the engine."""

from __future__ import annotations

import copy
import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from index_store.answers.validation import (
    check_dim,
    check_ids,
    checked_batch,
    checked_request,
    is_by_words_alone,
)
from index_store.errors import (
    AnswerLimitExceeded,
    GenerationConflict,
    IndexStoreError,
    InvalidRequest,
    PageExpired,
    SeqNotReached,
    UnknownCollection,
    VersionMismatch,
    without_errors,
)
from index_store.filter.compile import compile_filter
from index_store.record import digest
from index_store.types import (
    ALIKE,
    DIGEST_BUCKETS,
    Ack,
    CollectionSpec,
    CollectionStatus,
    Digest,
    DigestRow,
    GenerationStatus,
    Hit,
    Id,
    ItemWrite,
    NewGeneration,
    PageKey,
    SearchOutcome,
    SearchRequest,
    SearchResult,
    StoredItem,
    WriteBatch,
)
from tests.reference_filter import held, keys_in, matches
from tests.reference_ranking import ranked
from tests.reference_shelf import Shelf, is_too_large


class ReferenceIndex:
    """Fits `VectorIndex`, `BatchSearch` and `SeqSource`; keeps every past state, so that pages never
    expire."""

    def __init__(self, specs: Sequence[CollectionSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._roles: dict[str, dict[str, Shelf]] = {spec.name: {} for spec in specs}
        self._made = 0
        self.text_weight = 0.0
        """Of searches by words that begin: the engine measures it."""
        self._lock = threading.RLock()

    def search(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchResult]:
        return without_errors(self.search_each(collection, requests))

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        with self._lock:
            spec = self._spec(collection)
            return [self._outcome(spec, request) for request in requests]

    def _outcome(self, spec: CollectionSpec, request: SearchRequest) -> SearchOutcome:
        try:
            return self._answer(spec, checked_request(request, spec))
        except IndexStoreError as exc:
            return exc

    def _answer(self, spec: CollectionSpec, request: SearchRequest) -> SearchResult:
        shelf = self._roles[spec.name].get("current")
        served = shelf.version if shelf else ""
        if request.filter is not None:
            compile_filter(request.filter)
        if request.embedding_version not in (None, served):
            raise VersionMismatch(spec.name, served, str(request.embedding_version))
        if shelf is None:
            if request.after:
                raise PageExpired("gone", "cursor")
            _check_vector(request, spec.dim)
            return SearchResult((), "", "", 0, True, None)
        if request.after and request.after.generation != shelf.name:
            raise PageExpired("gone", "cursor")
        _check_vector(request, shelf.dim)
        if (request.min_seq or 0) > shelf.seq:
            raise SeqNotReached("not reached")
        seq = request.after.seq if request.after else shelf.seq
        if request.after and seq not in shelf.past:
            raise PageExpired("gone", "cursor")
        past = shelf.past[seq] if request.after else shelf.items
        found = ranked(spec, request, past, shelf.items, self.text_weight)
        page = found[request.offset : request.offset + request.k]
        exhausted = len(found) <= request.offset + request.k
        hits = [
            Hit(
                item.id,
                distance,
                item.metadata if request.with_metadata else None,
                item.vector if request.with_vectors else None,
            )
            for _, _, item, distance in page
        ]
        told = sum(
            len(json.dumps(hit.metadata, ensure_ascii=False, separators=(",", ":")).encode())
            for hit in hits
            if hit.metadata
        )
        if request.metadata_bytes_max is not None and told > request.metadata_bytes_max:
            raise AnswerLimitExceeded("top_k asks for too much metadata", "top_k")
        weight = request.after.text_weight if request.after else self.text_weight
        key = None if exhausted or not hits else PageKey(shelf.name, seq, page[-1][0], hits[-1].id, weight)
        told_of = [item.metadata or {} for item in shelf.items.values()]
        unknown = [key for key in keys_in(request.filter or {}) if not any(held(key, m) for m in told_of)]
        return SearchResult(hits, shelf.name, shelf.version, seq, exhausted, key, unknown)

    def newest_seq(self, collection: str) -> int | None:
        shelf = self._roles[self._spec(collection).name].get("current")
        return shelf.seq if shelf else 0

    def is_caught_up(self, collection: str) -> bool:
        return bool(self._spec(collection))

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        spec = self._spec(collection)
        batch = checked_batch(batch, spec, dims=self.dims_by_version(collection))
        with self._lock:
            shelves = self._roles[collection]
            if batch.embedding_version is None:
                if "current" not in shelves:
                    raise GenerationConflict("no generation")
                addressed = shelves["current"]
            else:
                named = [s for s in shelves.values() if s.version == batch.embedding_version]
                if not named:
                    current = shelves.get("current")
                    raise VersionMismatch(
                        collection, current.version if current else "", batch.embedding_version
                    )
                addressed = named[0]
            order = [
                shelf
                for role in ("current", "next", "former")
                if (shelf := shelves.get(role))
                and (shelf is addressed or shelf.version not in batch.except_versions)
            ]
            acks: dict[str, Ack] = {}
            known: set[Id] = set()
            told: set[Id] = set()
            for shelf in order:
                acks[shelf.name], held = self._commit(shelf, batch, shelf is addressed, known)
                known = known if len(acks) > 1 else held
                told |= held
            ack = acks[addressed.name]
            return replace(ack, unknown_ids=tuple(each for each in ack.unknown_ids if each not in told))

    def _commit(
        self, shelf: Shelf, batch: WriteBatch, is_addressed: bool, known: set[Id]
    ) -> tuple[Ack, set[Id]]:
        items, deletes = list(batch.items), list(batch.deletes)
        passed_over = 0
        if batch.only_where is not None:
            passing = {i for i, item in shelf.items.items() if matches(batch.only_where, item.metadata or {})}
            passed_over = sum(one.id not in passing for one in (*items, *deletes))
            items = [item for item in items if item.id in passing]
            deletes = [delete for delete in deletes if delete.id in passing]
        if not is_addressed:
            items = [
                item if item.vector is None else replace(item, vector=None, content_hash=None)
                for item in items
                if item.vector is None
                or item.active is not None
                or item.metadata is not None
                or item.merge is not None
            ]
        ids = {*(item.id for item in items), *(delete.id for delete in deletes)}
        was_live = {i: i in shelf.items and shelf.items[i].is_live for i in ids & shelf.known}
        unknown: dict[Id, None] = {}
        too_large: dict[Id, None] = {}
        upserted = stale = 0
        for item in items:
            if item.vector is None and item.id not in shelf.items and item.id not in known:
                unknown[item.id] = None
            elif item.merge is not None and is_too_large(shelf, item):
                too_large[item.id] = None
            elif shelf.upsert(item):
                upserted += 1
            else:
                stale += 1
        deleted = [shelf.delete(delete.id, delete.source_version) for delete in deletes]
        if is_addressed:
            shelf.cursors.update(batch.cursors)
        shelf.past[shelf.seq] = copy.copy(shelf.items)
        stale += deleted.count(-1)
        is_live = {i: i in shelf.items and shelf.items[i].is_live for i in was_live}
        vanished = sum(was and not is_live[i] for i, was in was_live.items())
        reappeared = sum(not was and is_live[i] for i, was in was_live.items())
        counts = (upserted, deleted.count(1), stale, shelf.seq)
        ack = Ack(*counts, shelf.version, vanished, reappeared, tuple(unknown), passed_over, tuple(too_large))
        return ack, {item.id for item in items} - set(unknown)

    def get(self, collection: str, ids: Sequence[Id]) -> list[StoredItem | None]:
        check_ids(ids, self._spec(collection))
        shelf = self._roles[collection].get("current")
        return [shelf.items.get(item_id) if shelf else None for item_id in ids]

    def status(self, collection: str) -> CollectionStatus:
        spec = self._spec(collection)
        found: dict[str, GenerationStatus] = {}
        for role in ("current", "next", "former"):
            if shelf := self._roles[collection].get(role):
                live = sum(item.is_live for item in shelf.items.values())
                found[role] = GenerationStatus(
                    shelf.name,
                    role,
                    shelf.version,
                    len(shelf.items),
                    live,
                    shelf.seq,
                    dict(shelf.cursors),  # type: ignore[arg-type]
                    dim=shelf.dim,
                )
        others = [status for role, status in found.items() if role != "current"]
        return CollectionStatus(spec, found.get("current"), others)

    def digest(
        self, collection: str, parts: int = DIGEST_BUCKETS, embedding_version: str | None = None
    ) -> Digest:
        shelf = self._of_version(collection, embedding_version)
        if parts not in [2**n for n in range(21)]:
            raise InvalidRequest("parts", "parts")
        sums: dict[int, int] = {}
        for row in self._digest_rows(shelf):
            digest.add(sums, digest.bucket_of(row.id), row.sum)
        root = digest.root_of(digest.buckets_from(sums.items()))
        fine = [0] * parts
        for row in self._digest_rows(shelf):
            fine[zlib.crc32(digest.id_bytes(row.id)) % parts] += row.sum
        return Digest(root, np.array([each % 2**64 for each in fine], np.uint64), len(shelf.items), shelf.seq)

    def digest_rows(
        self,
        collection: str,
        numbers: Sequence[int],
        parts: int = DIGEST_BUCKETS,
        embedding_version: str | None = None,
    ) -> Iterator[DigestRow]:
        shelf = self._of_version(collection, embedding_version)
        if any(not 0 <= number < parts for number in numbers):
            raise InvalidRequest("bucket", "bucket")
        rows = self._digest_rows(shelf)
        return (row for row in rows if zlib.crc32(digest.id_bytes(row.id)) % parts in numbers)

    def _digest_rows(self, shelf: Shelf) -> Iterator[DigestRow]:
        hasher = digest.ShareHasher(shelf.version)
        for item in shelf.items.values():
            vector = None if item.vector is None else item.vector.astype("<f4").tobytes()
            share = hasher.share(item.id, item.active, vector, item.content_hash)
            yield DigestRow(item.id, share, item.active, vector is not None)

    def dims_by_version(self, collection: str) -> Mapping[str, int]:
        self._spec(collection)
        found = self._roles[collection]
        return {
            found[role].version: found[role].dim for role in ("current", "next", "former") if role in found
        }

    def advance(
        self,
        collection: str,
        step: str,
        embedding_version: str,
        begins: NewGeneration = ALIKE,
        *,
        is_forced: bool = False,
    ) -> CollectionStatus:
        spec = self._spec(collection)
        with self._lock:
            shelves = self._roles[collection]
            if step == "begin":
                self._begin(
                    shelves,
                    embedding_version,
                    begins.dim or next(iter(self.dims_by_version(collection).values()), spec.dim),
                )
            else:
                role = "next" if step in ("promote", "abort") else "former"
                if role not in shelves or shelves[role].version != embedding_version:
                    raise GenerationConflict(step)
                if step in ("promote", "rollback") and not is_forced:
                    _refuse_what_is_shown_again(shelves["current"], shelves[role])
                moved = shelves.pop(role)
                if step not in ("abort", "retire"):
                    shelves["former"] = shelves["current"]
                    shelves["current"] = moved
        return self.status(collection)

    def _begin(self, shelves: dict[str, Shelf], version: str, dim: int) -> None:
        if "next" in shelves or any(shelf.version == version for shelf in shelves.values()):
            raise GenerationConflict("begin")
        self._made += 1
        fresh = Shelf(f"r{self._made}", version, dim)
        if current := shelves.get("current"):
            for item in sorted(current.items.values(), key=lambda one: one.seq):
                fresh.upsert(ItemWrite(item.id, None, item.active, item.metadata, item.source_version))
            for item_id, known in current.tombstones.items():
                if known is not None:
                    fresh.delete(item_id, known)
        fresh.past[fresh.seq] = copy.copy(fresh.items)
        shelves["next" if "current" in shelves else "current"] = fresh

    def close(self) -> None:
        pass

    def _of_version(self, collection: str, version: str | None) -> Shelf:
        if version is None:
            return self._current(collection)
        shelves = self._roles[collection].values()
        for shelf in shelves:
            if shelf.version == version:
                return shelf
        raise VersionMismatch(collection, "", version)

    def _current(self, collection: str) -> Shelf:
        self._spec(collection)
        if "current" not in self._roles[collection]:
            raise GenerationConflict("no generation")
        return self._roles[collection]["current"]

    def _spec(self, collection: str) -> CollectionSpec:
        if collection not in self._specs:
            raise UnknownCollection(collection, "collection")
        return self._specs[collection]


def _check_vector(request: SearchRequest, dim: int) -> None:
    if not is_by_words_alone(request):
        check_dim(request.vector, dim, "vector")


def _refuse_what_is_shown_again(current: Shelf, target: Shelf) -> None:
    live = {item_id for item_id, item in target.items.items() if item.is_live}
    hidden = {item_id for item_id, item in current.items.items() if not item.active}
    if live & hidden.union(current.tombstones):
        raise GenerationConflict("shown again")
