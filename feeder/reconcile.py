"""Full comparison of one collection with its source, and the proof that follows from it.

Both sides are 4,096 sums; only buckets that differ are looked into, only rows that differ are read again and
written. What is reported as equal has been compared bit for bit: ids, activity, vectors, embedding_version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from feeder.applying import Applied
from feeder.changes import Changes
from feeder.errors import BrakeOn
from feeder.proof import Shares, bucket_of, root_of, sums_of
from feeder.truth import Known, Truth
from vector_client.types import CollectionState, Digest, DigestRow, Id, Item

log = logging.getLogger(__name__)

T = TypeVar("T")

ROUNDS = 5
NAMES_SHOWN = 20


class Store(Protocol):
    """The service's side of one collection."""

    def state(self) -> CollectionState: ...

    def apply(self, changes: Changes, cursors: Mapping[str, str]) -> Applied: ...

    def digest(self) -> Digest: ...

    def digest_rows(self, bucket: int) -> Sequence[DigestRow]: ...


@dataclass(frozen=True, slots=True)
class Brake:
    """What one pass may take out of the search: `percent` of what the service holds, and always `rows_min`.
    is_forced lets more go, except to nothing at all: a source without a single item is never believed."""

    percent: float
    rows_min: int = 10
    is_forced: bool = False

    def check(self, *, vanishing: int, held: int, in_source: int) -> None:
        """Raises BrakeOn."""
        if held and not in_source:
            raise BrakeOn(
                f"the source holds no item at all, the index {held:,}: wrong database? Nothing was changed."
                " To empty a collection on purpose, delete its items through the service"
            )
        share = 100 * vanishing / held if held else 0.0
        if vanishing > self.rows_min and share > self.percent and not self.is_forced:
            raise BrakeOn(
                f"{vanishing:,} of {held:,} items ({share:.1f} %) would vanish in one pass, at most"
                f" {self.percent:g} % may; nothing was changed. If the source is right, run"
                " `python -m feeder reconcile --force`"
            )


@dataclass(frozen=True, slots=True)
class Differences:
    """Ids by what is wrong with them in the index. vanishing: how many of them search would lose."""

    missing: Sequence[Id]
    changed: Sequence[Id]
    extra: Sequence[Id]
    vanishing: int

    @property
    def ids(self) -> list[Id]:
        return [*self.missing, *self.changed, *self.extra]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. is_equal: every one of the `rows` items is the same on both sides, `root` says it, as of
    `as_of_s`. found: what differed at first; left: what still did at the end. set_aside: rows of the source
    that cannot be stored, by reason. seconds: reading the source, everything."""

    collection: str
    is_equal: bool
    as_of_s: float
    rows: int
    root: str
    embedding_version: str
    found: Differences
    left: Differences
    set_aside: Mapping[str, int]
    rejected: Mapping[Id, str]
    read_seconds: float
    seconds: float

    def __str__(self) -> str:
        found = self.found
        differed = f"{len(found.missing)} missing, {len(found.changed)} changed, {len(found.extra)} extra"
        if self.is_equal:
            return f"equal, {self.rows:,} rows, root {self.root[:16]} ({differed} before)"
        names = ", ".join(map(str, self.left.ids[:NAMES_SHOWN]))
        return f"NOT equal: {len(self.left.ids):,} of {self.rows:,} rows differ (as {names}); {differed}"


@dataclass(slots=True)
class _Source:
    """The source's side: what each id adds to the sums."""

    shares: dict[Id, int]
    inactive: set[Id]
    set_aside: dict[str, int] = field(default_factory=dict)

    def take(self, items: Sequence[Item], hasher: Shares) -> None:
        for item in items:
            assert isinstance(item.vector, bytes)
            self.shares[item.id] = hasher.of_vector(item.id, item.active, item.vector)
            if item.active:
                self.inactive.discard(item.id)
            else:
                self.inactive.add(item.id)

    def update(self, known: Known, hasher: Shares) -> None:
        for item_id in known.absent:
            self.shares.pop(item_id, None)
            self.inactive.discard(item_id)
        self.take(known.items, hasher)


