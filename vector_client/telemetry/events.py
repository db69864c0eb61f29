"""What happens on the way between two paths, as values: an observer takes each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["first", "fallback", "shadow"]


@dataclass(frozen=True, slots=True)
class PathCalled:
    """A path was asked. error: the class of what it raised; empty for an answer."""

    path: str
    role: Role
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two answers to one question. overlap: share of the shown ids that the new path found too.
    distance_difference: the largest, of the ids that both have; None without such ids."""

    overlap: float
    distance_difference: float | None
    old_s: float
    new_s: float


@dataclass(frozen=True, slots=True)
class Switched:
    """A breaker or the step back changed its mind about a path."""

    path: str
    state: Literal["open", "closed", "stepped_back", "tried_again"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ShadowSkipped:
    """A sampled call was not compared: as many comparisons as allowed were running."""


Event: TypeAlias = PathCalled | Compared | Switched | ShadowSkipped
Observer: TypeAlias = Callable[[Event], None]
"""Called in the event loop: must not block."""
