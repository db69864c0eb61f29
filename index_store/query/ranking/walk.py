"""The pools of one search, one after another: what is left of each, in the order of the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from index_store.ann.rerank import come_after
from index_store.errors import InvalidRequest
from index_store.query.ranking.diversity import diverse_order
from index_store.query.ranking.grouping import GroupCounts, KeptVectors
from index_store.query.ranking.pools import Edge, PoolSource, RankedRows
from index_store.query.view import vectors_at
from index_store.request.ranking import COLLAPSED_MAX, Ranking
from index_store.types import Vector

_VECTORS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class WalkedPool:
    """rows: by (key, id). start: what comes before them. order: the positions of those that are kept, in the
    order of the answer."""

    start: Edge | None
    rows: RankedRows
    order: Iterator[int]
    is_diverse: bool


class PoolWalk:
    """Goes through the pools of one search. needed: how many hits are wanted of all that follow."""

    def __init__(self, source: PoolSource, ranking: Ranking, needed: int) -> None:
        self._source = source
        self._ranking = ranking
        self._needed = needed
        self._view = source.view
        self._groups = None if ranking.group is None else GroupCounts(source.view, ranking.group)
        metric = source.view.delta.metric
        self._near = None if ranking.collapse is None else KeptVectors(metric, ranking.collapse)
        self._collapsed = 0

    def pools(self, start: Edge | None) -> Iterator[WalkedPool]:
        """Yield the pools behind `start`. Go through the order of one before taking the next. Raises
        InvalidRequest, also in that order."""
        edge, is_last = start, False
        if start is not None and (self._groups or self._near):
            is_last = self._go_again(start)
        while not is_last:
            found, is_last = self._next_pool(edge)
            rows = found.ordered() if self._source.reorders else found
            yield WalkedPool(edge, rows, self._order(rows), self._ranking.diversity > 0)
            edge = _last(found, edge)

    def _go_again(self, start: Edge) -> bool:
        """Go through all pools before `start`, for what they leave out of those behind it. Return whether
        nothing is behind."""
        edge, is_last = None, False
        while not is_last and (edge is None or edge < start):
            rows, is_last = self._next_pool(edge)
            edge = _last(rows, edge)
            beyond = come_after(rows.firsts, rows.ids.take, start)
            is_last = is_last and not beyond.any()
            before = rows.picked(np.flatnonzero(~beyond)).ordered()
            for _ in self._left(before):
                pass
        return is_last

    def _next_pool(self, edge: Edge | None) -> tuple[RankedRows, bool]:
        """The next rows of groups that are not full, and whether none comes after them."""
        wanted = fetch = self._ranking.pool
        if self._groups is not None:
            self._view = self._groups.without_full(self._view)
        while True:
            rows = self._source.rows_after(self._view, edge, fetch)
            is_all = len(rows.rows) < fetch
            if self._groups is None:
                return rows, is_all
            names = self._groups.names(rows.numbers, rows.rows)
            rows = rows._replace(groups=np.fromiter(names, np.object_, len(names)))
            full = self._groups.full
            if not full and len(names) <= wanted:
                return rows, is_all
            kept = [place for place, name in enumerate(names) if name not in full]
            if is_all or len(kept) >= wanted:
                return rows.picked(kept[:wanted]), is_all and len(kept) <= wanted
            self._view = self._groups.without_full(self._view)
            fetch *= 4

    def _order(self, rows: RankedRows) -> Iterator[int]:
        left = self._left(rows)
        if not self._ranking.diversity:
            yield from left
            return
        is_all = self._groups is None and self._near is None
        places = range(len(rows.rows)) if is_all else list(left)
        kept = rows if is_all else rows.picked(list(places))
        vectors, scores = self._vectors(kept, slice(None)), kept.scores
        done, count = 0, self._needed
        while done < len(places):  # mostly once: more are looked at for what was shown or deleted
            order = diverse_order(vectors, scores, self._ranking.diversity, count)
            for place in order[done:].tolist():
                yield places[place]
            done, count = len(order), 4 * count

    def _left(self, rows: RankedRows) -> Iterator[int]:
        """Positions of the rows that are not left out. Each is counted before the next is looked at."""
        names = None if self._groups is None else rows.groups.tolist()
        vectors: Vector | None = None
        for place in range(len(rows.rows)):
            if self._near is not None and not place % _VECTORS_AT_ONCE:
                vectors = self._vectors(rows, slice(place, place + _VECTORS_AT_ONCE))
            if names is not None and self._groups is not None and names[place] in self._groups.full:
                continue
            if vectors is not None and self._near is not None:
                vector = vectors[place % _VECTORS_AT_ONCE]
                if self._near.is_near(vector):
                    self._count_collapsed()
                    continue
                self._near.keep_vector(vector)
            if names is not None and self._groups is not None:
                self._groups.count_hit(names[place])
            yield place

    def _count_collapsed(self) -> None:
        """Raises InvalidRequest for too many."""
        self._collapsed += 1
        if self._collapsed > COLLAPSED_MAX:
            raise InvalidRequest(
                f"collapse.distance leaves out more than {COLLAPSED_MAX} items that are as near as that",
                "collapse.distance",
            )

    def _vectors(self, rows: RankedRows, some: slice) -> Vector:
        return vectors_at(self._source.view, rows.numbers[some], rows.rows[some])


def _last(rows: RankedRows, edge: Edge | None) -> Edge | None:
    """Key and id of the last of these rows, by which the next ones are found."""
    return (float(rows.firsts[-1]), rows.ids[-1:].tolist()[0]) if len(rows.rows) else edge
