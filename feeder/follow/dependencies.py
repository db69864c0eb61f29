"""What following one collection is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from feeder.compare.reconciler import Reconciler
from feeder.facts import SourceReader
from feeder.follow.activity_only import ActivityFollower
from feeder.sink.brake import Store, nothing_vanished
from feeder.sources.change_feed import ChangeFeed, Lease, Side
from feeder.telemetry.metrics import Metrics
from vector_client.types import CollectionState


@dataclass(frozen=True, slots=True)
class Pace:
    """poll_s: pause when nothing was noticed. compare_s: a full comparison this often, more seldom where it
    takes long. check_s: between looks at lease and backlog."""

    poll_s: float
    compare_s: float
    check_s: float = 5.0


@dataclass(frozen=True, slots=True)
class TimedChecks:
    """What may change while a collection is followed. store: the service's data directory, as it was named
    when this was wired. unread: rows that triggers wrote and this follower does not read, by side.
    better: what a database has come to grant, None for nothing better."""

    store: str
    unread: Callable[[], Mapping[Side, int]]
    better: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class FollowerDependencies:
    """One collection's sources, lease and service. clock: seconds since 1970; ticks: monotonic seconds.
    version_of: the embedding_version to write under, or why there is none. follower: names the memory behind
    `reader`. activity: what can be followed without a version, None where that is nothing. vanished: how many
    items have vanished within the brake's window. timed_checks: asked every TIMED_CHECKS_S."""

    collection: str
    store: Store
    reader: SourceReader
    feeds: Mapping[Side, ChangeFeed]
    lease: Lease
    reconciler: Reconciler
    metrics: Metrics
    clock: Callable[[], float]
    ticks: Callable[[], float]
    version_of: Callable[[CollectionState], str]
    follower: str
    activity: ActivityFollower | None = None
    vanished: Callable[[], int] = nothing_vanished
    timed_checks: TimedChecks | None = None
