"""Why an item is, or is not, in the answer to a search: its state, its exact rank, its rank in the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from index_store.ann.rerank import rescore
from index_store.errors import InvalidRequest
from index_store.explanation import Explanation, ItemState
from index_store.filter.cache import compiled_filter
from index_store.filter.texts import passing_texts
from index_store.query.execute import Answer, answer
from index_store.query.view import View, live_ids
from index_store.record.rows import Row
from index_store.request.ranking import RANKED_MAX, Ranking
from index_store.request.recommendation import LIKES_WORK_MAX
from index_store.types import CollectionSpec, Id, Metric, PlanStep, SearchRequest, Vector
from item_rules.lifetime import ShownSpan

RANKS_SEEN_MAX = 10_000
"""Exact search scores and sorts as many rows again, in about 10 ms."""
RANKS_RANKED = 1000
"""Of a ranking at least: each pool of 200 takes up to some milliseconds."""


def explain(
    view: View, request: SearchRequest, item_id: Id, row: Row | None, spec: CollectionSpec
) -> Explanation:
    """row: what the store holds of the item at the view's seq, a tombstone too; None for nothing.

    Compares every row that the search may show with the query. Raises as `answer`."""
    steps: list[PlanStep] = []
    found = answer(view, replace(request, steps=steps))
    explanation = Explanation(
        state=_state(row, request.shown),
        item_seq=None if row is None else row.seq,
        source_version=None if row is None else row.source_version,
        is_indexed=item_id in live_ids(view, [item_id]),
        is_excluded=item_id in request.exclude_ids,
        passes_filter=_passes_filter(row, request),
        answer_rank=request.offset + found.ids.index(item_id) + 1 if item_id in found.ids else None,
        hits=len(found.ids),
        last_distance=float(found.distances[-1]) if found.ids else None,
        steps=steps,
        seq=view.seq,
    )
    if row is None or row.vector is None:
        return explanation
    vector = np.frombuffer(row.vector, "<f4").copy()
    if request.recommendation is not None:
        if item_id in found.ids:
            explanation = replace(explanation, distance=float(found.distances[found.ids.index(item_id)]))
        return _with_place_among_likes(explanation, view, request, item_id, vector)
    own = _Place(_distance(request.vector, vector, spec.metric), item_id)
    rank, seen = _exact_rank(view, request, own)
    explanation = replace(explanation, distance=own.distance, exact_rank=rank, ranks_seen=seen)
    if request.ranking is None or not _may_be_shown(explanation):
        return explanation
    return _with_place_in_ranking(explanation, view, request, request.ranking, item_id)


def _may_be_shown(explanation: Explanation) -> bool:
    return (
        explanation.state == "live"
        and explanation.is_indexed
        and not explanation.is_excluded
        and explanation.passes_filter is not False
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an item stands in the order of answers."""

    distance: float
    id: Id

    def count_before(self, found: Answer) -> int:
        """How many of the rows found come before it."""
        nearer = int(np.searchsorted(found.distances, self.distance, side="left"))
        ties = int(np.searchsorted(found.distances, self.distance, side="right"))
        return nearer + sum(each < self.id for each in found.ids[nearer:ties])  # type: ignore[operator]


def _state(row: Row | None, span: ShownSpan | None) -> ItemState:
    if row is None:
        return "unknown"
    if row.deleted:
        return "deleted"
    if row.vector is None:
        return "without_vector"
    if not row.active:
        return "inactive"
    if span is None:
        return "live"
    metadata = None if row.metadata is None else json.loads(row.metadata)
    return span.lifetime.state(metadata, span.now) or "live"


def _passes_filter(row: Row | None, request: SearchRequest) -> bool | None:
    """The filter, asked of this row alone, by what searches ask it with."""
    if request.filter is None or row is None or row.deleted:
        return None
    return passing_texts(compiled_filter(request.filter).node, [row.metadata])[0]


def _distance(query: Vector, vector: Vector, metric: Metric) -> float:
    return float(rescore(query, vector[None, :], metric)[0])


def _exact_rank(view: View, request: SearchRequest, own: _Place) -> tuple[int | None, int]:
    """Return the rank among all that the search may show, and how many ranks were looked at. Near items are
    found among a few rows; only for others are many compared."""
    for ranks in (min(request.offset + request.k, RANKS_SEEN_MAX), RANKS_SEEN_MAX):
        exact = replace(request, exact=True, offset=0, k=ranks, max_distance=None, ranking=None, steps=None)
        found = answer(view, exact)
        before = own.count_before(found)
        if before < ranks:
            return before + 1, ranks
    return None, RANKS_SEEN_MAX


def _with_place_among_likes(
    explanation: Explanation, view: View, request: SearchRequest, item_id: Id, vector: Vector
) -> Explanation:
    """By the order of the recommendation, which knows no rank of what it may not show. explanation: with the
    distance of an item that is in the answer."""
    asked, metric = request.recommendation, view.delta.metric
    assert asked is not None
    nearest = min(_distance(like, vector, metric) for like in asked.likes)
    is_vetoed = any(_distance(unlike, vector, metric) < nearest for unlike in asked.unlikes)
    distance = nearest if explanation.distance is None else explanation.distance
    explanation = replace(explanation, distance=distance, is_vetoed=is_vetoed)
    if is_vetoed or not _may_be_shown(explanation):
        return explanation
    ranks = min(RANKS_SEEN_MAX, LIKES_WORK_MAX // asked.distances_of_a_hit)
    exact = answer(view, replace(request, exact=True, offset=0, k=ranks, max_distance=None, steps=None))
    rank = exact.ids.index(item_id) + 1 if item_id in exact.ids else None
    return replace(explanation, exact_rank=rank, ranks_seen=ranks)


def _with_place_in_ranking(
    explanation: Explanation, view: View, request: SearchRequest, ranking: Ranking, item_id: Id
) -> Explanation:
    """By the answer itself, longer: whole pools, so that what is not among them was not in these pools."""
    pools = -(-max(request.offset + request.k, RANKS_RANKED) // ranking.pool)
    ranks = min(pools * ranking.pool, RANKED_MAX)

    def place_by(some: Ranking) -> tuple[int | None, bool]:
        """Its rank, and whether nothing comes behind those that were looked at."""
        found = answer(view, replace(request, offset=0, k=ranks, ranking=some, steps=None)).ids
        return found.index(item_id) + 1 if item_id in found else None, len(found) < ranks

    try:
        rank, is_all = place_by(ranking)
        explanation = replace(explanation, ranking_rank=rank, ranking_ranks_seen=ranks)
        everything = replace(ranking, group=None, collapse=None)
        if rank is not None or everything == ranking:
            return explanation
        is_far = explanation.exact_rank is None or explanation.exact_rank > ranks
        if not (is_all and is_far) and place_by(everything)[0] is None:
            return explanation
        is_by_group = ranking.collapse is None
        if ranking.group is not None and ranking.collapse is not None:
            rank, is_all = place_by(replace(ranking, group=None))
            is_by_group = rank is not None
            if is_far and rank is None and not is_all:
                return explanation  # by either of the two
    except InvalidRequest:  # collapse leaves out too many to look further than the answer does
        return replace(explanation, ranking_rank=None, ranking_ranks_seen=0)
    return replace(explanation, left_out_by="group_by" if is_by_group else "collapse")
