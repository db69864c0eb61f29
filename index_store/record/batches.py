"""What batches make of the rows that they touch: rows, contents and counts, in memory. Pure, no I/O.

A store reads the rows of `ids_of`, applies each batch with `apply_batch`, and writes what has changed, all in
one transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from index_store.contents.table import KeptContent
from index_store.record import digest
from index_store.record.digest import ShareHasher
from index_store.record.rows import Row, is_stale, tombstone, written
from index_store.types import Content, Id, ItemWrite, WriteBatch
from item_rules.metadata import text_bytes

Passes: TypeAlias = Callable[[Sequence[str | None]], Sequence[bool]]


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What one batch did. seq: the store's newest after it. vanished, reappeared: see types.Ack.
    unknown_ids: of items without a vector, those that this store does not hold. passed_over, too_large_ids:
    see types.Ack."""

    upserted: int
    deleted: int
    stale_ignored: int
    seq: int
    vanished: int
    reappeared: int
    unknown_ids: Sequence[Id] = ()
    passed_over: int = 0
    too_large_ids: Sequence[Id] = ()


@dataclass(frozen=True, slots=True)
class WriteJob:
    """A batch as one generation's store takes it. known_elsewhere: ids that another generation holds; what is
    said of them without a vector is stored here ahead of it. passes: which of these metadata, as JSON texts,
    may be written over; None: all."""

    batch: WriteBatch
    known_elsewhere: Set[Id] = frozenset()
    passes: Passes | None = None


@dataclass(slots=True)
class _BatchResult:
    """What was counted of one batch so far; see CommitResult."""

    passed_over: int
    upserted: int = 0
    deleted: int = 0
    stale: int = 0
    unknown: dict[Id, None] = field(default_factory=dict)
    too_large: dict[Id, None] = field(default_factory=dict)


@dataclass(slots=True)
class TransactionRows:
    """The rows that one transaction touches: as they were, and as they will be."""

    seq: int
    before: dict[Id, Row]
    damaged: dict[Id, Row]
    now: dict[Id, Row]
    changed: dict[Id, Row] = field(default_factory=dict)
    contents: dict[Id, KeptContent | None] = field(default_factory=dict)

    def change(self, row: Row, content: Content | None = None, *, is_made_anew: bool = True) -> None:
        """content: what the row's vector is made of, where that is to be kept. is_made_anew: nothing that was
        kept before is known to be its content."""
        before = self.now.get(row.id)
        if content is not None and row.content_hash is not None:
            self.contents[row.id] = KeptContent(content, row.content_hash)
        elif (row.id in self.damaged and row.id not in self.changed) or (
            before is not None and _is_obsolete(before, row, is_made_anew)
        ):
            self.contents[row.id] = None
        self.seq = row.seq
        self.now[row.id] = row
        self.changed[row.id] = row


def _may_fill(stored: Row | None, item: ItemWrite) -> bool:
    """What fills a gap must find it as it was: somebody else may have written or deleted the item since."""
    return item.fills is None or (
        stored is not None and stored.is_awaiting and stored.content_hash == item.fills
    )


def _is_obsolete(before: Row, row: Row, is_made_anew: bool) -> bool:
    """Whether what may be kept of the row before is not the content of the row now."""
    return before.content_hash is not None and (is_made_anew or before.content_hash != row.content_hash)


def ids_of(batches: Sequence[WriteBatch]) -> list[Id]:
    """Return each id that the batches name, in order."""
    ids = {item.id for batch in batches for item in batch.items}
    ids.update(delete.id for batch in batches for delete in batch.deletes)
    return sorted(ids)  # in key order every page is read once


def apply_batch(
    work: TransactionRows, job: WriteJob, hasher: ShareHasher, metadata_bytes_max: int
) -> CommitResult:
    """Change the rows as a batch says: items in order, then deletes. metadata_bytes_max: of an item after a
    merge."""
    batch = job.batch
    touched = [*(item.id for item in batch.items), *(delete.id for delete in batch.deletes)]
    live_before = {row.id: row.is_live for each in touched if (row := work.now.get(each)) is not None}
    barred = _barred(work, job.passes, touched)
    outcome = _BatchResult(passed_over=sum(each in barred for each in touched))
    for item in batch.items:
        if item.id in barred:
            continue
        stored = work.now.get(item.id)
        is_held = stored is not None and not stored.deleted
        if item.vector is None and not is_held and item.id not in job.known_elsewhere:
            outcome.unknown[item.id] = None
            continue
        if is_stale(stored, item.source_version) or not _may_fill(stored, item):
            outcome.stale += 1
            continue
        row = written(stored, item, work.seq + 1, hasher)
        if item.merge is not None and text_bytes(row.metadata or "") > metadata_bytes_max:
            outcome.too_large[item.id] = None
            continue
        work.change(row, item.content, is_made_anew=item.vector is not None and item.fills is None)
        outcome.upserted += 1
    for delete in batch.deletes:
        stored = work.now.get(delete.id)
        if delete.id in barred:
            continue
        if is_stale(stored, delete.source_version):
            outcome.stale += 1
            continue
        is_held = stored is not None and not stored.deleted
        if is_held or delete.source_version is not None:
            work.change(tombstone(stored, delete, work.seq + 1))
        outcome.deleted += is_held
    is_live = {item_id: work.now[item_id].is_live for item_id in live_before}
    return CommitResult(
        outcome.upserted,
        outcome.deleted,
        outcome.stale,
        work.seq,
        sum(was and not is_live[item_id] for item_id, was in live_before.items()),
        sum(not was and is_live[item_id] for item_id, was in live_before.items()),
        tuple(outcome.unknown),
        outcome.passed_over,
        tuple(outcome.too_large),
    )


def _barred(work: TransactionRows, passes: Passes | None, ids: Sequence[Id]) -> Set[Id]:
    """The ids whose rows may not be written over, as they are before the batch: unknown ones among them."""
    if passes is None:
        return frozenset()
    held = [row for each in dict.fromkeys(ids) if (row := work.now.get(each)) is not None and not row.deleted]
    passing = zip(held, passes([row.metadata for row in held]), strict=True)
    return frozenset(ids).difference(row.id for row, does_pass in passing if does_pass)


class CountChanges(NamedTuple):
    """How the counts of a store change. shares: what is added to the sums of the digest, by bucket."""

    items: int
    live: int
    awaiting: int
    shares: dict[int, int]


def count_changes(work: TransactionRows) -> CountChanges:
    """Return what the changed rows add to the counts; rows that are damaged count as none before."""
    items = live = awaiting = 0
    shares: dict[int, int] = {}
    for row in work.changed.values():
        old = work.before.get(row.id)
        items += (not row.deleted) - (old is not None and not old.deleted)
        live += row.is_live - (old is not None and old.is_live)
        awaiting += row.is_awaiting - (old is not None and old.is_awaiting)
        digest.add(shares, digest.bucket_of(row.id), row.share - (old.share if old else 0))
    return CountChanges(items, live, awaiting, shares)
