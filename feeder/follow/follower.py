"""Follow one collection's sources: notice, read again, write, remember, acknowledge - in this order.

What is noticed names rows, never values, so everything here may happen twice and in any order. The bookmark
of a log is stored by the service in the same commit as the rows; what the service says it stored is where
this resumes. When changes may have been missed, everything is compared. What may be followed meanwhile is
said by the mode.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from feeder.changes import Changes, Key
from feeder.compare.writes import batches, store_state
from feeder.errors import BrakeOn, FeedLost, ImportRefused
from feeder.follow.backoff import StopSignal
from feeder.follow.cursors import FollowerCursors
from feeder.follow.dependencies import FollowerDependencies, Pace
from feeder.follow.mode import (
    ActivityOnly,
    Fresh,
    Mode,
    Trusted,
    Untrusted,
    WithVectors,
    reason_to_compare,
    resumed,
)
from feeder.follow.quarantine import QuarantineNotes
from feeder.sources.change_feed import ChangeBatch, ChangeFeed, Side
from feeder.state.cursor_names import BRAKE_CURSOR, FOLLOWER_CURSOR, bookmark_cursor
from feeder.state.follower_state import FollowerState
from feeder.telemetry.reporting import by_reason
from vector_client.types import CollectionState

log = logging.getLogger(__name__)

COMPARED_SHARE_MAX = 0.01
"""Of the time, where a log or triggers are followed: a comparison finds what they missed, next to nothing."""
IDS_SHOWN = 5
TIMED_CHECKS_S = 60.0
"""Between two looks at what changes seldom."""
RESTARTS_APART_S = 30.0
"""Least time between two restarts of a feed."""


class _Stopped(Exception):
    """Raised out of a comparison when the follower is told to stop; `follow_until` ends quietly."""


class Follower:
    """Follows one collection. For one thread. `follow_until` runs `start`, then `step` again and again."""

    def __init__(self, deps: FollowerDependencies, pace: Pace, batch_items: int) -> None:
        self._deps = deps
        self._pace = pace
        self._batch_items = batch_items
        self._quarantine = QuarantineNotes(deps.reader, deps.store)
        self._mode: Mode = Fresh("")
        self._cursors = FollowerCursors(deps.follower, deps.feeds, deps.clock)
        self._compare_at = 0.0
        self._check_at = 0.0
        self._restarted_at = -RESTARTS_APART_S
        self._timed_checks_at = -TIMED_CHECKS_S
        self._is_comparing = False
        self._unfollowed: set[Side] = set()
        self._unread: Mapping[Side, int] = {}
        self._stop: StopSignal | None = None
        self._is_outdated = False

    def follow_until(self, stop: StopSignal, on_step: Callable[[], object]) -> None:
        """Follow until `stop`, or until the follower has to be built again.

        Raises FeederError; a new follower resumes where this one was.
        """
        self._stop = stop
        with contextlib.suppress(_Stopped):
            self.start()
            while not stop.is_set() and not self._is_outdated:
                if not self.step():
                    self._wait()
                on_step()

    def start(self) -> None:
        """Take the lease, resume each feed where the service says, compare everything where that is owed.

        Raises FeederError: AnotherFeeder while another one holds the lease, ImportRefused where nothing can
        be followed, BrakeOn.
        """
        deps = self._deps
        if deps.activity is None:
            deps.version_of(deps.store.state())  # raised before the lease is held: the import needs it
        deps.lease.hold()
        state = deps.store.state()
        version = self._version_now(state)
        self._cursors.go_on_after(state.cursors)
        held_by_brake = bool(state.cursors.get(BRAKE_CURSOR))
        deps.metrics.set_brake(deps.collection, held_by_brake)
        stored = FollowerState.parsed(state.cursors.get(FOLLOWER_CURSOR))
        self._mode = self._opened_mode(version, stored)
        why = reason_to_compare(self._mode, comparison_owed=stored.comparison_owed)
        # After the brake the reason is the brake's: that somebody else wrote is how it is stored.
        if held_by_brake:
            why = None if isinstance(self._mode, Untrusted) else why
        reasons = ["the brake held before"] * held_by_brake + ([why] if why else [])
        lost: list[Side] = []
        for side, feed in self._feeds().items():
            deps.metrics.set_tier(deps.collection, side, feed.tier)
            try:
                feed.open(state.cursors.get(bookmark_cursor(side)))
            except FeedLost as exc:
                lost.append(side)
                reasons.append(str(exc))
        self._compare_at = deps.ticks() + self._pace.compare_s
        if reasons:
            self._restart_feeds(lost, "; ".join(reasons))

    def step(self) -> bool:
        """Apply what was noticed; return whether there was anything. Raises FeederError."""
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

    def compare_all(
        self, reason: str, *, is_alone: bool = False, bookmarks: Mapping[str, str] | None = None
    ) -> None:
        """Compare everything and repair what differs.

        is_alone: follow nothing meanwhile. bookmarks: where lost feeds have been started again.
        Raises BrakeOn before anything is written, SourceDown, ServiceDown.
        """
        deps = self._deps
        log.info("comparing", extra={"collection": deps.collection, "why": reason})
        as_of_s, began = deps.clock(), deps.ticks()
        # Owed until it has come to its end, wherever the feeds stand by then.
        self._cursors.comparison_owed = True
        self._store_cursors(bookmarks or {})
        self._is_comparing, self._unfollowed = True, set()
        try:
            is_equal, as_of_s = self._repair_all(as_of_s, is_alone=is_alone)
        except BrakeOn as exc:
            deps.metrics.set_compared(deps.collection, False, as_of_s)
            self._hold_brake(exc)
            raise
        finally:
            self._is_comparing, self._unfollowed = False, set()
        self._cursors.comparison_owed = False
        if not isinstance(self._mode, ActivityOnly):
            self._mode = Trusted(self._mode.version)
        deps.metrics.set_brake(deps.collection, False)
        self._cursors.set_brake_off()
        deps.metrics.set_compared(deps.collection, is_equal, as_of_s)
        now = deps.ticks()
        self._compare_at = now + max(self._pace.compare_s, (now - began) * (1 / COMPARED_SHARE_MAX - 1))
        for feed in self._feeds().values():
            if feed.tier == "poll":
                feed.restart()  # one comparison an interval, whatever asked for it
        self._count_quarantined()
        self._cursors.report_compared(is_equal=is_equal, as_of_s=as_of_s)
        self._store_cursors({})

    def close(self) -> None:
        """Let connections, files and the lease go."""
        deps = self._deps
        for feed in deps.feeds.values():
            feed.close()
        deps.reader.close()
        if deps.activity is not None:
            deps.activity.close()
        deps.lease.release()

    def _opened_mode(self, version: str | None, stored: FollowerState) -> Mode:
        deps = self._deps
        if version is None:
            assert deps.activity is not None
            deps.activity.open()
            return ActivityOnly(deps.activity)
        deps.reader.open()
        return resumed(version, deps.follower, stored, is_ready=deps.reader.is_ready)

    def _repair_all(self, as_of_s: float, *, is_alone: bool) -> tuple[bool, float]:
        """Return whether index and source are proven equal, and as of when. Activity alone is no proof."""
        deps, mode, cursors = self._deps, self._mode, self._cursors
        if isinstance(mode, ActivityOnly):
            mode.activity.repair_activity(cursors.next_version)
            return False, as_of_s
        may_follow = isinstance(mode, Trusted) and not is_alone
        meanwhile = self._follow_meanwhile if may_follow else None
        report = deps.reconciler.repair(mode.version, cursors.next_version, meanwhile)
        return report.is_equal, report.as_of_s

    def _follow_meanwhile(self) -> bool:
        """Follow while everything is compared; return whether there was anything. What can't be followed
        before that is over waits at its source: a gap, and a feed that is lost."""
        if self._stop is not None and self._stop.is_set():
            raise _Stopped
        if self._deps.ticks() >= self._check_at:
            self._check()
        return self._read_feeds()

    def _read_feeds(self) -> bool:
        is_busy = False
        for side, feed in self._feeds().items():
            if side in self._unfollowed:
                continue
            try:
                batch = feed.read()
                self._apply_batch(side, feed, batch)
            except FeedLost as exc:
                self._restart_feed(side, exc)
                return True
            is_busy = is_busy or bool(batch.keys or batch.gap)
        return is_busy

    def _version_now(self, state: CollectionState) -> str | None:
        """Return the embedding_version to write under; None where only activity can be followed, and the
        log has said why. Raises ImportRefused."""
        deps = self._deps
        is_known = isinstance(self._mode, ActivityOnly)
        try:
            version = deps.version_of(state)
        except ImportRefused as exc:
            if deps.activity is None or not (is_known or deps.store.digest().items):
                raise  # an empty index waits for its import, which needs the lease
            if not is_known:
                what = {"collection": deps.collection, "why": str(exc), "hint": exc.hint}
                log.error("vectors_not_followed", extra={**what, "still": "activity and deletes"})
            deps.metrics.set_activity_only(deps.collection, True)
            return None
        deps.metrics.set_activity_only(deps.collection, False)
        return version

    def _feeds(self) -> Mapping[Side, ChangeFeed]:
        """Return the feeds to read. In ActivityOnly, changes of vectors wait at their source."""
        feeds = self._deps.feeds
        if isinstance(self._mode, ActivityOnly):
            return {side: feed for side, feed in feeds.items() if side == "items"}
        return feeds

    def _store_cursors(self, bookmarks: Mapping[str, str]) -> None:
        self._deps.store.apply(Changes(), self._cursors.with_bookmarks(self._mode, bookmarks))

    def _hold_brake(self, exc: BrakeOn) -> None:
        """Trust nothing before a comparison has gone well: this may be a wrong database."""
        if not isinstance(self._mode, ActivityOnly):
            self._mode = Untrusted(self._mode.version)
        self._deps.metrics.set_brake(self._deps.collection, True)
        self._cursors.set_brake_on(exc)
        self._store_cursors({})

    def _count_quarantined(self) -> None:
        deps = self._deps
        is_counted = not isinstance(self._mode, ActivityOnly)
        self._cursors.quarantined = len(deps.reader.quarantined()) if is_counted else 0
        deps.metrics.set_quarantined(deps.collection, self._cursors.quarantined)

    def _restart_feed(self, side: Side, exc: FeedLost) -> None:
        """Restart a feed that may have missed changes, unless that was just done: a feed that is lost again
        and again must not make comparison follow comparison. Raises FeedLost, so that another is chosen."""
        if self._is_comparing:
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
        bookmarks = {bookmark_cursor(side): feeds[side].restart() for side in lost}
        self.compare_all(reason, bookmarks=bookmarks)

    def _apply_batch(self, side: Side, feed: ChangeFeed, batch: ChangeBatch) -> None:
        if batch.gap and self._is_comparing:
            self._unfollowed.add(side)
            return
        if batch.gap:
            self.compare_all(batch.gap, is_alone=feed.tier != "poll")
        if batch.committed_at_s is not None:
            self._cursors.lag_ms = round(max(0.0, self._deps.clock() - batch.committed_at_s) * 1000, 1)
        bookmarks = {} if batch.bookmark is None else {bookmark_cursor(side): batch.bookmark}
        chunks = list(batches(batch.keys, self._batch_items))
        for chunk in chunks[:-1]:
            self._write(side, chunk, {})
        if chunks:
            self._write(side, chunks[-1], bookmarks)
        elif bookmarks:
            self._store_cursors(bookmarks)
        feed.acknowledge(batch)
        if batch.committed_at_s is not None:
            lag = self._deps.clock() - batch.committed_at_s
            self._deps.metrics.observe_lag(self._deps.collection, side, lag)

    def _write(self, side: Side, keys: Sequence[Key], bookmarks: Mapping[str, str]) -> None:
        stamp = self._cursors.next_version()  # before the rows are read: of two writers the later reader wins
        cursors = self._cursors.with_bookmarks(self._mode, bookmarks)
        if isinstance(self._mode, ActivityOnly):
            self._mode.activity.write_activity(keys, stamp, cursors)
        else:
            self._write_rows(self._mode, side, keys, stamp, cursors)

    def _write_rows(
        self, mode: WithVectors, side: Side, keys: Sequence[Key], stamp: int, cursors: Mapping[str, str]
    ) -> None:
        deps, reader = self._deps, self._deps.reader
        current = reader.current_state(keys=keys) if side == "vectors" else reader.current_state(ids=keys)
        written, refused = store_state(deps.store, reader, current, mode.version, stamp, cursors)
        deps.reconciler.note_written(current)
        reasons = {item_id: failure.reason for item_id, failure in current.failed.items() if failure.is_new}
        for why, ids in by_reason({**reasons, **refused}):
            about = {"collection": deps.collection, "why": why, "count": len(ids)}
            log.warning("items_set_aside", extra={**about, "ids": ids[:IDS_SHOWN]})
        self._count_quarantined()
        deps.metrics.count_written(deps.collection, written.upserted, written.deleted, written.stale_ignored)

    def _check(self) -> None:
        """Hold the lease, and look at what the service serves and what the sources keep for us."""
        deps, mode = self._deps, self._mode
        self._check_at = deps.ticks() + self._pace.check_s
        deps.lease.hold()
        state = deps.store.state()
        self._run_timed_checks(state)
        if self._version_now(state) != (None if isinstance(mode, ActivityOnly) else mode.version):
            raise ImportRefused(
                f"{deps.collection} serves another embedding_version now: {state.version}",
                hint="Nothing needs to be done: following begins again with it.",
            )
        deps.metrics.set_vanished(deps.collection, deps.vanished())
        if not isinstance(mode, ActivityOnly):
            self._quarantine.follow_wish(state.cursors)
            for chunk in batches(list(deps.reader.quarantined(only_due=True)), self._batch_items):
                self._write("items", chunk, {})
            self._quarantine.tell(state.cursors)
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
