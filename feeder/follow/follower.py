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
from feeder.compare.reconciler import batches, store_known
from feeder.errors import (
    BrakeOn,
    FeedLost,
    ImportRefused,
)
from feeder.follow.backoff import Stop
from feeder.follow.parts import Pace, Parts
from feeder.follow.versions import Versions
from feeder.sink.brake import BRAKE_CURSOR, told_brake
from feeder.sources.change_feed import ChangeFeed, Noticed, Side
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
LOOKOUT_S = 60.0
"""Between two looks at what changes seldom."""
ANEW_APART_S = 30.0
"""Two new starts of a feed are at least so far apart."""


class _Ended(Exception):
    """It was told to end while it compared."""


class Syncer:
    """For one thread. `run` goes on until stopped; `start` and `step` are its parts."""

    def __init__(self, parts: Parts, pace: Pace, batch_items: int) -> None:
        self._parts = parts
        self._pace = pace
        self._batch_items = batch_items
        self._versions = Versions(parts.clock)
        self._version: str | None = ""
        self._is_partial = False
        self._compare_at = 0.0
        self._check_at = 0.0
        self._anew_at = -ANEW_APART_S
        self._lag_ms: float | None = None
        self._quarantined = 0
        self._compared: tuple[bool, float] | None = None
        self._is_trusted = False
        self._is_owed = False
        self._deaf: set[Side] | None = None
        self._brake_told: dict[str, str] = {}
        self._stop: Stop | None = None
        self._lookout_at = -LOOKOUT_S
        self._unread: Mapping[Side, int] = {}
        self._is_outdated = False

    def run(self, stop: Stop, on_step: Callable[[], object]) -> None:
        """Follow until `stop`, or until it has to be wired anew. Raises FeederError; a new syncer goes on
        where this one was."""
        self._stop = stop
        with contextlib.suppress(_Ended):
            self.start()
            while not stop.is_set() and not self._is_outdated:
                if not self.step():
                    self._wait()
                on_step()

    def start(self) -> None:
        """Take the lease, resume each feed where the service says, compare everything if one can't."""
        parts = self._parts
        parts.lease.hold()
        state = parts.store.state()
        self._version = self._version_now(state)
        self._versions.begin_after(state.cursors.get(CLOCK_CURSOR))
        reasons: list[str] = []
        held_by_brake = bool(state.cursors.get(BRAKE_CURSOR))
        parts.metrics.brake(parts.collection, held_by_brake)
        if held_by_brake:
            reasons.append("the brake held before")
        if self._version is None:
            assert parts.activity is not None
            parts.activity.open()
            reasons.append("activity may have changed")
        else:
            parts.truth.open()
            follower = state.cursors.get(FOLLOWER_CURSOR)
            self._is_trusted = parts.truth.is_ready and follower in (parts.follower, parts.follower + OWES)
            if not parts.truth.is_ready:
                reasons.append("the rows of the source are not known yet")
            elif not self._is_trusted and not held_by_brake:
                reasons.append("others have written since this feeder followed")
            elif follower != parts.follower:
                reasons.append("the last comparison did not come to its end")
        lost: list[Side] = []
        for side, feed in self._feeds().items():
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
        now = self._parts.ticks()
        try:
            if now >= self._check_at:
                self._check()
            if now >= self._compare_at:
                self.compare("a full comparison is due")
            return self._read_feeds()
        except BrakeOn as exc:
            self._hold_brake(exc)
            raise

    def _read_feeds(self) -> bool:
        is_busy = False
        for side, feed in self._feeds().items():
            if self._deaf and side in self._deaf:
                continue
            try:
                noticed = feed.read()
                self._do(side, feed, noticed)
            except FeedLost as exc:
                self._lose(side, exc)
                return True
            is_busy = is_busy or bool(noticed.keys or noticed.gap)
        return is_busy

    def compare(
        self, reason: str, *, is_alone: bool = False, bookmarks: Mapping[str, str] | None = None
    ) -> None:
        """Compare everything and mend what differs. is_alone: follow nothing meanwhile. bookmarks: where lost
        feeds have started anew. Raises BrakeOn."""
        parts = self._parts
        log.info("comparing", extra={"collection": parts.collection, "why": reason})
        as_of_s, began = parts.clock(), parts.ticks()
        is_equal = False
        # Until it has come to its end, whoever resumes owes it, wherever the feeds stand by then.
        self._is_owed = True
        parts.store.apply(Changes(), self._cursors(bookmarks or {}))
        self._deaf = set()
        try:
            if self._version is not None:
                meanwhile = self._follow_on if self._is_trusted and not is_alone else None
                report = parts.reconciler.mend(self._version, self._versions.next, meanwhile)
                is_equal, as_of_s = report.is_equal, report.as_of_s
            elif parts.activity is not None:
                parts.activity.mend(self._versions.next)
        except BrakeOn as exc:
            parts.metrics.compared(parts.collection, False, as_of_s)
            self._hold_brake(exc)
            raise
        finally:
            self._deaf = None
        self._is_owed, self._is_trusted = False, True
        parts.metrics.brake(parts.collection, False)
        self._brake_told = {BRAKE_CURSOR: ""}
        parts.metrics.compared(parts.collection, is_equal, as_of_s)
        now = parts.ticks()
        self._compare_at = now + max(self._pace.compare_s, (now - began) * (1 / COMPARED_SHARE_MAX - 1))
        for feed in self._feeds().values():
            if feed.tier == "poll":
                feed.begin()  # one comparison an interval, whatever asked for it
        self._count_quarantined()
        self._tell(is_equal=is_equal, as_of_s=as_of_s)

    def close(self) -> None:
        parts = self._parts
        for feed in parts.feeds.values():
            feed.close()
        parts.truth.close()
        if parts.activity is not None:
            parts.activity.close()
        parts.lease.release()

    def _follow_on(self) -> bool:
        """Follow beside a comparison; return whether there was anything. What can't be followed before it is
        over waits where it is: a gap, and a feed that is lost."""
        if self._stop is not None and self._stop.is_set():
            raise _Ended
        if self._parts.ticks() >= self._check_at:
            self._check()
        return self._read_feeds()

    def _version_now(self, state: CollectionState) -> str | None:
        """Return the embedding_version to write under; None where only activity can be followed, and the
        log has said why. Raises ImportRefused."""
        parts = self._parts
        try:
            version = parts.version_of(state)
        except ImportRefused as exc:
            if parts.activity is None or not (self._is_partial or parts.store.digest().items):
                raise  # an empty index waits for its import, which needs the lease
            if not self._is_partial:
                what = {"collection": parts.collection, "why": str(exc)}
                log.error("vectors_not_followed", extra={**what, "still": "activity and deletes"})
            self._is_partial = True
            parts.metrics.partial(parts.collection, True)
            return None
        self._is_partial = False
        parts.metrics.partial(parts.collection, False)
        return version

    def _feeds(self) -> Mapping[Side, ChangeFeed]:
        """Without a version nobody looks at vectors: their changes wait where they are."""
        feeds = self._parts.feeds
        return feeds if self._version is not None else {s: f for s, f in feeds.items() if s == "items"}

    def _tell(self, *, is_equal: bool, as_of_s: float) -> None:
        """Let the service's /health say how it stands."""
        self._compared = (is_equal, as_of_s)
        self._parts.store.apply(Changes(), self._cursors({}))

    def _hold_brake(self, exc: BrakeOn) -> None:
        """A wrong database, perhaps: its changes are not to be followed before a comparison went well."""
        parts = self._parts
        self._is_trusted, self._is_owed = False, True
        parts.metrics.brake(parts.collection, True)
        self._brake_told = told_brake(exc, parts.clock)
        self._tell(is_equal=False, as_of_s=parts.clock())

    def _count_quarantined(self) -> None:
        parts = self._parts
        self._quarantined = len(parts.truth.quarantined()) if self._version is not None else 0
        parts.metrics.quarantined(parts.collection, self._quarantined)

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

    def _lose(self, side: Side, exc: FeedLost) -> None:
        """Start anew, unless that was just done: a feed that is lost again and again must not make
        comparison follow comparison, and is chosen again."""
        if self._deaf is not None:
            self._deaf.add(side)
            return
        now = self._parts.ticks()
        if now < self._anew_at + ANEW_APART_S:
            raise exc
        self._anew_at = now
        self._start_anew([side], str(exc))

    def _start_anew(self, lost: Sequence[Side], reason: str) -> None:
        """Position first, then the comparison: what is committed meanwhile is noticed afterwards."""
        log.warning("starting_anew", extra={"collection": self._parts.collection, "why": reason})
        feeds = self._parts.feeds
        bookmarks = {_cursor(side): feeds[side].begin() for side in lost}
        self.compare(reason, bookmarks=bookmarks)

    def _do(self, side: Side, feed: ChangeFeed, noticed: Noticed) -> None:
        if noticed.gap and self._deaf is not None:
            self._deaf.add(side)
            return
        if noticed.gap:
            self.compare(noticed.gap, is_alone=feed.tier != "poll")
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
        if self._version is None:
            assert parts.activity is not None
            parts.activity.write(keys, stamp, self._cursors(bookmarks))
            return
        known = parts.truth.about(keys=keys) if side == "vectors" else parts.truth.about(ids=keys)
        applied, refused = store_known(
            parts.store, parts.truth, known, self._version, stamp, self._cursors(bookmarks)
        )
        parts.reconciler.hear(known)
        reasons = {item_id: failure.reason for item_id, failure in known.failed.items() if failure.is_new}
        for why, ids in by_reason({**reasons, **refused}):
            about = {"collection": parts.collection, "why": why, "count": len(ids)}
            log.warning("items_set_aside", extra={**about, "ids": ids[:IDS_SHOWN]})
        self._count_quarantined()
        parts.metrics.written(parts.collection, applied.upserted, applied.deleted, applied.stale_ignored)

    def _cursors(self, bookmarks: Mapping[str, str]) -> dict[str, str]:
        cursors = {CLOCK_CURSOR: str(self._versions.next())}
        if not self._is_owed:
            tiers = (f"{side}={feed.tier}" for side, feed in self._parts.feeds.items())
            cursors[TIERS_CURSOR] = " ".join(tiers)
        if self._version is not None:
            follower = self._parts.follower
            owing = follower + OWES if self._is_trusted else ""
            cursors[FOLLOWER_CURSOR] = owing if self._is_owed else follower
        return {**bookmarks, **self._report(), **cursors, **self._brake_told}

    def _check(self) -> None:
        """Hold the lease, and look at what the service serves and what the sources keep for us."""
        parts = self._parts
        self._check_at = parts.ticks() + self._pace.check_s
        parts.lease.hold()
        state = parts.store.state()
        self._look_out(state)
        if self._version_now(state) != self._version:
            raise ImportRefused(f"{parts.collection} serves another embedding_version now: {state.version}")
        parts.metrics.vanished(parts.collection, parts.vanished())
        if self._version is not None:
            for chunk in batches(list(parts.truth.quarantined(only_due=True)), self._batch_items):
                self._write("items", chunk, {})
        for side, feed in parts.feeds.items():
            try:
                backlog = feed.backlog()
                rows = backlog.rows + self._unread.get(side, 0)
                parts.metrics.backlog(parts.collection, side, replace(backlog, rows=rows))
            except FeedLost as exc:
                if side in self._feeds():
                    self._lose(side, exc)

    def _look_out(self, state: CollectionState) -> None:
        parts, lookout = self._parts, self._parts.lookout
        now = parts.ticks()
        if lookout is None or now < self._lookout_at + LOOKOUT_S:
            return
        self._lookout_at = now
        self._unread = lookout.unread()
        why = lookout.better()
        if state.store != lookout.store:
            why = "another data directory answers for the service now"
        if why is not None:
            log.warning("following_anew", extra={"collection": parts.collection, "why": why})
            self._is_outdated = True

    def _wait(self) -> None:
        """Wait where a change of the vectors, or else of the items, would wake us."""
        feed = min(self._parts.feeds.values(), key=lambda each: each.tier == "poll", default=None)
        if feed is not None:
            feed.wait(self._pace.poll_s)


def _cursor(side: Side) -> str:
    return f"sync.{side}"
