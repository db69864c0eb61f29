"""Full comparison of one collection with its source, and the proof that follows from it.

Both sides are 4,096 sums; only buckets that differ are looked into, only rows that differ are read again and
written. What is reported as equal has been compared bit for bit: ids, activity, vectors, embedding_version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from feeder.compare.diff import Differences
from feeder.compare.index_side import IndexSide
from feeder.compare.report import Report, log_report
from feeder.compare.source_side import SourceSide, source_update
from feeder.compare.writes import batches, store_state
from feeder.digest import Shares, root_of
from feeder.facts import Scan, SourceReader, SourceState, has_content
from feeder.sink.brake import Brake, Store
from feeder.throttle import IsWanted, Meanwhile, Runner, run_inline
from vector_client.types import Digest, Id

ROUNDS = 5
"""Rows that still differ are read again this many times: somebody may be writing them."""
PAUSE_S = 0.5
"""Between two such rounds of a comparison that repairs nothing; grows with each round."""


@dataclass(slots=True)
class _Comparison:
    """One comparison under way. reasons: why an id could not be stored, as far as it was tried here."""

    version: str
    began_at: float
    read_at: float
    source: SourceSide
    found: Differences
    reasons: dict[Id, str] = field(default_factory=dict)


class Reconciler:
    """Compares one collection with its source, and repairs it if asked. For one thread.

    clock: seconds since 1970. pause: waits for seconds. run_scan: where the source is read.
    """

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
        self._written_meanwhile: set[Id] | None = None

    def compare(self, version: str) -> Report:
        """Return how the index differs from the source; change nothing.

        Rows that differ are read again a few times, since a feeder may be writing them.
        Raises SourceDown, ServiceDown, SettingsWrong.
        """
        began_at, shares, index = self._clock(), Shares(version), IndexSide(self._store)
        scan = self._reader.scan()
        source = self._run_scan(lambda wanted: _read(scan, shares, wanted, None), None)
        read_at = self._clock()
        digest, left = index.differences(source)
        comparison = _Comparison(version, began_at, read_at, source, left)
        for attempt in range(ROUNDS):
            if not left.all_ids:
                break
            if attempt:
                self._pause(PAUSE_S * attempt)
            seq = digest.seq
            for ids in batches(left.all_ids, self._batch_items):
                current = self._read_again(ids, left, shares)
                comparison.reasons |= _reasons(current)
                source.update(source_update(current, shares))
            digest, left = index.differences(source)
            if attempt and digest.seq == seq:
                break  # nobody writes: what differs now will not change
        return self._reported(comparison, digest, left)

    def repair(
        self, version: str, next_source_version: Callable[[], int], meanwhile: Meanwhile | None = None
    ) -> Report:
        """Make the index equal to the source, and return how it differed.

        next_source_version: newer than that of any write made before. meanwhile: follows changes while the
        source is read, and tells `note_written` what it wrote.
        Raises BrakeOn before anything is written, SourceDown, ServiceDown, SettingsWrong.
        """
        self._written_meanwhile = None if meanwhile is None else set()
        try:
            return self._repaired(version, next_source_version, meanwhile)
        finally:
            self._written_meanwhile = None

    def note_written(self, current: SourceState) -> None:
        """Read these ids again before the two sides are compared: the comparison under way may have read
        them before they changed."""
        if self._written_meanwhile is not None:
            self._written_meanwhile |= {
                *current.absent,
                *current.failed,
                *(item.id for item in current.items),
            }

    def _repaired(
        self, version: str, next_source_version: Callable[[], int], meanwhile: Meanwhile | None
    ) -> Report:
        began_at, shares, index = self._clock(), Shares(version), IndexSide(self._store)
        scan = self._reader.scan()
        source = self._run_scan(lambda wanted: _read(scan, shares, wanted, self._check_empty), meanwhile)
        self._catch_up(source, shares)
        read_at = self._clock()
        if not source.count:
            self._check_empty()
        digest, left = index.differences(source)
        comparison = _Comparison(version, began_at, read_at, source, left)
        if left.all_ids:
            self._brake.check(vanishing=left.vanishing, held=digest.items, in_source=source.count)
        for _ in range(ROUNDS):
            if not left.all_ids:
                break
            for ids in batches(left.all_ids, self._batch_items):
                stamp = (
                    next_source_version()
                )  # before the rows are read: of two writers the later reader wins
                current = self._read_again(ids, left, shares)
                _, refused = store_state(self._store, self._reader, current, version, stamp, {})
                comparison.reasons |= {**_reasons(current), **refused}
                source.update(source_update(current, shares, refused))
                if meanwhile is not None:
                    meanwhile()
                    self._catch_up(source, shares)
            digest, left = index.differences(source)
        scan.finish()
        return self._reported(comparison, digest, left)

    def _catch_up(self, source: SourceSide, shares: Shares) -> None:
        """Read again what was written meanwhile. The rows that were written are not taken as they are: the
        key map did not yet hold rows that came while nobody followed."""
        written = self._written_meanwhile
        if written is None:
            return
        self._written_meanwhile = set()
        for ids in batches(list(written), self._batch_items):
            source.update(source_update(self._reader.current_state(ids=ids), shares))

    def _check_empty(self) -> None:
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

    def _reported(self, comparison: _Comparison, digest: Digest, left: Differences) -> Report:
        source, reasons = comparison.source, comparison.reasons
        past = self._reader.quarantined() if source.quarantined else {}
        root = root_of(source.sums)
        report = Report(
            self._collection,
            not left.all_ids and digest.root == root,
            comparison.began_at,
            source.count,
            root,
            comparison.version,
            comparison.found,
            left,
            source.skipped,
            {item_id: reasons.get(item_id) or past.get(item_id, "") for item_id in source.quarantined},
            comparison.read_at - comparison.began_at,
            self._clock() - comparison.began_at,
        )
        log_report(report)
        return report


def _read(scan: Scan, shares: Shares, wanted: IsWanted, check_empty: Callable[[], None] | None) -> SourceSide:
    """Return the source's side, sealed unless nobody wants it any more. check_empty: called before the
    vectors of a source without items are read, which may be many."""
    source = SourceSide(shares)
    with closing(scan.chunks()) as chunks:  # closed here: its connections belong to this thread
        for chunk in chunks:
            if not wanted():
                return source
            if chunk.is_all_orphans and check_empty is not None:
                check_empty()
            source.add_chunk(chunk)
    source.seal()
    return source


def _reasons(current: SourceState) -> Mapping[Id, str]:
    return {item_id: failure.reason for item_id, failure in current.failed.items()}
