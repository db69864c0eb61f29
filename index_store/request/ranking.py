"""What an answer is ordered by beside similarity and words, and what it leaves out. No behaviour, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

BOOSTS_MAX = 8
WEIGHT_MAX = 10.0
POOL = 200
POOL_MIN = 10
"""Of a caller: each pool takes some tenths of a millisecond."""
POOL_MAX = 2000
DIVERSE_POOL_MAX = 500
"""With diversity: a cursor names what was shown of a pool."""
RANKED_MAX = 10_000
"""Hits that answers by group_by or collapse go on for: each page works through those before it again."""
COLLAPSED_MAX = 10_000
"""Rows that collapse leaves out of one answer, in half a second: for a wide distance they are all that there
are."""

DecayShape: TypeAlias = Literal["exp", "gauss", "linear"]


@dataclass(frozen=True, slots=True)
class Linear:
    """0 where the number under `key` is `low`, 1 where it is `high`, even in between, never beyond. `low` can
    be the larger one."""

    key: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Decay:
    """1 where the number under `key` is `origin`, one half at a distance of `scale`, less beyond.

    scale: a text as "7d" (s, m, h, d or w) for moments, which metadata and `origin` hold as ISO 8601 or as
    seconds or milliseconds since the epoch. origin: None is `Ranking.now` for them; numbers need one."""

    key: str
    scale: float | str
    origin: float | str | None = None
    shape: DecayShape = "exp"


@dataclass(frozen=True, slots=True)
class Boost:
    """Adds weight x term to a score. A term is 0 to 1; 0 where an item has no such value. Of a filter it is 1
    where it passes."""

    weight: float
    term: Linear | Decay | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GroupBy:
    """At most `most` hits with the same value under `key`. Items without one, or with null, are no group."""

    key: str
    most: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """How rows that a search finds become an answer.

    They are taken in pools: the first `pool` in the order of the search, then those that follow. Within one
    they are ordered by score, boosts included; an exact search orders all rows by score before that.
    collapse: rows so near to a better hit are left out; the cosine distance where the metric is the inner
    product. diversity: 0 to 1: what a hit's likeness to those before it in its pool costs. now: in seconds
    since the epoch, the same for all pages.
    """

    boosts: Sequence[Boost] = ()
    group: GroupBy | None = None
    collapse: float | None = None
    diversity: float = 0.0
    pool: int = POOL
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class RankedPage:
    """Where a page ended, beside its last hit. start: key and id of the row that comes before its pool; None:
    it is the first pool. shown: with diversity, a hash of each item of this pool up to there. rank: how many
    hits came."""

    start: tuple[float, int | str] | None
    shown: bytes
    rank: int