class Reconciler:
    """Compares, and mends if asked. For one thread. clock: seconds since 1970; pause: waits for seconds."""

    def __init__(
        self,
        collection: str,
        store: Store,
        truth: Truth,
        brake: Brake,
        *,
        batch_items: int,
        clock: Callable[[], float],
        pause: Callable[[float], object],
    ) -> None:
        self._collection = collection
        self._store = store
        self._truth = truth
        self._brake = brake
        self._batch_items = batch_items
        self._clock = clock
        self._pause = pause

    def compare(self, version: str) -> Report:
        """Change nothing. Rows that differ are looked at again a few times: a feeder may be writing them."""
        return self._settle(version, None)

    def mend(self, version: str, next_source_version: Callable[[], int]) -> Report:
        """Make the index equal. Raises BrakeOn before anything is written."""
        return self._settle(version, next_source_version)

    def _settle(self, version: str, next_source_version: Callable[[], int] | None) -> Report:
        began_at = self._clock()
        hasher = Shares(version)
        source = self._read_source(hasher)
        read_at = self._clock()
        rejected: dict[Id, str] = {}
        digest, found = self._differences(source)
        left = found
        if next_source_version is not None and left.ids:
            held = digest.items
            self._brake.check(vanishing=left.vanishing, held=held, in_source=len(source.shares))
        for attempt in range(ROUNDS):
            if not left.ids:
                break
            if next_source_version is None and attempt:
                self._pause(0.5 * attempt)
            for ids in batches(left.ids, self._batch_items):
                # Before the reading: whoever reads later has a newer one, and wins.
                stamp = None if next_source_version is None else next_source_version()
                known = self._truth.about(ids=ids)
                if stamp is not None:
                    rejected |= self._write(known, version, stamp)
                source.update(known, hasher)
            for item_id in rejected:
                source.shares.pop(item_id, None)
            digest, left = self._differences(source)
        if next_source_version is not None:
            self._truth.confirm()
        report = Report(
            self._collection,
            not left.ids,
            began_at,
            len(source.shares),
            root_of(sums_of(source.shares)),
            version,
            found,
            left,
            source.set_aside,
            rejected,
            read_at - began_at,
            self._clock() - began_at,
        )
        self._tell(report, digest)
        return report

    def _tell(self, report: Report, digest: Digest) -> None:
        if report.is_equal and digest.root != report.root:
            raise AssertionError("equal buckets with unequal roots")
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
                "left": len(report.left.ids),
                "seconds": round(report.seconds, 3),
            },
        )

    def _read_source(self, hasher: Shares) -> _Source:
        source = _Source({}, set())
        for cleaned in self._truth.everything():
            source.take(cleaned.items, hasher)
            for reason, ids in cleaned.set_aside.items():
                source.set_aside[reason] = source.set_aside.get(reason, 0) + len(ids)
        return source

    def _differences(self, source: _Source) -> tuple[Digest, Differences]:
        digest = self._store.digest()
        theirs_sums = np.asarray(digest.buckets, dtype=np.uint64)
        buckets = set(np.flatnonzero(sums_of(source.shares) != theirs_sums).tolist())
        if not buckets:
            return digest, Differences((), (), (), 0)
        theirs: dict[Id, DigestRow] = {}
        if digest.items:
            for bucket in sorted(buckets):
                theirs.update((row.id, row) for row in self._store.digest_rows(bucket))
        mine = [item_id for item_id in source.shares if bucket_of(item_id) in buckets]
        missing = [item_id for item_id in mine if item_id not in theirs]
        changed = [
            item_id for item_id in mine if item_id in theirs and theirs[item_id].sum != source.shares[item_id]
        ]
        extra = [item_id for item_id in theirs if item_id not in source.shares]
        leaving = [*extra, *(item_id for item_id in changed if item_id in source.inactive)]
        vanishing = sum(theirs[item_id].active and theirs[item_id].has_vector for item_id in leaving)
        return digest, Differences(missing, changed, extra, vanishing)

    def _write(self, known: Known, version: str, source_version: int) -> dict[Id, str]:
        applied = self._store.apply(changes_of(known, version, source_version), {})
        self._truth.note(known)
        return {row.id: f"{row.code}: {row.detail}" for row in applied.rejected if row.id is not None}


def changes_of(known: Known, version: str, source_version: int) -> Changes:
    """Return the writes that make the index hold what is known. source_version: newer than that of any
    write made before these facts were read."""
    items = [
        Item(item.id, item.vector, active=item.active, metadata=item.metadata, source_version=source_version)
        for item in known.items
    ]
    return Changes(items, known.absent, version if items else None, delete_version=source_version)


def batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
