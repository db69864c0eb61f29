"""What happens between BEGIN and COMMIT: batches in, rows, counters, digest and cursors out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from index_store.contents.table import keep_contents
from index_store.record import digest
from index_store.record.batches import (
    CommitResult,
    CountChanges,
    TransactionRows,
    WriteJob,
    apply_batch,
    count_changes,
    ids_of,
)
from index_store.record.digest import ShareHasher
from index_store.record.rows import Row, without_content
from index_store.storage.schema import COLUMNS, UPSERT, Connection, from_columns, to_columns
from index_store.types import Id
from item_rules.metadata import METADATA_BYTES_MAX

_IDS_A_SELECT = 500
_RECOUNT_AWAITING = (
    "INSERT INTO meta(key, value) SELECT 'awaiting', count(*) FROM item "
    "WHERE deleted=0 AND vector IS NULL AND content_hash IS NOT NULL "
    "ON CONFLICT(key) DO UPDATE SET value=excluded.value"
)


def commit_jobs(
    connection: Connection,
    hasher: ShareHasher,
    jobs: Sequence[WriteJob],
    metadata_bytes_max: int = METADATA_BYTES_MAX,
) -> list[CommitResult]:
    """Apply the batches in order inside the transaction that the caller opened and will commit.
    metadata_bytes_max: of an item after a merge."""
    batches = [job.batch for job in jobs]
    work = _read_touched(connection, ids_of(batches))
    results = [apply_batch(work, job, hasher, metadata_bytes_max) for job in jobs]
    write_changes(connection, work)
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


def _read_touched(connection: Connection, ids: Iterable[Id]) -> TransactionRows:
    sound, damaged = read_rows(connection, ids)
    (seq,) = connection.execute("SELECT value FROM meta WHERE key='seq'").fetchone()
    now = sound | {item_id: without_content(row) for item_id, row in damaged.items()}
    return TransactionRows(seq=seq, before=sound, damaged=damaged, now=now)


def write_changes(connection: Connection, work: TransactionRows) -> None:
    """Write what has changed, inside the transaction that the caller opened and will commit."""
    if not work.changed:
        return
    rows = [work.changed[item_id] for item_id in sorted(work.changed)]
    connection.executemany(UPSERT, [to_columns(row) for row in rows])
    if work.damaged.keys() & work.changed.keys():
        recount_from_rows(connection)
    else:
        _update_counters(connection, count_changes(work))
    keep_contents(connection, work.contents)
    connection.execute("UPDATE meta SET value=? WHERE key='seq'", (work.seq,))


def _update_counters(connection: Connection, changes: CountChanges) -> None:
    items, live, awaiting, shares = changes
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
