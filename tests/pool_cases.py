"""Searches of every kind over a few items, as a view with all rows in memory answers them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from index_store.answers.hits import hits_of, page_key
from index_store.delta.delta import Delta
from index_store.query.execute import answer
from index_store.query.view import View, apply_commits, view_of_delta
from index_store.record.rows import Row
from index_store.request.confidence import Background, ConfidenceQuery, Curve
from index_store.request.ranking import Boost, Decay, GroupBy, Linear, Ranking
from index_store.request.recommendation import Recommendation
from index_store.storage.store import RowPage
from index_store.types import CollectionSpec, Hit, PageKey, SearchRequest, TextQuery, Vector
from item_rules.lifetime import Lifetime, span_of
from item_rules.metadata import metadata_text

DIM = 6
SPEC = CollectionSpec("things", "int64", DIM, "l2", ("title",), Lifetime("from", "until"))
NOW = 1.77e9
BOOSTS = [
    Boost(0.5, Linear("size", 0.0, 9.0)),
    Boost(-0.3, Decay("nest.size", 2.0, 4.0, "gauss")),
    Boost(0.3, {"shade": {"$in": ["red", "blue"]}}),
]


def vector_of(random: Random) -> Vector:
    """Of few whole numbers: distances are exact, and many of them equal."""
    found = np.array([random.randint(-1, 1) for _ in range(DIM)], np.float32)
    return found if found.any() else vector_of(random)


def row_of(item_id: int, seq: int, random: Random) -> Row:
    metadata: dict[str, Any] = {"title": random.choice(["김치 찌개", "두부", "kimchi stew", "된장 두부"])}
    metadata |= {"shade": random.choice(["red", "green", "blue"])} if random.random() < 0.8 else {}
    metadata |= {"size": random.choice([*range(10), None, "7", [1, 2]])} if random.random() < 0.9 else {}
    metadata |= {"nest": {"size": random.randrange(9)}} if random.random() < 0.5 else {"nest.size": 4}
    metadata |= {"until": NOW - 1 if random.random() < 0.5 else NOW + 99} if random.random() < 0.3 else {}
    vector = vector_of(random).tobytes() if random.random() < 0.95 else None
    return Row(item_id, seq, False, random.random() < 0.95, None, None, metadata_text(metadata), 0, vector)


class Rows:
    """A view with everything in memory, and what it was made of."""

    def __init__(self, random: Random, count: int) -> None:
        self.random = random
        self.rows = {n: row_of(n, n, random) for n in range(1, count + 1)}
        delta = Delta(SPEC)
        delta.add_rows([row for row in self.rows.values() if row.is_live])
        self.view: View = view_of_delta(delta, count)

    def write(self, ids: Sequence[int], *, deletes: bool) -> list[Row]:
        """Write, or delete, these in one commit; return their rows."""
        seq = self.view.seq
        fresh = [row_of(item_id, seq + n, self.random) for n, item_id in enumerate(ids, start=1)]
        if deletes:
            fresh = [replace(row, deleted=True, active=False, metadata=None, vector=None) for row in fresh]
        self.rows.update((row.id, row) for row in fresh)  # type: ignore[misc]
        self.view = apply_commits(self.view, [RowPage(fresh, [], seq + len(fresh))])
        return fresh


def curve_of(_version: str, _text: str, background: Background) -> Curve:
    share = -1.0 if background.share is None else background.share
    return Curve(3.0 + background.spread + share, -1.5 - background.of_query - background.size / 1000)


def request_of(random: Random) -> SearchRequest:
    kind = random.choice(["distance", "words", "ranking", "ranking", "recommendation"])
    request = SearchRequest(
        vector_of(random),
        random.choice([1, 4, 9]),
        random.sample(range(1, 60), random.randrange(6)),
        random.choice([None, {"shade": {"$ne": "green"}}, {"size": {"$gt": 2}, "nowhere": 1}]),
        max_distance=random.choice([None, 2.5]),
        exact=random.random() < 0.3,
        with_metadata=True,
        with_matches=True,
        with_vectors=True,
    )
    if kind == "recommendation":
        likes = np.stack([vector_of(random) for _ in range(random.randint(1, 5))])
        unlikes = np.stack([vector_of(random) for _ in range(2)])[: random.randrange(3)]
        weights = tuple(random.choice([0.5, 1.0, 2.0]) for _ in likes)
        mode: Any = random.choice(["best", "each"])
        return replace(request, recommendation=Recommendation(mode, likes, weights, unlikes))
    if kind == "words" or random.random() < 0.4:
        mode = random.choice(["lexical", "hybrid"])
        text = TextQuery(
            random.choice(["김치찌개", "두부 kimchi", "된장", "x"]), mode, random.choice([0.0, 1.0, 9.0])
        )
        request = replace(
            request, text=text, max_distance=None if mode == "lexical" else request.max_distance
        )
    if (request.text is None or request.text.mode == "hybrid") and random.random() < 0.4:
        asked = ConfidenceQuery("김치", curve_of, random.choice([0.0, 0.4]))
        request = replace(request, confidence=asked, embedding_version="v1")
    if kind == "ranking":
        ranking = Ranking(
            random.sample(BOOSTS, random.randrange(4)),
            random.choice([None, GroupBy("shade", 2), GroupBy("size", 1), GroupBy("nest.size", 3)]),
            random.choice([None, None, 0.0, 1.5]),
            random.choice([0.0, 0.0, 0.4]),
            random.choice([3, 7, 200]),
            NOW,
        )
        return replace(request, ranking=ranking)
    return request


def answered(view: View, request: SearchRequest) -> tuple[list[Hit], PageKey | None, Any]:
    span = span_of(SPEC.lifetime, NOW if request.after is None else request.after.now)
    request = replace(request, shown=None if span is None else span._replace(now=NOW))
    found = answer(view, request)
    hits = hits_of(view, request, found)
    seq = view.seq if request.after is None else request.after.seq
    key = None if found.exhausted else page_key("g", seq, hits[-1], found, request.shown)
    ranked = None if found.ranked is None else found.ranked.unknown_keys
    return hits, key, (list(found.unknown_keys), ranked)


def plain(hits: list[Hit]) -> list[dict[str, Any]]:
    return [
        dataclasses.asdict(hit) | {"vector": hit.vector.tolist(), "distance": repr(hit.distance)}
        for hit in hits
        if hit.vector is not None
    ]
