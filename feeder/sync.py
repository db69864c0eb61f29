"""Follow one collection's sources: notice, read again, write, remember, acknowledge - in this order.

What is noticed names rows, never values, so everything here may happen twice and in any order. The bookmark
of a log is stored by the service in the same commit as the rows; what the service says it stored is where
this resumes. When changes may have been missed, everything is compared, and only then followed again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from feeder.changes import Changes, Key
from feeder.errors import (
    AnotherFeeder,
    BrakeOn,
    FeederError,
    FeedLost,
    ImportRefused,
    ServiceDown,
    SettingsWrong,
    SourceDown,
)
from feeder.feeds import ChangeFeed, Lease, Noticed, Side
from feeder.known import Facts
from feeder.metrics import Metrics
from feeder.reconcile import Reconciler, Report, Store, batches, store_known
from vector_client.types import CollectionState

log = logging.getLogger(__name__)

CLOCK_CURSOR = "sync.clock"
TIERS_CURSOR = "sync.tiers"
IMPORT_CURSOR = "import"
REPORT_CURSOR = "sync.report"
"""What the service tells about us in /health: JSON with equal, as_of_ms and lag_ms."""


class Stop(Protocol):
    """Says when to end; `threading.Event` fits."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """poll_s: pause when nothing was noticed. compare_s: a full comparison at least this often. check_s:
    between looks at lease and backlog. backoff_s doubles up to backoff_s_max, with full jitter."""

    poll_s: float
    compare_s: float
    check_s: float = 5.0
    backoff_s: float = 0.5
    backoff_s_max: float = 60.0


@dataclass(frozen=True, slots=True)
class Parts:
    """One collection's sources, lease and service. clock: seconds since 1970; ticks: monotonic seconds.
    version_of: the embedding_version to write under, or why there is none."""

    collection: str
    store: Store
    truth: Facts
    feeds: Mapping[Side, ChangeFeed]
    lease: Lease
    reconciler: Reconciler
    metrics: Metrics
    clock: Callable[[], float]
    ticks: Callable[[], float]
    jitter: Callable[[], float]
    version_of: Callable[[CollectionState], str]


class Versions:
    """source_versions: each newer than any the service has seen from a feeder, in milliseconds since 1970
    as far as clocks allow, so that they sort among versions that people make."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def begin_after(self, stored: str | None) -> None:
        self._last = max(self._last, int(stored) if stored and stored.isdecimal() else 0)

    def next(self) -> int:
        self._last = max(self._last + 1, int(self._clock() * 1000))
        return self._last


