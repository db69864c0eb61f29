"""Searches by several liked items, each for itself: the nearest of any, or of each in turns.

Each liked item has a list of its own, nearest first, as a search by its vector gives it. Lists are as long as
they have to be: one is fetched again, longer, where rows beyond its end could come into the answer. So every
row that comes before the last one of the answer has been seen, as far as the search of one vector finds it.

A page goes on where each list ended. Whatever stands in a list at or before that point was shown, or may not
be, so no state is needed beside those points, and no write in between repeats or loses an item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.ann.rerank import Distances, come_after, rescore, select
from index_store.delta.id_index import RowNumbers
from index_store.filter.cache import CompiledFilter
from index_store.filter.compile import Mask
from index_store.query.allowed import allowed_rows
from index_store.query.candidates import CandidateRows, joined, nearest
from index_store.query.view import View, by_part
from index_store.request.recommendation import LikesPage, LikesPoint, Recommendation
from index_store.types import PageKey, SearchRequest, Vector

_MORE = 16
_WIDER = 4
_ROUNDING = 1e-9
"""Of a weighed distance that is weighed back: a page begins to look a little before it."""

Matrix: TypeAlias = npt.NDArray[np.float64]


class RecommendationRows(NamedTuple):
    """In order. likes: which liked item each was found for. keys: what `best` orders by. distances: to that
    liked item."""

    found: CandidateRows
    likes: npt.NDArray[np.int64]
    keys: Distances

    def take_items(self, positions: Sequence[int] | npt.NDArray[np.int64] | slice) -> RecommendationRows:
        """Return some of them, in this order."""
        return RecommendationRows(
            self.found.take_rows(positions), self.likes[positions], self.keys[positions]
        )

    def page_after(self, before: LikesPage | None, likes: int) -> LikesPage:
        """Return where the page ends that these rows are. They are one at least."""
        ends: list[LikesPoint | None] = [None] * likes if before is None else list(before.ends)
        ids, distances = self.found.ids.tolist(), self.found.distances.tolist()
        for like, distance, item_id in zip(self.likes.tolist(), distances, ids, strict=True):
            ends[like] = (distance, item_id)
        return LikesPage(int(self.likes[-1]), tuple(ends))


def recommended_rows(
    view: View, request: SearchRequest, asked: Recommendation, condition: CompiledFilter | None, k: int
) -> RecommendationRows:
    """Return the first k, of all parts. view: knows the page's seq, if the request is for one."""
    lists = _LikeListing(view, request, asked, condition, k)
    return _best(lists, k) if asked.mode == "best" else _in_turns(lists, k)


