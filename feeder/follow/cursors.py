"""What a follower has the service store with every write: where it stands, and how its collection does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from feeder.errors import BrakeOn
from feeder.follow.mode import Mode, state_of
from feeder.follow.versions import SourceVersions
from feeder.sink.brake import brake_cursor
from feeder.sources.change_feed import ChangeFeed, Side
from feeder.state.cursor_names import BRAKE_CURSOR, CLOCK_CURSOR, FOLLOWER_CURSOR, REPORT_CURSOR, TIERS_CURSOR


class FollowerCursors:
    """Makes the cursors of one follower. For one thread.

    comparison_owed: what is followed may not be all that changed. lag_ms: of the last change. quarantined:
    how many items can't be stored.
    """

    def __init__(self, follower: str, feeds: Mapping[Side, ChangeFeed], clock: Callable[[], float]) -> None:
        self._follower = follower
        self._feeds = feeds
        self._clock = clock
        self._versions = SourceVersions(clock)
        self._compared: tuple[bool, float] | None = None
        self._brake: dict[str, str] = {}
        self.comparison_owed = False
        self.lag_ms: float | None = None
        self.quarantined = 0

    def go_on_after(self, stored: Mapping[str, str]) -> None:
        """Go on behind what the service holds."""
        self._versions.start_after(stored.get(CLOCK_CURSOR))

    def next_version(self) -> int:
        """Return a source_version newer than any before; take it before the rows are read."""
        return self._versions.next()

    def report_compared(self, *, is_equal: bool, as_of_s: float) -> None:
        """Report this outcome of a full comparison from now on."""
        self._compared = (is_equal, as_of_s)

    def set_brake_on(self, exc: BrakeOn) -> None:
        """Say that the brake holds, and that a comparison is owed."""
        self.comparison_owed = True
        self._brake = brake_cursor(exc, self._clock)
        self.report_compared(is_equal=False, as_of_s=self._clock())

    def set_brake_off(self) -> None:
        """Say that the brake does not hold any more."""
        self._brake = {BRAKE_CURSOR: ""}

    def with_bookmarks(self, mode: Mode, bookmarks: Mapping[str, str]) -> dict[str, str]:
        """Return everything that goes with a write. bookmarks: where feeds stand once it is stored."""
        cursors = {CLOCK_CURSOR: str(self._versions.next())}
        if not self.comparison_owed:
            cursors[TIERS_CURSOR] = " ".join(f"{side}={feed.tier}" for side, feed in self._feeds.items())
        state = state_of(mode, self._follower, comparison_owed=self.comparison_owed)
        if state is not None:
            cursors[FOLLOWER_CURSOR] = state.to_text()
        return {**bookmarks, **self._report(), **cursors, **self._brake}

    def _report(self) -> dict[str, str]:
        if self._compared is None:
            return {}
        is_equal, as_of_s = self._compared
        report = {
            "equal": is_equal,
            "as_of_ms": int(as_of_s * 1000),
            "lag_ms": self.lag_ms,
            "quarantined": self.quarantined,
        }
        return {REPORT_CURSOR: json.dumps(report)}
