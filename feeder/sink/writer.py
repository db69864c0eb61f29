"""The one way into the service: changes and the cursor they bring, durable together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from feeder.changes import Changes
from feeder.digest import Sums, bucket_of
from feeder.errors import ImportRefused, ServiceDown, SettingsWrong
from vector_client.errors import BadAnswer, BadRequest, Conflict, KeyRefused, NoAnswer, NotFound, Unavailable
from vector_client.http import VectorClient
from vector_client.types import CollectionState, Differing, Digest, Id, Item, Rejected, Written

REQUEST_BYTES_MAX = 48 * 1024 * 1024
ITEM_BYTES = 600
"""What an item weighs beside its vector: id, flags, ordinary metadata."""

LOOKED_UP_MAX = 64
"""So many items are looked up one by one; of more the service lists their parts of the digest in one pass."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What the service did with Changes; `rejected` is set aside there, with its reasons. vanished,
    reappeared, unknown_ids: see vector_client.types.Written."""

    upserted: int
    deleted: int
    stale_ignored: int
    rejected: Sequence[Rejected]
    seq: int
    vanished: int | None = None
    reappeared: int | None = None
    unknown_ids: Sequence[Id] = ()


class Applier:
    """Writes to one collection. For one thread; sends the batches of one call over several connections.

    The ids of one call differ, so its batches may arrive in any order; the next call waits for all of them.
    The cursor goes with the last batch, alone: a feeder that dies before it repeats the call, which is safe
    because every write says what holds, not what to add.
    """

    def __init__(
        self, client: VectorClient, collection: str, *, dim: int, batch_items: int, connections: int
    ) -> None:
        self._client = client
        self._collection = collection
        self._batch_items = max(1, min(batch_items, REQUEST_BYTES_MAX // (dim * 16 // 3 + ITEM_BYTES)))
        self._connections = connections
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(self._connections, thread_name_prefix="upsert")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def state(self) -> CollectionState:
        """Return what the service holds of this collection. Raises SettingsWrong when it has none,
        and ServiceDown with the service's own reason when it can't serve it."""
        with service_errors():
            states = self._client.status()
        if self._collection not in states:
            raise SettingsWrong(
                f"the service has no collection {self._collection!r}; it has {', '.join(sorted(states))}"
            )
        state = states[self._collection]
        if state.problem:
            raise ServiceDown(f"the service can't serve {self._collection!r}: {state.problem}")
        return state

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> Applied:
        """Store everything, then the cursors, in one commit with the last batch.

        Raises ServiceDown (repeat later), ImportRefused (another embedding_version serves), SettingsWrong.
        """
        batches = list(_by_weight(changes.items, self._batch_items))
        last = batches.pop() if batches else ()
        written: list[Written] = []
        with service_errors():
            waiting = [self._send(batch, changes.embedding_version) for batch in batches]
            written += [future.result() for future in waiting]
            written.append(
                self._client.upsert(
                    self._collection,
                    last,
                    embedding_version=changes.embedding_version if last else None,
                    delete_ids=changes.delete_ids,
                    delete_version=changes.delete_version,
                    cursors=cursors,
                    partial=True,
                )
            )
        return Applied(
            sum(each.upserted for each in written),
            sum(each.deleted for each in written),
            sum(each.stale_ignored for each in written),
            [row for each in written for row in each.rejected],
            written[-1].seq,
            _sum(each.vanished for each in written),
            _sum(each.reappeared for each in written),
            [item_id for each in written for item_id in each.unknown_ids],
        )

    def digest(self) -> Digest:
        """Return the proof of what the service holds."""
        with service_errors():
            return self._client.digest(self._collection)

    def differing(self, sums: Sums) -> Differing:
        """Return what the service holds where its sums are not these."""
        with service_errors():
            return self._client.differing(self._collection, sums.astype("<u8").tobytes())

    def showing(self, ids: Sequence[Id]) -> int:
        """Return how many of these items a search can return."""
        client, collection = self._client, self._collection
        with service_errors():
            if len(ids) <= LOOKED_UP_MAX:
                return sum(client.is_live(collection, item_id) for item_id in ids)
            rows = client.digest_rows(collection, sorted({bucket_of(item_id) for item_id in ids}))
        asked = set(ids)
        return sum(row.active and row.has_vector for row in rows if row.id in asked)

    def _send(self, batch: Sequence[Item], version: str | None) -> Future[Written]:
        assert self._pool is not None, "start() comes first"
        return self._pool.submit(
            self._client.upsert, self._collection, batch, embedding_version=version, partial=True
        )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None where one is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _by_weight(items: Sequence[Item], items_max: int) -> Iterator[Sequence[Item]]:
    """Part items so that each request stays below REQUEST_BYTES_MAX; pictures weigh what they weigh."""
    batch: list[Item] = []
    weight = 0
    for item in items:
        each = ITEM_BYTES + 4 * len(item.image or b"") // 3 + 4 * len(item.text or "")
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
        raise ServiceDown(f"the service cannot take part now: {exc}") from exc
    except Conflict as exc:
        raise ImportRefused(f"the service refuses these vectors: {exc.detail}") from exc
    except (KeyRefused, NotFound) as exc:
        raise SettingsWrong(f"the service refuses the feeder: {exc}") from exc
    except BadRequest as exc:
        raise ImportRefused(f"the service refuses a request of the feeder: {exc}") from exc
