"""Whether a filtered search compares every row that passes, or walks the graph and leaves out the others.

A graph gives rows in order of distance, and of those most fail a narrow filter: the time is that of all rows
between. Rows that pass are found by the index over facts instead, where the filter is one that it serves
(docs/decisions/0127), and comparing them all is exact.
"""

from __future__ import annotations

from typing import NamedTuple

from index_store.filter.cache import CompiledFilter
from index_store.lru import LruCache
from index_store.postgres.conditions import filter_condition, is_indexed
from index_store.postgres.connections import BoundedConnection
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.schema import LIVE, rows_table

SAMPLE_ROWS = 4_000
"""That a filter is tried on, some ms for each new one."""
GROWTH = 1.25
"""With so many times as many items, or so many times fewer, the share is looked at again."""
# Measured over 60,000 rows of 128 numbers with one core (docs/decisions/0127).
_COMPARED_US = 3.0
_LOOKED_AT_US = 0.9
_GRAPH_US = 8_000.0
_WALKED_US = 7.5


class _Share(NamedTuple):
    passing: float
    live: int


class FilterShares:
    """What share of the live rows each of the last filters lets pass, as a sample says. Any thread."""

    def __init__(self, filters_max: int = 1_024) -> None:
        self._known: LruCache[tuple[int, str], _Share] = LruCache(filters_max)

    def estimate(
        self, connection: BoundedConnection, generation: GenerationRecord, condition: CompiledFilter
    ) -> float:
        """Return the share: 0 to 1. Raises psycopg.Error, InvalidFilter."""
        name = (generation.number, condition.name)
        known = self._known.find(name)
        live = generation.live + 1
        if known is None or not known.live / GROWTH <= live <= known.live * GROWTH:
            known = _Share(_sampled(connection, generation, condition), live)
            self._known.keep(name, known)
        return known.passing


def is_exact_faster(share: float, live: int, limit: int, condition: CompiledFilter) -> bool:
    """Return whether the nearest of the rows that pass are found sooner without the graph. share: of the
    `live` rows that pass. limit: how many the graph would have to give."""
    passing = share * live
    looked_at = 0.0 if is_indexed(condition.node) else live * _LOOKED_AT_US
    walked = min(live, limit / max(share, 1 / SAMPLE_ROWS))
    return passing * _COMPARED_US + looked_at <= _GRAPH_US + walked * _WALKED_US


def _sampled(connection: BoundedConnection, generation: GenerationRecord, condition: CompiledFilter) -> float:
    passes = filter_condition(condition.node)
    percent = min(100.0, 100.0 * SAMPLE_ROWS / max(1, generation.items))
    query = (
        f"SELECT count(*) FILTER (WHERE {passes.sql}), count(*) FROM {rows_table(generation.number)} "
        f"TABLESAMPLE SYSTEM (%s) WHERE {LIVE}"
    )
    found = connection.execute(query.encode(), (*passes.parameters, percent)).fetchone()
    passing, rows = found or (0, 0)
    return passing / rows if rows else 0.0
