"""Every item that an answer may hold, in the order of the answer: by vectors, by words, or by both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np

from index_store.ann.rerank import similarities
from index_store.types import CollectionSpec, Id, SearchRequest, StoredItem
from tests.reference_distance import distance_of
from tests.reference_filter import matches
from tests.reference_pools import Row, in_order
from tests.reference_words import words_of


def ranked(
    spec: CollectionSpec,
    request: SearchRequest,
    items: Mapping[Id, StoredItem],
    now: Mapping[Id, StoredItem],
    text_weight: float,
) -> list[tuple[float, Id, StoredItem, float]]:
    """(key, id, item, distance). items: as of the page's seq; now: what must still be live. text_weight: of a
    search by words that begins."""
    excluded = set(np.asarray(request.exclude_ids).tolist())
    texts = _texts(spec, request, items)
    weight = request.after.text_weight if request.after else text_weight
    out = []
    for item in items.values():
        is_shown = item.id in now and now[item.id].is_live
        if not item.is_live or item.id in excluded or not (is_shown or request.ranking):
            continue
        if request.filter is not None and not matches(request.filter, item.metadata or {}):
            continue
        assert item.vector is not None
        if request.text is not None and request.text.mode == "lexical":
            if texts[item.id]:
                out.append((-texts[item.id], item.id, item, math.nan))
            continue
        key = distance = distance_of(spec.metric, request.vector, item.vector)
        if request.max_distance is not None and distance > request.max_distance:
            continue
        if request.text is not None:
            key = -float(similarities(np.array([distance]), spec.metric)[0] + weight * texts[item.id])
        out.append((key, item.id, item, distance))
    if request.ranking:
        return [one for one in _by_rank(spec, request, out) if one[1] in now and now[one[1]].is_live]
    out.sort(key=lambda one: one[:2])
    if request.after:
        out = [one for one in out if one[:2] > (request.after.distance, request.after.id)]
    return out


def _by_rank(
    spec: CollectionSpec, request: SearchRequest, found: list[tuple[float, Id, StoredItem, float]]
) -> list[tuple[float, Id, StoredItem, float]]:
    """Behind the hit that the page before ended with, deleted ones among them."""
    assert request.ranking is not None
    rows = []
    for key, item_id, item, distance in found:
        base = -key if request.text else float(similarities(np.array([distance]), spec.metric)[0])
        rows.append(Row(key, item_id, item, distance, base))
    order = in_order(rows, request.ranking, spec.metric, request.exact)
    if request.after:
        order = order[[row.id for row in order].index(request.after.id) + 1 :]
    return [(row.key, row.id, row.item, row.distance) for row in order]


def _texts(spec: CollectionSpec, request: SearchRequest, items: Mapping[Id, StoredItem]) -> dict[Id, float]:
    if request.text is None:
        return {}
    live = {
        item_id: None if item.metadata is None else json.dumps(item.metadata)
        for item_id, item in items.items()
        if item.is_live
    }
    return words_of(request.text.text, live, spec.lexical_fields)
