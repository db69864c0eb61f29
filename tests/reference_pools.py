"""Rankings over lists: pools, boosts, groups, near-duplicates and diversity, in loops."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from index_store.request.ranking import Boost, Decay, Linear, Ranking
from index_store.types import Id, Metric, StoredItem
from tests.reference_distance import distance_of
from tests.reference_filter import held, matches


class Row(NamedTuple):
    """first: what the search orders by. base: its score without boosts. key: what the answer orders by."""

    first: float
    id: Id
    item: StoredItem
    distance: float
    base: float
    key: float = 0.0


def boosted(row: Row, ranking: Ranking, exact: bool) -> Row:
    if not ranking.boosts:
        return row._replace(key=row.first)
    score = row.base
    for boost in ranking.boosts:
        score += boost.weight * term_of(boost, row.item.metadata or {}, ranking.now)
    return row._replace(key=-score, first=-score if exact else row.first)


def term_of(boost: Boost, metadata: Any, now: float) -> float:
    term = boost.term
    if not isinstance(term, Linear | Decay):
        return float(matches(term, metadata))
    values = held(term.key, metadata)
    if len(values) != 1:
        return 0.0
    (value,) = values
    is_time = isinstance(term, Decay) and isinstance(term.scale, str)
    if is_time and isinstance(value, str):
        value = _seconds(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    if abs(value) > 1e300:
        return 0.0 if isinstance(term, Decay) or (value > 0) != (term.high > term.low) else 1.0
    value = float(value)
    if is_time and abs(value) >= 1e11:
        value /= 1000
    if isinstance(term, Linear):
        return min(max((value - term.low) / (term.high - term.low), 0.0), 1.0)
    origin = now if term.origin is None else term.origin
    origin = _seconds(origin) if isinstance(origin, str) else origin
    scale = float(term.scale[:-1]) * 86_400 if isinstance(term.scale, str) else term.scale
    assert origin is not None
    far = abs(value - origin) / scale
    if term.shape == "linear":
        return max(1.0 - far / 2, 0.0)
    return float(np.exp2(-far if term.shape == "exp" else -far * far))


def _seconds(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def in_order(rows: Sequence[Row], ranking: Ranking, metric: Metric, exact: bool) -> list[Row]:
    """All rows of an answer. rows: all that the search finds."""
    rest = sorted((boosted(row, ranking, exact) for row in rows), key=lambda row: (row.first, row.id))
    hits: Counter[str] = Counter()
    kept: list[Row] = []
    out: list[Row] = []
    while rest:
        open_rows = [row for row in rest if not _is_full(row, hits, ranking)]
        pool, rest = open_rows[: ranking.pool], open_rows[ranking.pool :]
        some = []
        for row in sorted(pool, key=lambda row: (row.key, row.id)):
            if not _is_full(row, hits, ranking) and not _is_near(row, kept, ranking, metric):
                some.append(row)
                kept.append(row)
                hits[str(_group(row, ranking))] += 1
        out += _diverse(some, ranking) if ranking.diversity and some else some
    return out


def _group(row: Row, ranking: Ranking) -> str | None:
    assert ranking.group is None or ranking.group.key
    if ranking.group is None:
        return None
    values = held(ranking.group.key, row.item.metadata or {})
    if not values or values == [None]:
        return None
    return json.dumps(values, sort_keys=True)


def _is_full(row: Row, hits: Counter[str], ranking: Ranking) -> bool:
    name = _group(row, ranking)
    return name is not None and ranking.group is not None and hits[name] >= ranking.group.most


def _is_near(row: Row, kept: Sequence[Row], ranking: Ranking, metric: Metric) -> bool:
    if ranking.collapse is None:
        return False
    kind: Metric = "cosine" if metric == "ip" else metric
    assert row.item.vector is not None
    return any(
        distance_of(kind, row.item.vector, other.item.vector) <= ranking.collapse
        for other in kept
        if other.item.vector is not None
    )


def _diverse(rows: Sequence[Row], ranking: Ranking) -> Iterator[Row]:
    vectors = np.array([row.item.vector for row in rows], np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    scores = np.array([row.base if not ranking.boosts else -row.key for row in rows])
    span = scores[0] - scores[-1]
    relevance = (scores - scores[-1]) / span if span > 0 else np.zeros(len(rows))
    floor = float(units.mean(axis=0) @ units.mean(axis=0))
    likeness = np.zeros(len(rows))
    left = list(range(len(rows)))
    while left:
        values = [(1.0 - ranking.diversity) * relevance[n] - ranking.diversity * likeness[n] for n in left]
        best = left.pop(int(np.argmax(values)))
        yield rows[best]
        for n in left:
            alike = (units[n] @ units[best] - floor) / (1 - floor) if floor < 0.9999 else 0.0
            likeness[n] = max(likeness[n], math.floor(alike * 65536 + 0.5) / 65536)
