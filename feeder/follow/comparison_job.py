"""One comparison of a collection that nobody has to follow for it: `verify` and `reconcile`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from feeder.changes import Changes
from feeder.compare.reconciler import Reconciler
from feeder.compare.report import Report
from feeder.errors import BrakeOn
from feeder.facts import SourceReader
from feeder.follow.versions import SourceVersions
from feeder.sink.brake import Store, brake_cursor
from feeder.sink.writer import Writer
from feeder.sources.change_feed import Lease
from feeder.state.cursor_names import BRAKE_CURSOR, CLOCK_CURSOR, FOLLOWER_CURSOR, WINDOW_CURSOR
from feeder.state.follower_state import NOBODY
from vector_client.types import CollectionState

ComparisonMode: TypeAlias = Literal["verify", "repair", "force"]
"""verify: change nothing. repair: within the brake. force: whatever the brake says."""


@dataclass(frozen=True, slots=True)
class ComparisonJob:
    """What it needs. store: the way into the service that the brake guards; `writer` sends. version_of: the
    embedding_version to compare under. clock: seconds since 1970."""

    reader: SourceReader
    store: Store
    writer: Writer
    reconciler: Reconciler
    lease: Lease
    version_of: Callable[[CollectionState], str]
    clock: Callable[[], float]

    def run(self, mode: ComparisonMode) -> Report:
        """Return the outcome. Repairs only under the lease, and has the next follower compare everything.

        Raises FeederError: AnotherFeeder while one follows the collection, ImportRefused, BrakeOn,
        SourceDown, ServiceDown.
        """
        self.writer.start()
        try:
            if mode != "verify":
                self.lease.hold()
            self.reader.open()
            state = self.store.state()
            version = self.version_of(state)
            if mode == "verify":
                return self.reconciler.compare(version)
            return self._repaired(version, state, is_forced=mode == "force")
        except BrakeOn as exc:
            self.writer.apply(Changes(), brake_cursor(exc, self.clock))
            raise
        finally:
            self.lease.release()
            self.reader.close()
            self.writer.close()

    def _repaired(self, version: str, state: CollectionState, *, is_forced: bool) -> Report:
        versions = SourceVersions(self.clock)
        versions.start_after(state.cursors.get(CLOCK_CURSOR))
        self.writer.apply(Changes(), {FOLLOWER_CURSOR: NOBODY.to_text()})
        report = self.reconciler.repair(version, versions.next)
        counts_from_zero = {WINDOW_CURSOR: ""} if is_forced else {}
        self.writer.apply(Changes(), {BRAKE_CURSOR: "", **counts_from_zero})
        return report
