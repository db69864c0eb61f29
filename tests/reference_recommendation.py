"""What a recommendation is, over a dict and with loops: the engine is held to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from index_store.request.recommendation import Recommendation
from index_store.types import Id, Metric, Vector
from tests.reference_distance import distance_of

Shown: TypeAlias = tuple[Id, float, int]
"""Id, distance, and which liked item it was found for."""


def recommended(
    asked: Recommendation,
    metric: Metric,
    vectors: Mapping[Id, Vector],
    distance_max: float = math.inf,
    shown: Sequence[Shown] = (),
    gone: Collection[Id] = (),
) -> list[Shown]:
    """All of `vectors` that may be answered, in order. shown: by the pages before. gone: since those; what
    was found for them is not."""
    likes, weights = range(len(asked.likes)), asked.weights
    own = {
        each: [distance_of(metric, vectors[each], like) for like in asked.likes]
        for each in vectors
        if each not in gone
    }
    for each in list(own):
        vetoes = [distance_of(metric, vectors[each], unlike) for unlike in asked.unlikes]
        if vetoes and min(vetoes) < min(own[each]):
            del own[each]
    for each, _, _ in shown:
        own.pop(each, None)
    if asked.mode == "best":
        ranked: list[Any] = []
        for each, distances in own.items():
            reach = [like for like in likes if distances[like] <= distance_max]
            ranked += sorted((_weighed(distances[like], weights[like]), each, like) for like in reach)[:1]
        return [(each, own[each][like], like) for _, each, like in sorted(ranked)]
    order = sorted(likes, key=lambda like: -weights[like])
    turn = order.index(shown[-1][2]) + 1 if shown else 0
    found: list[Shown] = []
    idle = 0
    while idle < len(order):
        like = order[turn % len(order)]
        turn += 1
        near = [(own[each][like], each) for each in own if own[each][like] <= distance_max]
        if not near:
            idle += 1
            continue
        idle = 0
        distance, each = min(near)
        del own[each]
        found.append((each, distance, like))
    return found


def _weighed(distance: float, weight: float) -> float:
    return distance * weight if distance < 0 else distance / weight
