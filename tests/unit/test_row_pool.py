"""A search over rows that are fetched as it asks for them is answered as one over all rows in memory: ids,
numbers, pages and explanations of every kind of search, while items are written and deleted between pages."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from index_store.answers.hits import hits_of, page_key
from index_store.delta.delta import Delta
from index_store.explanation import Explanation
from index_store.query.execute import answer
from index_store.query.explain import explain
from index_store.query.view import View, apply_commits, view_of_delta
from index_store.record.rows import Row
from index_store.request.confidence import Background, ConfidenceQuery, Curve
from index_store.request.ranking import Boost, Decay, GroupBy, Linear, Ranking
from index_store.request.recommendation import Recommendation
from index_store.storage.store import RowPage
from index_store.types import CollectionSpec, Hit, PageKey, SearchRequest, TextQuery, Vector
from item_rules.lifetime import Lifetime, span_of
from item_rules.metadata import metadata_text
from tests.view_fetcher import pool_view

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

    def write(self, ids: list[int], *, deletes: bool) -> None:
        seq = self.view.seq
        fresh = [
            replace(row_of(item_id, seq + n, self.random), deleted=deletes)
            for n, item_id in enumerate(ids, start=1)
        ]
        if fresh:
            self.rows.update((row.id, row) for row in fresh)  # type: ignore[misc]
            self.view = apply_commits(self.view, [RowPage(fresh, [], seq + len(fresh))])


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


@pytest.mark.parametrize("seed", range(8))
def test_a_pool_answers_as_all_rows_do_page_by_page(seed: int) -> None:
    random = Random(seed)
    rows = Rows(random, 60)
    for _ in range(10):
        request = request_of(random)
        for _ in range(6):
            pool, _fetcher = pool_view(rows.view, SPEC)
            wanted, got = answered(rows.view, request), answered(pool, request)
            assert plain(got[0]) == plain(wanted[0]), request
            assert got[1:] == wanted[1:], request
            if wanted[1] is None:
                break
            request = replace(request, after=wanted[1])
            if random.random() < 0.5:
                rows.write(random.sample(range(1, 70), 3), deletes=random.random() < 0.3)


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_words_of_many_rows_are_found_through_a_pool(mode: Any) -> None:
    random = Random(11)
    rows = Rows(random, 0)
    words = ["김치", "찌개", "된장", "두부", "갈비", "탕", "국물", "kimchi", "stew", "순두부"]
    numbers = np.random.default_rng(3)
    fresh = [
        Row(
            n,
            n,
            False,
            True,
            None,
            None,
            metadata_text({"title": " ".join(random.choices(words, k=3))}),
            0,
            v.tobytes(),
        )
        for n, v in enumerate(numbers.standard_normal((700, DIM)).astype(np.float32), start=1)
    ]
    rows.view = apply_commits(rows.view, [RowPage(fresh, [], 700)])
    for text, k, alpha in [
        ("김치찌개", 10, 1.0),
        ("된장 국물", 300, 3.0),
        ("두부", 40, 60.0),
        ("gimchi", 5, 1.0),
    ]:
        query = TextQuery(text, mode, alpha)
        vector = numbers.standard_normal(DIM).astype(np.float32)
        request = SearchRequest(vector, k, text=query, with_vectors=True)
        pool, fetcher = pool_view(rows.view, SPEC)
        wanted, got = answered(rows.view, request), answered(pool, request)
        assert plain(got[0]) == plain(wanted[0])
        assert got[1:] == wanted[1:]
        assert k > 40 or fetcher.fetched < 1000


def test_a_pool_fetches_no_more_than_a_search_needs() -> None:
    rows = Rows(Random(5), 400)
    pool, fetcher = pool_view(rows.view, SPEC)
    answer(pool, SearchRequest(vector_of(Random(1)), 5))
    assert fetcher.fetched < 12
    pool, fetcher = pool_view(rows.view, SPEC)
    answer(pool, SearchRequest(vector_of(Random(1)), 5, ranking=Ranking(BOOSTS, pool=20)))
    assert fetcher.fetched < 60


@pytest.mark.parametrize("seed", range(3))
def test_an_explanation_over_a_pool_is_that_over_all_rows(seed: int) -> None:
    random = Random(seed)
    rows = Rows(random, 60)
    rows.write([3, 4], deletes=True)
    for item_id in (1, 2, 3, 17, 40, 99):
        request = replace(request_of(random), recommendation=None, ranking=None, confidence=None, text=None)
        request = replace(request, shown=span_of(SPEC.lifetime, NOW))
        pool, _ = pool_view(rows.view, SPEC)
        found: list[Explanation] = [
            explain(view, request, item_id, rows.rows.get(item_id), SPEC) for view in (rows.view, pool)
        ]
        assert replace(found[1], steps=()) == replace(found[0], steps=()), item_id
        assert found[1].steps[0][0] == "scan"
