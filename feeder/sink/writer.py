"""The one way into the service: changes and the cursor they bring, durable together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from feeder.changes import Changes
from feeder.digest import Sums, bucket_of
from feeder.errors import ImportRefused, ServiceDown, SettingsWrong
from feeder.sink.generation_state import WrittenGeneration
from item_rules.ids import id_fault, kind_of
from vector_client.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    KeyRefused,
    NoAnswer,
    NotFound,
    NotSent,
    Refused,
    Unavailable,
)
from vector_client.http import VectorClient
from vector_client.types import CollectionState, Differing, Digest, Id, Item, Rejected, Written

REQUEST_BYTES_MAX = 48 * 1024 * 1024
ITEM_BYTES = 600
"""What an item weighs without vector, content and metadata: id, flags, names of fields."""

LOOKED_UP_MAX = 64
"""So many items are looked up one by one; of more the service lists their parts of the digest in one pass."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What the service did with Changes; rejected: refused one by one, with reasons. vanished, reappeared,
    unknown_ids: see vector_client.types.Written."""

    upserted: int
    deleted: int
    stale_ignored: int
    rejected: Sequence[Rejected]
    seq: int
    vanished: int | None = None
    reappeared: int | None = None
    unknown_ids: Sequence[Id] = ()


def joined(results: Sequence[WriteResult]) -> WriteResult:
    """Return what several writes did together; `results` holds one or more, in order."""
    return WriteResult(
        sum(each.upserted for each in results),
        sum(each.deleted for each in results),
        sum(each.stale_ignored for each in results),
        [row for each in results for row in each.rejected],
        results[-1].seq,
        _sum(each.vanished for each in results),
        _sum(each.reappeared for each in results),
        [item_id for each in results for item_id in each.unknown_ids],
    )


class Writer:
    """Writes to one collection. For one thread; sends the batches of one call over several connections.

    The ids of one call differ, so its batches may arrive in any order; the next call waits for all of them.
    The cursor goes with the last batch, alone, and so do deletes and as many inactive items as it holds: what
    may vanish by a call is one commit with the cursor that counts it. A feeder that dies before it repeats
    the call, which is safe because every write says what holds, not what to add.
    """

    def __init__(
        self,
        client: VectorClient,
        collection: str,
        *,
        dim: int,
        batch_items: int,
        connections: int,
        generation: WrittenGeneration | None = None,
    ) -> None:
        """generation: None is the current one."""
        self._client = client
        self._collection = collection
        self._generation = generation or WrittenGeneration(collection)
        self.batch_items = max(1, min(batch_items, REQUEST_BYTES_MAX // (dim * 16 // 3 + ITEM_BYTES)))
        self._connections = connections
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the threads that send batches."""
        self._pool = ThreadPoolExecutor(self._connections, thread_name_prefix="upsert")

    def close(self) -> None:
        """End them; batches that wait are dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def state(self) -> CollectionState:
        """Return what the service holds of this collection's generation. Raises SettingsWrong when it has no
        such collection, ImportRefused when it has not that generation, and ServiceDown with the service's own
        reason when it can't serve it."""
        with service_errors():
            states = self._client.status()
        if self._collection not in states:
            raise SettingsWrong(
                f"the service has no collection {self._collection!r}; it has {', '.join(sorted(states))}",
                hint="Give both the same COLLECTIONS_FILE.",
            )
        state = states[self._collection]
        if state.problem:
            raise ServiceDown(f"the service can't serve {self._collection!r}: {state.problem}")
        return self._generation.state_in(state)

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> WriteResult:
        """Store everything, then the cursors, in one commit with the last batch. An item that can't be sent,
        or that the service refuses whatever else comes with it, is in `rejected`.

        Raises ServiceDown (repeat later), ImportRefused (another embedding_version serves), SettingsWrong.
        """
        weighed, rejected = _sorted_out(changes.items)
        from_the_end = sorted(weighed, key=lambda pair: pair[0].active)  # what is sent last comes first
        batches = list(_by_weight(from_the_end, self.batch_items))
        batches.reverse()
        last = batches.pop() if batches else ()
        with service_errors():
            waiting = [self._send(batch, changes.embedding_version) for batch in batches]
            written = [each for future in waiting for each in future.result()]
            written += self._store_last(last, changes, cursors)
        return WriteResult(
            sum(each.upserted for each in written),
            sum(each.deleted for each in written),
            sum(each.stale_ignored for each in written),
            [*rejected, *(row for each in written for row in each.rejected)],
            written[-1].seq,
            _sum(each.vanished for each in written),
            _sum(each.reappeared for each in written),
            [item_id for each in written for item_id in each.unknown_ids],
        )

    def digest(self) -> Digest:
        """Return the proof of what the service holds."""
        with service_errors():
            return self._client.digest(self._collection, self._generation.embedding_version)

    def differing(self, sums: Sums) -> Differing:
        """Return what the service holds where its sums are not these."""
        with service_errors():
            packed, version = sums.astype("<u8").tobytes(), self._generation.embedding_version
            return self._client.differing(self._collection, packed, version)

    def showing(self, ids: Sequence[Id]) -> int:
        """Return how many of these items a search of the generation can return."""
        client, collection = self._client, self._collection
        asked, version = _holdable(ids), self._generation.embedding_version
        with service_errors():
            if version is None and len(asked) <= LOOKED_UP_MAX:
                return sum(client.is_live(collection, item_id) for item_id in asked)
            numbers = sorted({bucket_of(item_id) for item_id in asked})
            rows = client.digest_rows(collection, numbers, version) if numbers else []
        wanted = set(asked)
        return sum(row.active and row.has_vector for row in rows if row.id in wanted)

    def _send(self, batch: Sequence[Item], version: str | None) -> Future[Sequence[Written]]:
        assert self._pool is not None, "start() comes first"
        return self._pool.submit(self._store, batch, version)

    def _store(self, batch: Sequence[Item], version: str | None) -> Sequence[Written]:
        """Where the service refuses the whole batch for its size or for an item, send its halves: one row
        must never end an import. An item that is refused alone is rejected."""
        try:
            return [
                self._client.upsert(
                    self._collection,
                    batch,
                    embedding_version=version,
                    partial=True,
                    except_versions=self._generation.except_versions,
                )
            ]
        except BadRequest as exc:
            if not _is_of_items(exc):
                raise
            if len(batch) == 1:
                return [_nothing_but(Rejected(batch[0].id, exc.code, exc.detail))]
        half = len(batch) // 2
        return [*self._store(batch[:half], version), *self._store(batch[half:], version)]

    def _store_last(
        self, batch: Sequence[Item], changes: Changes, cursors: Mapping[str, str]
    ) -> Sequence[Written]:
        def store(items: Sequence[Item]) -> Written:
            return self._client.upsert(
                self._collection,
                items,
                embedding_version=changes.embedding_version if items else self._generation.embedding_version,
                delete_ids=_holdable(changes.delete_ids),
                delete_version=changes.delete_version,
                cursors=cursors,
                partial=True,
                except_versions=self._generation.except_versions,
            )

        try:
            return [store(batch)]
        except BadRequest as exc:
            if not batch or not _is_of_items(exc):
                raise
        return [*self._store(batch, changes.embedding_version), store(())]


