"""Follow one collection's sources: notice, read again, write, remember, acknowledge - in this order.

What is noticed names rows, never values, so everything here may happen twice and in any order. The bookmark
of a log is stored by the service in the same commit as the rows; what the service says it stored is where
this resumes. When changes may have been missed, everything is compared. Changes are followed beside that, as
long as what is remembered of the rows holds.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from feeder.changes import Changes, Key
from feeder.compare.reconciler import batches, store_state
from feeder.errors import (
    BrakeOn,
    FeedLost,
    ImportRefused,
)
from feeder.follow.backoff import StopSignal
from feeder.follow.dependencies import FollowerDependencies, Pace
from feeder.follow.versions import SourceVersions
from feeder.sink.brake import BRAKE_CURSOR, brake_cursor
from feeder.sources.change_feed import ChangeBatch, ChangeFeed, Side
from feeder.state.state_file import FOLLOWER_CURSOR
from feeder.telemetry.reporting import by_reason
from vector_client.types import CollectionState

log = logging.getLogger(__name__)

CLOCK_CURSOR = "sync.clock"
TIERS_CURSOR = "sync.tiers"
REPORT_CURSOR = "sync.report"
"""What the service tells about us in /health: JSON with equal, as_of_ms, lag_ms and quarantined."""
COMPARED_SHARE_MAX = 0.01
"""Of the time, beside a log or triggers: it finds what they missed, which is next to nothing."""
OWES = " owes a comparison"
"""Behind our name in FOLLOWER_CURSOR, while what is followed may not be all that changed."""
IDS_SHOWN = 5
TIMED_CHECKS_S = 60.0
"""Between two looks at what changes seldom."""
RESTARTS_APART_S = 30.0
"""Two new starts of a feed are at least so far apart."""


class _Stopped(Exception):
    """It was told to end while it compared."""


class Follower:
    """For one thread. `run` goes on until stopped; `start` and `step` are its parts."""

    def __init__(self, deps: FollowerDependencies, pace: Pace, batch_items: int) -> None:
        self._deps = deps
        self._pace = pace
        self._batch_items = batch_items
        self._versions = SourceVersions(deps.clock)
        self._version: str | None = ""
        self._is_partial = False
        self._compare_at = 0.0
        self._check_at = 0.0
        self._restarted_at = -RESTARTS_APART_S
        self._lag_ms: float | None = None
        self._quarantined = 0
        self._compared: tuple[bool, float] | None = None
        self._is_trusted = False
        self._is_owed = False
        self._unfollowed: set[Side] | None = None
        self._brake_cursor: dict[str, str] = {}
        self._stop: StopSignal | None = None
        self._timed_checks_at = -TIMED_CHECKS_S
        self._unread: Mapping[Side, int] = {}
        self._is_outdated = False

    def follow_until(self, stop: StopSignal, on_step: Callable[[], object]) -> None:
        """Follow until `stop`, or until it has to be wired anew. Raises FeederError; a new syncer goes on
        where this one was."""
        self._stop = stop
        with contextlib.suppress(_Stopped):
            self.start()
            while not stop.is_set() and not self._is_outdated:
                if not self.step():
                    self._wait()
                on_step()

    def start(self) -> None:
        """Take the lease, resume each feed where the service says, compare everything if one can't."""
        deps = self._deps
        deps.lease.hold()
        state = deps.store.state()
        self._version = self._version_now(state)
        self._versions.start_after(state.cursors.get(CLOCK_CURSOR))
        reasons: list[str] = []
        held_by_brake = bool(state.cursors.get(BRAKE_CURSOR))
        deps.metrics.set_brake(deps.collection, held_by_brake)
        if held_by_brake:
            reasons.append("the brake held before")
        if self._version is None:
            assert deps.activity is not None
            deps.activity.open()
            reasons.append("activity may have changed")
        else:
            deps.reader.open()
            follower = state.cursors.get(FOLLOWER_CURSOR)
            self._is_trusted = deps.reader.is_ready and follower in (deps.follower, deps.follower + OWES)
            if not deps.reader.is_ready:
                reasons.append("the rows of the source are not known yet")
            elif not self._is_trusted and not held_by_brake:
                reasons.append("others have written since this feeder followed")
            elif follower != deps.follower:
                reasons.append("the last comparison did not come to its end")
        lost: list[Side] = []
        for side, feed in self._feeds().items():
            deps.metrics.set_tier(deps.collection, side, feed.tier)
            try:
                feed.open(state.cursors.get(_cursor(side)))
            except FeedLost as exc:
                lost.append(side)
                reasons.append(str(exc))
        self._compare_at = deps.ticks() + self._pace.compare_s
        if reasons:
            self._restart_feeds(lost, "; ".join(reasons))

    def step(self) -> bool:
        """Do what was noticed; return whether there was anything."""
        now = self._deps.ticks()
        try:
            if now >= self._check_at:
                self._check()
            if now >= self._compare_at:
                self.compare_all("a full comparison is due")
            return self._read_feeds()
        except BrakeOn as exc:
            self._hold_brake(exc)
            raise

    def _read_feeds(self) -> bool:
        is_busy = False
        for side, feed in self._feeds().items():
            if self._unfollowed and side in self._unfollowed:
                continue
            try:
                batch = feed.read()
                self._apply_batch(side, feed, batch)
            except FeedLost as exc:
                self._restart_feed(side, exc)
                return True
            is_busy = is_busy or bool(batch.keys or batch.gap)
        return is_busy

    def compare_all(
        self, reason: str, *, is_alone: bool = False, bookmarks: Mapping[str, str] | None = None
    ) -> None:
        """Compare everything and mend what differs. is_alone: follow nothing meanwhile. bookmarks: where lost
        feeds have started anew. Raises BrakeOn."""
        deps = self._deps
        log.info("comparing", extra={"collection": deps.collection, "why": reason})
        as_of_s, began = deps.clock(), deps.ticks()
        is_equal = False
        # Until it has come to its end, whoever resumes owes it, wherever the feeds stand by then.
        self._is_owed = True
        deps.store.apply(Changes(), self._cursors(bookmarks or {}))
        self._unfollowed = set()
        try:
            if self._version is not None:
                meanwhile = self._follow_meanwhile if self._is_trusted and not is_alone else None
                report = deps.reconciler.repair(self._version, self._versions.next, meanwhile)
                is_equal, as_of_s = report.is_equal, report.as_of_s
            elif deps.activity is not None:
                deps.activity.repair_activity(self._versions.next)
        except BrakeOn as exc:
            deps.metrics.set_compared(deps.collection, False, as_of_s)
            self._hold_brake(exc)
            raise
        finally:
            self._unfollowed = None
        self._is_owed, self._is_trusted = False, True
        deps.metrics.set_brake(deps.collection, False)
        self._brake_cursor = {BRAKE_CURSOR: ""}
        deps.metrics.set_compared(deps.collection, is_equal, as_of_s)
        now = deps.ticks()
        self._compare_at = now + max(self._pace.compare_s, (now - began) * (1 / COMPARED_SHARE_MAX - 1))
        for feed in self._feeds().values():
            if feed.tier == "poll":
                feed.restart()  # one comparison an interval, whatever asked for it
        self._count_quarantined()
        self._store_report(is_equal=is_equal, as_of_s=as_of_s)

    def close(self) -> None:
        deps = self._deps
        for feed in deps.feeds.values():
            feed.close()
        deps.reader.close()
        if deps.activity is not None:
            deps.activity.close()
        deps.lease.release()

    def _follow_meanwhile(self) -> bool:
        """Follow beside a comparison; return whether there was anything. What can't be followed before it is
        over waits where it is: a gap, and a feed that is lost."""
        if self._stop is not None and self._stop.is_set():
            raise _Stopped
        if self._deps.ticks() >= self._check_at:
            self._check()
        return self._read_feeds()

    def _version_now(self, state: CollectionState) -> str | None:
        """Return the embedding_version to write under; None where only activity can be followed, and the
        log has said why. Raises ImportRefused."""
        deps = self._deps
        try:
            version = deps.version_of(state)
        except ImportRefused as exc:
            if deps.activity is None or not (self._is_partial or deps.store.digest().items):
                raise  # an empty index waits for its import, which needs the lease
            if not self._is_partial:
                what = {"collection": deps.collection, "why": str(exc)}
                log.error("vectors_not_followed", extra={**what, "still": "activity and deletes"})
            self._is_partial = True
            deps.metrics.set_activity_only(deps.collection, True)
            return None
        self._is_partial = False
        deps.metrics.set_activity_only(deps.collection, False)
        return version

    def _feeds(self) -> Mapping[Side, ChangeFeed]:
        """Without a version nobody looks at vectors: their changes wait where they are."""
        feeds = self._deps.feeds
        return feeds if self._version is not None else {s: f for s, f in feeds.items() if s == "items"}

    def _store_report(self, *, is_equal: bool, as_of_s: float) -> None:
        """Let the service's /health say how it stands."""
        self._compared = (is_equal, as_of_s)
        self._deps.store.apply(Changes(), self._cursors({}))

    def _hold_brake(self, exc: BrakeOn) -> None:
        """A wrong database, perhaps: its changes are not to be followed before a comparison went well."""
        deps = self._deps
        self._is_trusted, self._is_owed = False, True
        deps.metrics.set_brake(deps.collection, True)
        self._brake_cursor = brake_cursor(exc, deps.clock)
        self._store_report(is_equal=False, as_of_s=deps.clock())

    def _count_quarantined(self) -> None:
        deps = self._deps
        self._quarantined = len(deps.reader.quarantined()) if self._version is not None else 0
        deps.metrics.set_quarantined(deps.collection, self._quarantined)

    def _report(self) -> dict[str, str]:
        if self._compared is None:
            return {}
        is_equal, as_of_s = self._compared
        report = {
            "equal": is_equal,
            "as_of_ms": int(as_of_s * 1000),
            "lag_ms": self._lag_ms,
            "quarantined": self._quarantined,
        }
        return {REPORT_CURSOR: json.dumps(report)}

    def _restart_feed(self, side: Side, exc: FeedLost) -> None:
        """Start anew, unless that was just done: a feed that is lost again and again must not make
        comparison follow comparison, and is chosen again."""
        if self._unfollowed is not None:
            self._unfollowed.add(side)
            return
        now = self._deps.ticks()
        if now < self._restarted_at + RESTARTS_APART_S:
            raise exc
        self._restarted_at = now
        self._restart_feeds([side], str(exc))

    def _restart_feeds(self, lost: Sequence[Side], reason: str) -> None:
        """Position first, then the comparison: what is committed meanwhile is noticed afterwards."""
        log.warning("starting_anew", extra={"collection": self._deps.collection, "why": reason})
        feeds = self._deps.feeds
        bookmarks = {_cursor(side): feeds[side].restart() for side in lost}
        self.compare_all(reason, bookmarks=bookmarks)

    def _apply_batch(self, side: Side, feed: ChangeFeed, batch: ChangeBatch) -> None:
        if batch.gap and self._unfollowed is not None:
            self._unfollowed.add(side)
            return
        if batch.gap:
            self.compare_all(batch.gap, is_alone=feed.tier != "poll")
        if batch.committed_at_s is not None:
            self._lag_ms = round(max(0.0, self._deps.clock() - batch.committed_at_s) * 1000, 1)
        chunks = list(batches(batch.keys, self._batch_items))
        bookmarks = {} if batch.bookmark is None else {_cursor(side): batch.bookmark}
        for chunk in chunks[:-1]:
            self._write(side, chunk, {})
        if chunks:
            self._write(side, chunks[-1], bookmarks)
        elif bookmarks:
            self._deps.store.apply(Changes(), self._cursors(bookmarks))
        feed.acknowledge(batch)
        if batch.committed_at_s is not None:
            lag = self._deps.clock() - batch.committed_at_s
            self._deps.metrics.observe_lag(self._deps.collection, side, lag)

    def _write(self, side: Side, keys: Sequence[Key], bookmarks: Mapping[str, str]) -> None:
        deps = self._deps
        stamp = self._versions.next()  # before the reading: whoever reads later wins
        if self._version is None:
            assert deps.activity is not None
            deps.activity.write_activity(keys, stamp, self._cursors(bookmarks))
            return
        current = (
            deps.reader.current_state(keys=keys) if side == "vectors" else deps.reader.current_state(ids=keys)
        )
        applied, refused = store_state(
            deps.store, deps.reader, current, self._version, stamp, self._cursors(bookmarks)
        )
        deps.reconciler.note_written(current)
        reasons = {item_id: failure.reason for item_id, failure in current.failed.items() if failure.is_new}
        for why, ids in by_reason({**reasons, **refused}):
            about = {"collection": deps.collection, "why": why, "count": len(ids)}
            log.warning("items_set_aside", extra={**about, "ids": ids[:IDS_SHOWN]})
        self._count_quarantined()
        deps.metrics.count_written(deps.collection, applied.upserted, applied.deleted, applied.stale_ignored)

    def _cursors(self, bookmarks: Mapping[str, str]) -> dict[str, str]:
        cursors = {CLOCK_CURSOR: str(self._versions.next())}
        if not self._is_owed:
            tiers = (f"{side}={feed.tier}" for side, feed in self._deps.feeds.items())
            cursors[TIERS_CURSOR] = " ".join(tiers)
        if self._version is not None:
            follower = self._deps.follower
            owing = follower + OWES if self._is_trusted else ""
            cursors[FOLLOWER_CURSOR] = owing if self._is_owed else follower
        return {**bookmarks, **self._report(), **cursors, **self._brake_cursor}

    def _check(self) -> None:
        """Hold the lease, and look at what the service serves and what the sources keep for us."""
        deps = self._deps
        self._check_at = deps.ticks() + self._pace.check_s
        deps.lease.hold()
        state = deps.store.state()
        self._run_timed_checks(state)
        if self._version_now(state) != self._version:
            raise ImportRefused(f"{deps.collection} serves another embedding_version now: {state.version}")
        deps.metrics.set_vanished(deps.collection, deps.vanished())
        if self._version is not None:
            for chunk in batches(list(deps.reader.quarantined(only_due=True)), self._batch_items):
                self._write("items", chunk, {})
        for side, feed in deps.feeds.items():
            try:
                backlog = feed.backlog()
                rows = backlog.rows + self._unread.get(side, 0)
                deps.metrics.set_backlog(deps.collection, side, replace(backlog, rows=rows))
            except FeedLost as exc:
                if side in self._feeds():
                    self._restart_feed(side, exc)

    def _run_timed_checks(self, state: CollectionState) -> None:
        deps, timed_checks = self._deps, self._deps.timed_checks
        now = deps.ticks()
        if timed_checks is None or now < self._timed_checks_at + TIMED_CHECKS_S:
            return
        self._timed_checks_at = now
        self._unread = timed_checks.unread()
        why = timed_checks.better()
        if state.store != timed_checks.store:
            why = "another data directory answers for the service now"
        if why is not None:
            log.warning("following_anew", extra={"collection": deps.collection, "why": why})
            self._is_outdated = True

    def _wait(self) -> None:
        """Wait where a change of the vectors, or else of the items, would wake us."""
        feed = min(self._deps.feeds.values(), key=lambda each: each.tier == "poll", default=None)
        if feed is not None:
            feed.wait_for_changes(self._pace.poll_s)


def _cursor(side: Side) -> str:
    return f"sync.{side}"