class Syncer:
    """For one thread. `run` goes on until stopped; `start` and `step` are its parts."""

    def __init__(self, parts: Parts, pace: Pace, batch_items: int) -> None:
        self._parts = parts
        self._pace = pace
        self._batch_items = batch_items
        self._versions = Versions(parts.clock)
        self._version = ""
        self._compare_at = 0.0
        self._check_at = 0.0
        self._lag_ms: float | None = None
        self._compared: tuple[bool, float] | None = None

    def run(self, stop: Stop) -> None:
        """Follow until `stop`. Raises AnotherFeeder and SettingsWrong; waits out everything else."""
        failures = 0
        while not stop.is_set():
            try:
                self.start()
                while not stop.is_set():
                    if not self.step():
                        self._wait()
                    failures = 0
            except (AnotherFeeder, SettingsWrong):
                raise
            except FeederError as exc:
                failures += 1
                self._note_failure(exc, failures)
                self.close()
                stop.wait(self._backoff_s(failures))
        self.close()

    def start(self) -> None:
        """Take the lease, resume each feed where the service says, compare everything if one can't."""
        parts = self._parts
        parts.lease.hold()
        parts.truth.open()
        state = parts.store.state()
        self._version = parts.version_of(state)
        self._versions.begin_after(state.cursors.get(CLOCK_CURSOR))
        reasons = [] if parts.truth.is_ready else ["the rows of the source are not known yet"]
        lost: list[Side] = []
        for side, feed in parts.feeds.items():
            parts.metrics.tier(parts.collection, side, feed.tier)
            try:
                feed.open(state.cursors.get(_cursor(side)))
            except FeedLost as exc:
                lost.append(side)
                reasons.append(str(exc))
        self._compare_at = parts.ticks() + self._pace.compare_s
        if reasons:
            self._start_anew(lost, "; ".join(reasons))

    def step(self) -> bool:
        """Do what was noticed; return whether there was anything."""
        parts, now = self._parts, self._parts.ticks()
        if now >= self._check_at:
            self._check()
        if now >= self._compare_at:
            self.compare("a full comparison is due")
        is_busy = False
        for side, feed in parts.feeds.items():
            try:
                noticed = feed.read()
                self._do(side, feed, noticed)
            except FeedLost as exc:
                self._start_anew([side], str(exc))
                return True
            is_busy = is_busy or bool(noticed.keys or noticed.gap)
        return is_busy

    def compare(self, reason: str) -> Report:
        """Compare everything and mend what differs. Raises BrakeOn."""
        parts = self._parts
        log.info("comparing", extra={"collection": parts.collection, "why": reason})
        try:
            report = parts.reconciler.mend(self._version, self._versions.next)
        except BrakeOn:
            parts.metrics.brake(parts.collection, True)
            self._tell(is_equal=False, as_of_s=parts.clock())
            raise
        parts.metrics.brake(parts.collection, False)
        parts.metrics.compared(parts.collection, report.is_equal, report.as_of_s)
        parts.metrics.quarantined(parts.collection, len(report.quarantined))
        self._compare_at = parts.ticks() + self._pace.compare_s
        self._tell(is_equal=report.is_equal, as_of_s=report.as_of_s)
        return report

    def close(self) -> None:
        parts = self._parts
        for feed in parts.feeds.values():
            feed.close()
        parts.truth.close()
        parts.lease.release()

    def _tell(self, *, is_equal: bool, as_of_s: float) -> None:
        """Let the service's /health say how it stands."""
        self._compared = (is_equal, as_of_s)
        self._parts.store.apply(Changes(), self._report())

    def _report(self) -> dict[str, str]:
        if self._compared is None:
            return {}
        is_equal, as_of_s = self._compared
        report = {"equal": is_equal, "as_of_ms": int(as_of_s * 1000), "lag_ms": self._lag_ms}
        return {REPORT_CURSOR: json.dumps(report)}

    def _start_anew(self, lost: Sequence[Side], reason: str) -> None:
        """Position first, then the comparison: what is committed meanwhile is noticed afterwards."""
        log.warning("starting_anew", extra={"collection": self._parts.collection, "why": reason})
        feeds = self._parts.feeds
        bookmarks = {_cursor(side): feeds[side].begin() for side in lost}
        self.compare(reason)
        self._parts.store.apply(Changes(), self._cursors(bookmarks))

    def _do(self, side: Side, feed: ChangeFeed, noticed: Noticed) -> None:
        if noticed.gap:
            self.compare(noticed.gap)
        if noticed.committed_at_s is not None:
            self._lag_ms = round(max(0.0, self._parts.clock() - noticed.committed_at_s) * 1000, 1)
        chunks = list(batches(noticed.keys, self._batch_items))
        bookmarks = {} if noticed.bookmark is None else {_cursor(side): noticed.bookmark}
        for chunk in chunks[:-1]:
            self._write(side, chunk, {})
        if chunks:
            self._write(side, chunks[-1], bookmarks)
        elif bookmarks:
            self._parts.store.apply(Changes(), self._cursors(bookmarks))
        feed.acknowledge(noticed)
        if noticed.committed_at_s is not None:
            lag = self._parts.clock() - noticed.committed_at_s
            self._parts.metrics.lag(self._parts.collection, side, lag)

    def _write(self, side: Side, keys: Sequence[Key], bookmarks: Mapping[str, str]) -> None:
        parts = self._parts
        stamp = self._versions.next()  # before the reading: whoever reads later wins
        known = parts.truth.about(keys=keys) if side == "vectors" else parts.truth.about(ids=keys)
        applied, refused = store_known(
            parts.store, parts.truth, known, self._version, stamp, self._cursors(bookmarks)
        )
        reasons = {item_id: failure.reason for item_id, failure in known.failed.items() if failure.is_new}
        for item_id, reason in {**reasons, **refused}.items():
            log.warning("item_set_aside", extra={"id": item_id, "why": reason})
        parts.metrics.quarantined(parts.collection, len(parts.truth.quarantined()))
        parts.metrics.written(parts.collection, applied.upserted, applied.deleted, applied.stale_ignored)

    def _cursors(self, bookmarks: Mapping[str, str]) -> dict[str, str]:
        tiers = " ".join(f"{side}={feed.tier}" for side, feed in self._parts.feeds.items())
        clock = str(self._versions.next())
        return {**bookmarks, **self._report(), CLOCK_CURSOR: clock, TIERS_CURSOR: tiers}

    def _check(self) -> None:
        """Hold the lease, and look at what the sources keep for us."""
        parts = self._parts
        self._check_at = parts.ticks() + self._pace.check_s
        parts.lease.hold()
        for chunk in batches(list(parts.truth.quarantined(only_due=True)), self._batch_items):
            self._write("items", chunk, {})
        for side, feed in parts.feeds.items():
            try:
                parts.metrics.backlog(parts.collection, side, feed.backlog())
            except FeedLost as exc:
                self._start_anew([side], str(exc))

    def _wait(self) -> None:
        """Wait where a change of the vectors, or else of the items, would wake us."""
        feed = min(self._parts.feeds.values(), key=lambda each: each.tier == "poll", default=None)
        if feed is not None:
            feed.wait(self._pace.poll_s)

    def _note_failure(self, exc: FeederError, failures: int) -> None:
        kind = type(exc).__name__
        self._parts.metrics.failed(self._parts.collection, kind)
        log.log(
            logging.WARNING if isinstance(exc, SourceDown | ServiceDown) else logging.ERROR,
            "sync_interrupted",
            extra={"collection": self._parts.collection, "kind": kind, "why": str(exc), "in_a_row": failures},
        )

    def _backoff_s(self, failures: int) -> float:
        ceiling = min(self._pace.backoff_s * 2.0 ** min(failures, 16), self._pace.backoff_s_max)
        return ceiling * self._parts.jitter()


def _cursor(side: Side) -> str:
    return f"sync.{side}"


def vector_version(state: CollectionState) -> str:
    """Return the embedding_version that the source's vectors are proven to be of. Raises ImportRefused."""
    imported = state.cursors.get(IMPORT_CURSOR)
    proven = json.loads(imported).get("version") if imported else None
    if state.version is None or not proven:
        raise ImportRefused(
            f"{state.name}: nothing says which embedding_version the source's vectors are of; run"
            " `python -m feeder import` first, it proves that"
        )
    if proven != state.version:
        raise ImportRefused(
            f"{state.name} serves {state.version}, the source's vectors are proven to be of {proven}: import"
            " vectors of the serving version, or roll back"
        )
    return state.version


def content_version(state: CollectionState) -> str:
    """Return the embedding_version that the service embeds content under. Raises ServiceDown."""
    if state.version is None:
        raise ServiceDown(f"{state.name} serves no embedding_version yet: is its model available?")
    return state.version
