"""What happens between BEGIN and COMMIT: batches in, rows, counters, digest and cursors out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from index_store.contents.table import KeptContent, keep_contents
from index_store.storage import digest
from index_store.storage.digest import ShareHasher
from index_store.storage.rows import Row, is_stale, tombstone, without_content, written
from index_store.storage.schema import COLUMNS, UPSERT, Connection, from_columns, to_columns
from index_store.types import Content, Id, ItemWrite, WriteBatch
from item_rules.metadata import METADATA_BYTES_MAX, text_bytes

Passes: TypeAlias = Callable[[Sequence[str | None]], Sequence[bool]]

_IDS_A_SELECT = 500
_RECOUNT_AWAITING = (
    "INSERT INTO meta(key, value) SELECT 'awaiting', count(*) FROM item "
    "WHERE deleted=0 AND vector IS NULL AND content_hash IS NOT NULL "
    "ON CONFLICT(key) DO UPDATE SET value=excluded.value"
)


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
class _TransactionRows:
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


def commit_jobs(
    connection: Connection,
    hasher: ShareHasher,
    jobs: Sequence[WriteJob],
    metadata_bytes_max: int = METADATA_BYTES_MAX,
) -> list[CommitResult]:
    """Apply the batches in order inside the transaction that the caller opened and will commit.
    metadata_bytes_max: of an item after a merge."""
    batches = [job.batch for job in jobs]
    work = _read_touched(connection, _ids_of(batches))
    results = [_apply_batch(work, job, hasher, metadata_bytes_max) for job in jobs]
    _write_changes(connection, work)
    cursors = [pair for batch in batches for pair in batch.cursors.items()]
    connection.executemany(
        "INSERT INTO cursor(source, value) VALUES(?,?) "
        "ON CONFLICT(source) DO UPDATE SET value=excluded.value",
        cursors,
    )
    return results


def read_rows(connection: Connection, ids: Iterable[Id]) -> tuple[dict[Id, Row], dict[Id, Row]]:
    """The stored rows of these ids, tombstones included: (sound ones, damaged ones)."""
    wanted = list(ids)
    sound: dict[Id, Row] = {}
    damaged: dict[Id, Row] = {}
    for start in range(0, len(wanted), _IDS_A_SELECT):
        some = wanted[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        for values in connection.execute(f"SELECT {COLUMNS} FROM item WHERE id IN ({marks})", some):
            row, is_sound = from_columns(values)
            (sound if is_sound else damaged)[row.id] = row
    return sound, damaged


def _ids_of(batches: Sequence[WriteBatch]) -> Iterable[Id]:
    ids = {item.id for batch in batches for item in batch.items}
    ids.update(delete.id for batch in batches for delete in batch.deletes)
    return sorted(ids)  # in key order every page is read once


def _read_touched(connection: Connection, ids: Iterable[Id]) -> _TransactionRows:
    sound, damaged = read_rows(connection, ids)
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    now = sound | {item_id: without_content(row) for item_id, row in damaged.items()}
    return _TransactionRows(seq=seq, before=sound, damaged=damaged, now=now)


def _apply_batch(
    work: _TransactionRows, job: WriteJob, hasher: ShareHasher, metadata_bytes_max: int
) -> CommitResult:
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


def _barred(work: _TransactionRows, passes: Passes | None, ids: Sequence[Id]) -> Set[Id]:
    """The ids whose rows may not be written over, as they are before the batch: unknown ones among them."""
    if passes is None:
        return frozenset()
    held = [row for each in dict.fromkeys(ids) if (row := work.now.get(each)) is not None and not row.deleted]
    passing = zip(held, passes([row.metadata for row in held]), strict=True)
    return frozenset(ids).difference(row.id for row, does_pass in passing if does_pass)


def _write_changes(connection: Connection, work: _TransactionRows) -> None:
    if not work.changed:
        return
    rows = [work.changed[item_id] for item_id in sorted(work.changed)]
    connection.executemany(UPSERT, [to_columns(row) for row in rows])
    if work.damaged.keys() & work.changed.keys():
        recount_from_rows(connection)
    else:
        _update_counters(connection, work, rows)
    keep_contents(connection, work.contents)
    connection.execute("UPDATE meta SET value=? WHERE key='seq'", (work.seq,))


def _update_counters(connection: Connection, work: _TransactionRows, rows: Sequence[Row]) -> None:
    items = live = awaiting = 0
    shares: dict[int, int] = {}
    for row in rows:
        old = work.before.get(row.id)
        items += (not row.deleted) - (old is not None and not old.deleted)
        live += row.is_live - (old is not None and old.is_live)
        awaiting += row.is_awaiting - (old is not None and old.is_awaiting)
        digest.add(shares, digest.bucket_of(row.id), row.share - (old.share if old else 0))
    connection.executemany("UPDATE meta SET value=value+? WHERE key=?", [(items, "items"), (live, "live")])
    if awaiting:
        _count_awaiting(connection, awaiting)
    buckets = sorted(shares)
    for start in range(0, len(buckets), _IDS_A_SELECT):
        some = buckets[start : start + _IDS_A_SELECT]
        marks = ",".join("?" * len(some))
        for bucket, value in connection.execute(
            f"SELECT bucket, sum FROM digest WHERE bucket IN ({marks})", some
        ):
            digest.add(shares, bucket, value)
    _store_sums(connection, shares)


def recount_from_rows(connection: Connection) -> None:
    """Make counters and digest from the rows: after a damaged row was replaced nobody knows what it
    had added. Reads every row's small columns; rare."""
    items = live = 0
    shares: dict[int, int] = dict.fromkeys(range(digest.BUCKETS), 0)
    for item_id, active, share, has_vector in connection.execute(
        "SELECT id, active, share, vector IS NOT NULL FROM item WHERE deleted=0"
    ):
        items += 1
        live += bool(active and has_vector)
        digest.add(shares, digest.bucket_of(item_id), share)
    connection.executemany("UPDATE meta SET value=? WHERE key=?", [(items, "items"), (live, "live")])
    connection.execute(_RECOUNT_AWAITING)
    _store_sums(connection, shares)


def _count_awaiting(connection: Connection, added: int) -> None:
    """A store made before this was counted is counted now, with the rows of this transaction."""
    found = connection.execute("SELECT 1 FROM meta WHERE key='awaiting'").fetchone()
    if found is None:
        connection.execute(_RECOUNT_AWAITING)
    else:
        connection.execute("UPDATE meta SET value=value+? WHERE key='awaiting'", (added,))


def _store_sums(connection: Connection, shares: dict[int, int]) -> None:
    connection.executemany(
        "INSERT INTO digest(bucket, sum) VALUES(?,?) ON CONFLICT(bucket) DO UPDATE SET sum=excluded.sum",
        [(bucket, digest.to_signed(value)) for bucket, value in shares.items()],
    )
