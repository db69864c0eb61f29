"""Which way to search a segment: pure functions of counts and of the segment's measured table.

A graph is walked without regard to which rows may be returned: hidden rows (deleted, excluded, filtered
out) only take up breadth. So what counts is the rank, among all rows, of the last row wanted. Before the
search that rank is guessed from the share of rows allowed; after it, it is known. Rows hidden *near* the
query (already seen, the usual reason to exclude) push it far beyond the guess, and then the search is done
again with the ef that the known rank needs, or as a scan when that is cheaper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.calibration import Calibration, EfTable

Way: TypeAlias = Literal["gather", "scan", "graph"]

GATHER_ROWS = 192
GATHER_SHARE = 1 / 8
"""Up to this many allowed rows, or this share where rows can be scored in place, are simply scored, float32
and all: a scan looks at every bit of the bitmap and jumps about in memory just as much (98,000 x 384, 1 %:
135 µs for 350; 10 %: 1.2 ms for 1.7; equal from 20 % on)."""

SCAN_SHARE = 0.2
SCAN_ROWS = 25_000
"""A filter that leaves less than this defeats the graph, above all when what it leaves lies together and
the query elsewhere (recall@25 of .27 at 1 %, measured); the scan is exact and no slower there."""

GRAPH_TRIES = 2
_ENOUGH = 1.2
"""A search whose ef was within this factor of what it turned out to need is not repeated."""

_FAR = 3
"""Neighbours far down a list are missed more often than the first, and a table of recall@k counts both: what
hides more rows than its share makes the wanted ones the far end of the list, and a third is added."""

_GUESSED = 1.3
"""What a rank guessed from too few rows is multiplied by: a third search would be a scan."""


@dataclass(frozen=True, slots=True)
class Plan:
    """way: gather scores all allowed rows, scan goes through the int8 codes, graph through the links.
    breadth: ef of a graph, 0 otherwise. rank: up to this rank of the k-th row the answer of a graph stands,
    whatever else `next_plan` weighs."""

    way: Way
    breadth: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class SegmentProfile:
    """What the planner knows of a segment. table: ef by k, for the recall wanted; empty without a graph.
    gather_rows: so many allowed rows are scored one by one."""

    rows: int
    calibration: Calibration
    table: EfTable
    gather_rows: int = GATHER_ROWS


_GATHER = Plan("gather")
_SCAN = Plan("scan")


def first_plan(profile: SegmentProfile, allowed: int, k: int) -> Plan:
    """Return how to look for k of the `allowed` rows. 1 <= k <= allowed."""
    if allowed <= profile.gather_rows:
        return _GATHER
    few = max(SCAN_SHARE * profile.rows, min(SCAN_ROWS, profile.rows / 2))
    if not profile.table.known or allowed <= few:
        return _SCAN
    # Where the k-th allowed row stands varies from query to query: one standard deviation more is looked at.
    spread = math.sqrt(k * (1 - allowed / profile.rows))
    return _cheaper(profile, allowed, math.ceil((k + spread) * profile.rows / allowed))


def plan_beyond(profile: SegmentProfile, plan: Plan, allowed: int, k: int, near: int) -> Plan:
    """Return `plan`, or the one that reaches k rows behind `near` hidden ones that stand before them all."""
    return _cheaper(profile, allowed, k + near + near // _FAR) if plan.way == "graph" else plan


def next_plan(
    profile: SegmentProfile, done: Plan, allowed: int, k: int, positions: npt.NDArray[np.int64] | None
) -> Plan | None:
    """Return how to repeat a graph search, or None when its answer stands.

    positions: where, among the `done.breadth` nearest that the graph returned, allowed rows stood, from 0;
    None: everywhere.
    """
    if positions is None:
        return None
    found = len(positions)
    if found >= k:
        rank = int(positions[k - 1]) + 1
        if rank <= done.rank:
            return None
        rank += max(0, rank - math.ceil(k * profile.rows / allowed)) // _FAR
        needed = profile.table.ef_for(rank)
        if needed is not None and needed <= done.breadth * _ENOUGH:
            return None
        return _cheaper(profile, allowed, rank)
    if found * 4 < k:
        return _SCAN  # too few to guess from; the region is mostly hidden
    # As dense as behind the first: rows hidden because they are near stand before it.
    first = int(positions[0])
    return _cheaper(profile, allowed, math.ceil(first + _GUESSED * k * (done.breadth - first) / found))


def _cheaper(profile: SegmentProfile, allowed: int, rank: int) -> Plan:
    ef = profile.table.ef_for(rank)
    if ef is None or ef >= profile.rows:
        return _SCAN
    scan_us = profile.calibration.scan_us_at(allowed / profile.rows)
    if profile.calibration.graph_us(ef) >= scan_us:
        return _SCAN
    return Plan("graph", ef, rank + rank // 8)
