"""What a comparison of two paths found, query by query, and whether it is good enough to cut over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vector_client.rollout.shadow import Difference

SHOWN_MAX = 20
"""Queries that are listed; the numbers above them count all."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """overlap_min: of every single query. distance_max: largest difference of a shared id."""

    overlap_min: float = 1.0
    distance_max: float = 1e-5


@dataclass(frozen=True, slots=True)
class QueryComparison:
    """One query. error: why there is no comparison."""

    query: str
    difference: Difference | None
    old_s: float = 0.0
    new_s: float = 0.0
    error: str = ""

    def is_equal(self, bounds: Bounds) -> bool:
        """Return whether this query was compared and lies within the bounds."""
        if self.difference is None:
            return False
        distance = self.difference.distance or 0.0
        return self.difference.overlap >= bounds.overlap_min and distance <= bounds.distance_max


def is_equal(compared: Sequence[QueryComparison], bounds: Bounds) -> bool:
    """Return whether every query was compared and lies within the bounds; no query proves nothing."""
    return bool(compared) and all(each.is_equal(bounds) for each in compared)


def lines(compared: Sequence[QueryComparison], bounds: Bounds) -> list[str]:
    """Return the report for people."""
    done = [each for each in compared if each.difference is not None]
    differences = [each.difference for each in done if each.difference is not None]
    distances = [each.distance for each in differences if each.distance is not None]
    off = [each for each in compared if not each.is_equal(bounds)]
    shown = [
        f"queries             {len(compared)}",
        f"equal               {len(compared) - len(off)}",
        f"failed              {len(compared) - len(done)}",
        f"overlap mean        {_mean([each.overlap for each in differences]):.4f}",
        f"overlap least       {min((each.overlap for each in differences), default=math.nan):.4f}",
        f"distance difference {max(distances, default=math.nan):.3g} at most",
        f"pgvector ms         {_percentile([each.old_s for each in done], 50) * 1000:.1f} p50, "
        f"{_percentile([each.old_s for each in done], 95) * 1000:.1f} p95",
        f"service ms          {_percentile([each.new_s for each in done], 50) * 1000:.1f} p50, "
        f"{_percentile([each.new_s for each in done], 95) * 1000:.1f} p95",
    ]
    shown += [_line(each) for each in off[:SHOWN_MAX]]
    if len(off) > SHOWN_MAX:
        shown.append(f"... and {len(off) - SHOWN_MAX} more queries")
    verdict = "equal" if is_equal(compared, bounds) else "DIFFERENT"
    bound = f"overlap >= {bounds.overlap_min:g}, distances within {bounds.distance_max:g}"
    return [*shown, f"{verdict} ({bound})"]


def _line(each: QueryComparison) -> str:
    if each.difference is None:
        return f"  {each.query!r}: {each.error}"
    found = each.difference
    parts = [f"overlap {found.overlap:.3f}"]
    if found.distance:
        parts.append(f"distances off by {found.distance:.3g}")
    if found.missing:
        parts.append(f"only pgvector: {found.missing[:5]}")
    if found.added:
        parts.append(f"only service: {found.added[:5]}")
    return f"  {each.query!r}: {', '.join(parts)}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _percentile(values: Sequence[float], percent: float) -> float:
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))]
