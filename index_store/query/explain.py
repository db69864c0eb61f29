"""Why an item is, or is not, in the answer to a search: its state, its exact rank, its rank in the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from index_store.ann.rerank import rescore
from index_store.explanation import Explanation, ItemState
from index_store.filter.cache import compiled_filter
from index_store.filter.texts import passing_texts
from index_store.query.execute import Answer, answer
from index_store.query.view import View, live_ids
from index_store.storage.rows import Row
from index_store.types import CollectionSpec, Id, PlanStep, SearchRequest
from item_rules.lifetime import ShownSpan

RANKS_SEEN_MAX = 10_000
"""Exact search scores and sorts as many rows again, in about 10 ms."""


def explain(
    view: View, request: SearchRequest, item_id: Id, row: Row | None, spec: CollectionSpec
) -> Explanation:
    """row: what the store holds of the item at the view's seq, a tombstone too; None for nothing.

    Compares every row that the search may show with the query. Raises InvalidFilter."""
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
    own = _Place(_distance(row.vector, request, spec), item_id)
    rank, seen = _exact_rank(view, request, own)
    return replace(explanation, distance=own.distance, exact_rank=rank, ranks_seen=seen)


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


def _distance(vector: bytes, request: SearchRequest, spec: CollectionSpec) -> float:
    return float(rescore(request.vector, np.frombuffer(vector, "<f4")[None, :].copy(), spec.metric)[0])


def _exact_rank(view: View, request: SearchRequest, own: _Place) -> tuple[int | None, int]:
    """Return the rank among all that the search may show, and how many ranks were looked at. Near items are
    found among a few rows; only for others are many compared."""
    for ranks in (min(request.offset + request.k, RANKS_SEEN_MAX), RANKS_SEEN_MAX):
        exact = replace(request, exact=True, offset=0, k=ranks, max_distance=None, steps=None)
        found = answer(view, exact)
        before = own.count_before(found)
        if before < ranks:
            return before + 1, ranks
    return None, RANKS_SEEN_MAX