class _LikeListing:
    """The nearest rows of each liked item, as far as they were fetched. open_likes: those whose list goes
    on."""

    def __init__(
        self,
        view: View,
        request: SearchRequest,
        asked: Recommendation,
        condition: CompiledFilter | None,
        k: int,
    ) -> None:
        self.asked = asked
        self.after = request.after
        self.distance_max = math.inf if request.max_distance is None else request.max_distance
        self._view = view
        self._allowed = allowed_rows(view, request, condition)
        count = len(asked.likes)
        self._requests = [
            replace(request, vector=vector, after=self._begin(like))
            for like, vector in enumerate(asked.likes)
        ]
        fetch = min(k, 2 * -(-k // count))  # mostly each gives about its share
        self._fetch = [fetch + _MORE] * count
        self.open_likes: set[int] = set()
        self.lists = [self._fetched(like) for like in range(count)]

    def _begin(self, like: int) -> PageKey | None:
        """Where the list of a liked item goes on."""
        after = self.after
        if after is None:
            return None
        if self.asked.mode == "best":
            distance = _unweighed(after.distance, self.asked.weights[like])
            return replace(after, distance=distance - _ROUNDING * (1 + abs(distance)))
        assert after.likes is not None, "checked at the door"
        end = after.likes.ends[like]
        return None if end is None else replace(after, distance=end[0], id=end[1])

    def _fetched(self, like: int) -> CandidateRows:
        fetch = self._fetch[like]
        found = nearest(self._view, self._requests[like], self._allowed, fetch)
        if len(found.rows) < fetch or found.distances[-1] > self.distance_max:
            self.open_likes.discard(like)
        else:
            self.open_likes.add(like)
        return found

    def widen(self, likes: Iterable[int]) -> None:
        """Fetch more of these."""
        for like in sorted(likes):
            self._fetch[like] *= _WIDER
            self.lists[like] = self._fetched(like)

    def edges(self) -> dict[int, float]:
        """Return of each open list what a row beyond its end is weighed at least."""
        weights = self.asked.weights
        return {like: _weighed(self.lists[like].distances[-1:], weights[like])[0] for like in self.open_likes}

    def pool(self) -> CandidateRows:
        """Return the rows of all lists, each once."""
        found = joined(self.lists)
        _, first = np.unique((found.numbers + 1 << 40) | found.rows, return_index=True)
        return found.take_rows(first)

    def to_likes(self, found: CandidateRows) -> Matrix:
        """(rows, likes) distances."""
        return self._distances(found, self.asked.likes)

    def vetoed(self, found: CandidateRows, to_likes: Matrix) -> Mask:
        """Which are nearer to a disliked item than to any liked one."""
        if not len(self.asked.unlikes):
            return np.zeros(len(found.rows), np.bool_)
        to_unlikes = self._distances(found, self.asked.unlikes)
        vetoed: Mask = to_unlikes.min(axis=1) < to_likes.min(axis=1)
        return vetoed

    def _distances(self, found: CandidateRows, vectors: Vector) -> Matrix:
        out = np.empty((len(found.rows), len(vectors)))
        metric = self._view.delta.metric
        for number, positions, some in by_part(found.numbers, found.rows):
            rows: RowNumbers | None = some
            if number < 0:
                stored, rows = self._view.delta.vectors(some), None
            else:
                stored = self._view.segments[number].segment.reader.vectors
            for column, vector in enumerate(vectors):
                out[positions, column] = rescore(vector, stored, metric, rows)
        return out


def _weighed(distances: Distances, weight: float) -> Distances:
    """Bigger weights bring nearer, also where distances are negative (inner products)."""
    return np.where(distances < 0, distances * weight, distances / weight)


def _unweighed(key: float, weight: float) -> float:
    return key / weight if key < 0 else key * weight


def _best(lists: _LikeListing, k: int) -> RecommendationRows:
    after = None if lists.after is None else (lists.after.distance, lists.after.id)
    while True:
        found = lists.pool()
        to_likes = lists.to_likes(found)
        weighed = np.column_stack(
            [_weighed(column, weight) for column, weight in zip(to_likes.T, lists.asked.weights, strict=True)]
        )
        weighed[to_likes > lists.distance_max] = math.inf
        likes = weighed.argmin(axis=1)
        keys: Distances = weighed.min(axis=1)
        told = to_likes[np.arange(len(likes)), likes]
        rows = RecommendationRows(found._replace(distances=told), likes, keys)
        may_come = (
            np.isfinite(keys) & ~lists.vetoed(found, to_likes) & come_after(keys, found.ids.take, after)
        )
        rows = rows.take_items(np.flatnonzero(may_come))
        rows = rows.take_items(select(rows.keys, rows.found.ids, k))
        last = float(rows.keys[-1]) if len(rows.keys) == k else math.inf
        short = [like for like, edge in lists.edges().items() if edge <= last]
        if not short:
            return rows
        lists.widen(short)


def _in_turns(lists: _LikeListing, k: int) -> RecommendationRows:
    while True:
        listed = [_passing(lists, each) for each in lists.lists]
        picks, short = _turns(lists, [each.ids.tolist() for each in listed], k)
        if not short:
            break
        lists.widen(short)
    starts = np.cumsum([0, *map(len, (each.rows for each in listed))])
    positions = [int(starts[like]) + position for like, position in picks]
    found = joined(listed).take_rows(np.array(positions, np.int64))
    return RecommendationRows(found, np.array([like for like, _ in picks], np.int64), found.distances)


def _passing(lists: _LikeListing, found: CandidateRows) -> CandidateRows:
    """The rows of a list that the page may hold: none that was shown before."""
    kept = found.distances <= lists.distance_max
    page = None if lists.after is None else lists.after.likes
    if page is not None or len(lists.asked.unlikes):
        to_likes = lists.to_likes(found)
        kept &= ~lists.vetoed(found, to_likes)
        for like, end in enumerate(() if page is None else page.ends):
            if end is not None:
                kept &= come_after(to_likes[:, like], found.ids.take, end)
    return found.take_rows(kept)


def _turns(
    lists: _LikeListing, ids: Sequence[Sequence[Any]], k: int
) -> tuple[list[tuple[int, int]], set[int]]:
    """Return whose turn took which position of its list; or those whose lists ended too soon."""
    weights = lists.asked.weights
    order = sorted(range(len(ids)), key=lambda like: (-weights[like], like))
    page = None if lists.after is None else lists.after.likes
    turn = 0 if page is None else order.index(page.last) + 1
    positions = [0] * len(ids)
    taken: set[Any] = set()
    picks: list[tuple[int, int]] = []
    idle = 0
    while len(picks) < k and idle < len(order):
        like = order[turn % len(order)]
        turn += 1
        own, position = ids[like], positions[like]
        while position < len(own) and own[position] in taken:
            position += 1
        positions[like] = position + 1
        if position < len(own):
            idle = 0
            taken.add(own[position])
            picks.append((like, position))
        elif like in lists.open_likes:
            return [], {like}
        else:
            idle += 1
    return picks, set()