def _holdable(ids: Iterable[Id]) -> list[Id]:
    """Return those that an index can hold at all; of the others there is nothing to delete or to look up."""
    return [item_id for item_id in ids if id_fault(item_id, kind_of(item_id)) is None]


def _is_of_items(refusal: BadRequest) -> bool:
    """Tell whether fewer items, or others, may be taken."""
    locs = [each.get("loc") for each in refusal.errors if isinstance(each, dict)]
    return refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or any(
        isinstance(loc, list) and loc[:2] == ["body", "items"] for loc in locs
    )


def _nothing_but(rejected: Rejected) -> Written:
    return Written(0, 0, 0, [rejected], seq=0, version="", vanished=0, reappeared=0)


def _sorted_out(items: Sequence[Item]) -> tuple[list[tuple[Item, int]], list[Rejected]]:
    """Return the items that can be sent, each with its weight in bytes, and the others."""
    weighed: list[tuple[Item, int]] = []
    rejected: list[Rejected] = []
    for item in items:
        fault = id_fault(item.id, kind_of(item.id))
        if fault is not None:
            rejected.append(Rejected(item.id, "invalid_id", f"The id {fault}."))
            continue
        try:
            weighed.append((item, _weight(item)))
        except (TypeError, ValueError) as exc:
            rejected.append(Rejected(item.id, "invalid_request", f"No JSON can hold it: {exc}."))
    return weighed, rejected


def _weight(item: Item) -> int:
    """Raises TypeError or ValueError for what JSON can't hold. Vectors are alike: batch_items counts
    them."""
    metadata = 0 if item.metadata is None else len(orjson.dumps(item.metadata))
    text = 0 if item.text is None else len(item.text.encode())
    return ITEM_BYTES + metadata + text + 4 * len(item.image or b"") // 3


def _sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None where one is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _by_weight(weighed: Sequence[tuple[Item, int]], items_max: int) -> Iterator[Sequence[Item]]:
    """Part items so that each request stays below REQUEST_BYTES_MAX; pictures weigh what they weigh."""
    batch: list[Item] = []
    weight = 0
    for item, each in weighed:
        if batch and (len(batch) >= items_max or weight + each > REQUEST_BYTES_MAX):
            yield batch
            batch, weight = [], 0
        batch.append(item)
        weight += each
    if batch:
        yield batch


@contextmanager
def service_errors() -> Iterator[None]:
    """Say the service's refusals in the feeder's words."""
    try:
        yield
    except (NoAnswer, Unavailable, BadAnswer) as exc:
        raise ServiceDown(f"the service cannot take part now: {exc}", hint=_hint_of(exc)) from exc
    except Conflict as exc:
        raise ImportRefused(f"the service refuses these vectors: {exc.detail}", hint=exc.hint) from exc
    except (KeyRefused, NotFound) as exc:
        hint = exc.hint or "Check WRITE_API_KEY, ADMIN_API_KEY and ML_INFERENCE_URL."
        raise SettingsWrong(f"the service refuses the feeder: {exc}", hint=hint) from exc
    except NotSent as exc:
        raise ImportRefused(f"a request of the feeder can't be sent: {exc}") from exc
    except BadRequest as exc:
        hint = exc.hint or "Feeder and service may be of different releases: update both."
        raise ImportRefused(f"the service refuses a request of the feeder: {exc}", hint=hint) from exc


def _hint_of(exc: Exception) -> str:
    return exc.hint if isinstance(exc, Refused) else ""
