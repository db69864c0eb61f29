"""Full comparison of one collection with its source, and the proof that follows from it.

Both sides are 4,096 sums; only buckets that differ are looked into, only rows that differ are read again and
written. What is reported as equal has been compared bit for bit: ids, activity, vectors, embedding_version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from feeder.changes import Changes
from feeder.compare.diff import (
    NO_DIFFERENCES,
    Differences,
    bucket_count_for,
    differences_between,
    leave_out_quarantined,
)
from feeder.compare.source_side import SourceSide, source_update
from feeder.digest import BUCKETS, Shares, Sums, root_of
from feeder.facts import Chunk, SourceReader, SourceState, has_content
from feeder.sink.brake import Brake, Store
from feeder.sink.writer import WriteResult
from feeder.throttle import IsWanted, Meanwhile, Runner, run_inline
from vector_client.types import Differing, Digest, Id, Item

log = logging.getLogger(__name__)

T = TypeVar("T")

ROUNDS = 5
NAMES_SHOWN = 20
FEW_BUCKETS = 64
"""So many that differ are listed whole: their sums are at hand. Finer sums tell which rows of more differ."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. is_equal: every one of the `rows` items is the same on both sides, `root` says it, as of
    `as_of_s`, except for the `quarantined` ids, whose content can't be had or stored: of them only activity
    is compared. found: what differed at first; left: what still did at the end. set_aside: rows of the source
    that cannot be stored, by reason. seconds: reading the source, everything."""

    collection: str
    is_equal: bool
    as_of_s: float
    rows: int
    root: str
    embedding_version: str
    found: Differences
    left: Differences
    skipped: Mapping[str, int]
    quarantined: Mapping[Id, str]
    read_seconds: float
    seconds: float

    def __str__(self) -> str:
        found = self.found
        differed = f"{len(found.missing)} missing, {len(found.changed)} changed, {len(found.extra)} extra"
        if self.is_equal:
            but = f" except {len(self.quarantined):,} quarantined" if self.quarantined else ""
            return f"equal{but}, {self.rows:,} rows, root {self.root[:16]} ({differed} before)"
        names = ", ".join(map(str, self.left.all_ids[:NAMES_SHOWN]))
        return f"NOT equal: {len(self.left.all_ids):,} of {self.rows:,} rows differ (as {names}); {differed}"


@dataclass(frozen=True, slots=True)
class _Listing:
    """Rows of the index, asked for with these sums when its own were of `seq`."""

    seq: int
    sums: Sums
    found: Differing


NOT_LISTED = _Listing(-1, np.zeros(0, dtype=np.uint64), Differing((), ()))


class Reconciler:
    """Compares, and mends if asked. For one thread. clock: seconds since 1970; pause: waits for seconds.
    aside: where the source is read."""

    def __init__(
        self,
        collection: str,
        store: Store,
        reader: SourceReader,
        brake: Brake,
        *,
        batch_items: int,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        run_scan: Runner = run_inline,
    ) -> None:
        self._collection = collection
        self._store = store
        self._reader = reader
        self._brake = brake
        self._batch_items = batch_items
        self._clock = clock
        self._pause = pause
        self._run_scan = run_scan
        self._listing = NOT_LISTED
        self._written_meanwhile: set[Id] | None = None

    def compare(self, version: str) -> Report:
        """Change nothing. Rows that differ are looked at again a few times: a feeder may be writing them."""
        return self._settle(version, None, None)

    def repair(
        self, version: str, next_source_version: Callable[[], int], meanwhile: Meanwhile | None = None
    ) -> Report:
        """Make the index equal. Raises BrakeOn before anything is written. meanwhile: follows changes, and
        lets us hear of each one that it wrote."""
        try:
            return self._settle(version, next_source_version, meanwhile)
        finally:
            self._written_meanwhile = None

    def note_written(self, current: SourceState) -> None:
        """Take notice of what has just been written: these ids are read again before the two sides are
        compared, since the comparison may have read them before they changed."""
        if self._written_meanwhile is not None:
            self._written_meanwhile |= {
                *current.absent,
                *current.failed,
                *(item.id for item in current.items),
            }

    def _settle(
        self, version: str, next_source_version: Callable[[], int] | None, meanwhile: Meanwhile | None
    ) -> Report:
        began_at = self._clock()
        shares = Shares(version)
        self._written_meanwhile = None if meanwhile is None else set()
        chunks = self._reader.everything()
        mends = next_source_version is not None
        source = self._run_scan(
            lambda wanted: self._read_source(chunks, shares, wanted, mends=mends), meanwhile
        )
        self._catch_up(source, shares)
        read_at = self._clock()
        failed: dict[Id, str] = {}
        if next_source_version is not None and not source.count:
            self._check_nothing()
        digest, found = self._differences(source)
        left = found
        if next_source_version is not None and left.all_ids:
            self._brake.check(vanishing=left.vanishing, held=digest.items, in_source=source.count)
        for attempt in range(ROUNDS):
            if not left.all_ids:
                break
            if next_source_version is None and attempt:
                self._pause(0.5 * attempt)
            seq = digest.seq
            for ids in batches(left.all_ids, self._batch_items):
                # Before the reading: whoever reads later has a newer one, and wins.
                stamp = None if next_source_version is None else next_source_version()
                current = self._read_again(ids, left, shares)
                failed |= {item_id: failure.reason for item_id, failure in current.failed.items()}
                refused: Mapping[Id, str] = {}
                if stamp is not None:
                    _, refused = store_state(self._store, self._reader, current, version, stamp, {})
                    failed |= refused
                source.update(source_update(current, shares, refused))
                if meanwhile is not None:
                    meanwhile()
                    self._catch_up(source, shares)
            digest, left = self._differences(source)
            if next_source_version is None and attempt and digest.seq == seq:
                break  # nobody writes: what differs now goes on to differ
        if next_source_version is not None:
            self._reader.mark_complete()
        past = self._reader.quarantined() if source.quarantined else {}
        root = root_of(source.sums)
        self._listing = NOT_LISTED
        report = Report(
            self._collection,
            not left.all_ids and digest.root == root,
            began_at,
            source.count,
            root,
            version,
            found,
            left,
            source.skipped,
            {item_id: failed.get(item_id) or past.get(item_id, "") for item_id in source.quarantined},
            read_at - began_at,
            self._clock() - began_at,
        )
        self._log_report(report)
        return report

    def _catch_up(self, source: SourceSide, shares: Shares) -> None:
        """Not what was written counts: rows that came while nobody followed were not known then."""
        written, self._written_meanwhile = (
            self._written_meanwhile,
            None if self._written_meanwhile is None else set(),
        )
        for ids in batches(list(written or ()), self._batch_items):
            source.update(source_update(self._reader.current_state(ids=ids), shares))

    def _read_source(
        self, chunks: Generator[Chunk, None, None], shares: Shares, wanted: IsWanted, *, mends: bool
    ) -> SourceSide:
        source = SourceSide(shares)
        with closing(chunks):  # here: its connections belong to this thread
            for chunk in chunks:
                if not wanted():
                    return source
                if chunk.is_all_orphans and mends:
                    self._check_nothing()  # before every vector of an empty table is looked at
                source.add_chunk(chunk)
        source.seal()
        return source

    def _check_nothing(self) -> None:
        """Raises BrakeOn unless the index holds as little as the source: nothing."""
        held = self._store.digest().items
        self._brake.check(vanishing=held, held=held, in_source=0)

    def _read_again(self, ids: Sequence[Id], left: Differences, shares: Shares) -> SourceState:
        """Return what holds for ids that differ, with content wherever the index does not hold it already."""
        current = self._reader.current_state(ids=ids)
        held = {
            item_id
            for item_id, content in current.contents.items()
            if (index_rows := left.index_rows.get(item_id))
            and index_rows.sum == shares.of_content(item_id, index_rows.active, content.digest)
        }
        # What a feeder that lost its memory fetched again need not be embedded again.
        items = [replace(each, text=None, image=None) if each.id in held else each for each in current.items]
        again = {
            item.id
            for item in items
            if item.id in current.contents.keys() - held - current.failed.keys() and not has_content(item)
        }
        fresh = self._reader.current_state(ids=again, refetch=True) if again else SourceState((), ())
        return SourceState(
            [*(item for item in items if item.id not in again), *fresh.items],
            [*current.absent, *fresh.absent],
            current.rows,
            {**current.contents, **fresh.contents},
            {**current.failed, **fresh.failed},
        )

    def _log_report(self, report: Report) -> None:
        log.log(
            logging.INFO if report.is_equal else logging.WARNING,
            "compared",
            extra={
                "collection": report.collection,
                "equal": report.is_equal,
                "rows": report.rows,
                "root": report.root,
                "missing": len(report.found.missing),
                "changed": len(report.found.changed),
                "extra": len(report.found.extra),
                "left": len(report.left.all_ids),
                "quarantined": len(report.quarantined),
                "seconds": round(report.seconds, 3),
            },
        )

    def _differences(self, source: SourceSide) -> tuple[Digest, Differences]:
        """Return how the index differs. Its sums are read before its rows: when the rows show nothing, a
        feeder may have written in between, so the sums are read again."""
        for _ in range(ROUNDS):
            digest = self._store.digest()
            buckets = np.flatnonzero(source.sums != np.asarray(digest.buckets, dtype=np.uint64))
            if not len(buckets):
                return digest, NO_DIFFERENCES
            is_few = len(buckets) <= FEW_BUCKETS
            bucket_count = BUCKETS if is_few else bucket_count_for(max(source.count, digest.items))
            differing = self._listed(digest, source.sums_in(bucket_count))
            index_rows = {row.id: row for row in differing.rows}
            source_rows = source.rows_in(differing.parts, bucket_count)
            leave_out_quarantined(source, source_rows, index_rows, differing.parts, bucket_count)
            found = differences_between(source_rows, index_rows)
            if found.all_ids:
                return digest, found
        return digest, NO_DIFFERENCES

    def _listed(self, digest: Digest, sums: Sums) -> Differing:
        """Return what the index holds where it differs. Asked once while neither side changes: it is all that
        the service has to read for a comparison."""
        kept = self._listing
        if digest.seq != kept.seq or not np.array_equal(sums, kept.sums):
            if digest.items:
                found = self._store.differing(sums)
            else:
                found = Differing(np.flatnonzero(sums).tolist(), ())
            self._listing = _Listing(digest.seq, sums.copy(), found)
        return self._listing.found


def store_state(
    store: Store,
    reader: SourceReader,
    current: SourceState,
    version: str,
    source_version: int,
    cursors: Mapping[str, str],
) -> tuple[WriteResult, Mapping[Id, str]]:
    """Write what is known, remember it, and return what the service refused, with its reasons.

    An item whose new content is refused keeps its old one, but must not be shown while it is inactive: that
    is said on its own, and the cursors go behind it.
    """
    deactivated = {item.id for item in current.items if not item.active and has_content(item)}
    changes = changes_of(current, version, source_version)
    applied = store.apply(changes, {} if deactivated else cursors)
    refused = {row.id: f"{row.code}: {row.detail}" for row in applied.rejected if row.id is not None}
    if deactivated:
        still_deactivated = [
            Item(i, active=False, source_version=source_version) for i in refused if i in deactivated
        ]
        store.apply(
            Changes(still_deactivated, embedding_version=version if still_deactivated else None), cursors
        )
    reader.note_stored(current, refused)
    if not applied.unknown_ids:
        return applied, refused
    # It was taken for stored, and somebody has deleted it there: this time with its content.
    again = reader.current_state(ids=applied.unknown_ids, refetch=True)
    items = [item for item in again.items if has_content(item)]
    _, refused_again = store_state(
        store, reader, replace(again, items=items), version, source_version, cursors
    )
    return applied, {**refused, **refused_again}


def changes_of(current: SourceState, version: str, source_version: int) -> Changes:
    """Return the writes that make the index hold what is known. source_version: newer than that of any
    write made before these facts were read."""
    items = [replace(item, source_version=source_version) for item in current.items]
    return Changes(items, current.absent, version if items else None, delete_version=source_version)


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
