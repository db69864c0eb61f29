"""What a follower may do now, and what has to happen before it may do more.

Fresh       → a comparison fills the memory                                  → Trusted
Untrusted   → a comparison corrects what the memory or the index missed      → Trusted
Trusted     → changes are followed, also while everything is compared
ActivityOnly → activity and deletes are followed, until the served model is that of the source's vectors
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from feeder.follow.activity_only import ActivityFollower
from feeder.state.follower_state import NOBODY, FollowerState


@dataclass(frozen=True, slots=True)
class Fresh:
    """The memory does not hold every row of the source yet. version: the embedding_version to write under."""

    version: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """The memory is complete, and nobody else has written since: changes may be followed while everything is
    compared. version: the embedding_version to write under."""

    version: str


@dataclass(frozen=True, slots=True)
class Untrusted:
    """Others have written since the memory was kept, or the brake held: nothing is followed before a
    comparison has come to its end. version: the embedding_version to write under."""

    version: str


@dataclass(frozen=True, slots=True)
class ActivityOnly:
    """The source's vectors are not proven to be of the served model: they are not written."""

    activity: ActivityFollower


WithVectors: TypeAlias = Fresh | Trusted | Untrusted
Mode: TypeAlias = WithVectors | ActivityOnly


def resumed(version: str, follower: str, stored: FollowerState, *, is_ready: bool) -> WithVectors:
    """Return the mode to start in. stored: what the service holds. is_ready: the memory is complete."""
    if not is_ready:
        return Fresh(version)
    return Trusted(version) if stored.follower == follower else Untrusted(version)


def reason_to_compare(mode: Mode, *, comparison_owed: bool) -> str | None:
    """Return why everything has to be compared before this mode can follow; None where nothing has to be."""
    match mode:
        case Fresh():
            return "the rows of the source are not known yet"
        case Untrusted():
            return "others have written since this feeder followed"
        case ActivityOnly():
            return "activity may have changed"
        case Trusted():
            return "the last comparison did not come to its end" if comparison_owed else None


def state_of(mode: Mode, follower: str, *, comparison_owed: bool) -> FollowerState | None:
    """Return what the service is to store; None where the vectors are not ours to speak of."""
    if isinstance(mode, ActivityOnly):
        return None
    if comparison_owed and not isinstance(mode, Trusted):
        return NOBODY
    return FollowerState(follower, comparison_owed)
