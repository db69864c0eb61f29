"""How the feeder learns that source rows changed, whatever the database grants. Words only.

A feed names keys whose rows may have changed; the rows themselves are read afterwards, as they are then. So
order, duplicates and late commits do not matter, as long as every change is named at least once: a feed
forgets a change only when it is acknowledged, after the service has stored what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from feeder.changes import Key

Side: TypeAlias = Literal["vectors", "items"]
"""vectors: keys are primary keys of the vector table. items: keys are the collection's ids."""

Tier: TypeAlias = Literal["log", "triggers", "poll"]


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """What one reading found.

    gap: why the keys do not tell everything (TRUNCATE, DDL, a poll's timer); a full comparison must follow.
    bookmark: where the feed stands after this reading, None when it has nothing new to say.
    receipt: what `acknowledge` needs. is_full: more is probably waiting.
    committed_at_s: when the oldest of the changes was committed, by the source's clock.
    """

    keys: Sequence[Key] = ()
    gap: str | None = None
    bookmark: str | None = None
    receipt: Any = None
    is_full: bool = False
    committed_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits at the source because nobody acknowledged it yet: bytes of log, or rows; oldest_s: age."""

    retained_bytes: int = 0
    rows: int = 0
    oldest_s: float = 0.0


class ChangeFeed(Protocol):
    """Changes of one side of one collection. For one thread at a time.

    Every method raises SourceDown when the database does not answer, and FeedLost when changes may have been
    missed: then `restart` begins again, and a full comparison makes up for the gap.
    """

    @property
    def tier(self) -> Tier:
        """How it notices changes."""

    def open(self, bookmark: str | None) -> None:
        """Resume where `bookmark`, the newest one the service stored, says."""

    def restart(self) -> str:
        """Begin again, from now; return the bookmark. What is committed from now on will be named."""

    def read(self) -> ChangeBatch:
        """Return what changed and was not acknowledged yet. Does not wait."""

    def acknowledge(self, batch: ChangeBatch) -> None:
        """Forget what `batch` names; to be called only when the service has stored what came of it."""

    def wait_for_changes(self, seconds: float) -> None:
        """Return when something may be waiting, or after `seconds`."""

    def backlog(self) -> Backlog:
        """Return what the source keeps for this feed."""

    def close(self) -> None:
        """Let connections and threads go; twice is harmless. `open` or `restart` may follow."""


class GrantedFeed(ChangeFeed, Protocol):
    """A feed that needs rights, which a database may not have granted."""

    def is_granted(self) -> bool:
        """Tell whether this user may follow by it."""


class Lease(Protocol):
    """The right to follow one collection of one service, which one feeder has at a time. For one thread."""

    def hold(self) -> None:
        """Take the lease, or make sure that it is still ours. Raises AnotherFeeder, SourceDown."""

    def release(self) -> None:
        """Give it back, whether it was held or not."""
