"""A search over rows that are fetched as it asks for them is answered as one over all rows in memory: ids,
numbers, pages and explanations of every kind of search, while items are written and deleted between pages."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from index_store.explanation import Explanation
from index_store.query.execute import answer
from index_store.query.explain import explain
from index_store.query.view import apply_commits
from index_store.record.rows import Row
from index_store.request.ranking import GroupBy, Ranking
from index_store.storage.store import RowPage
from index_store.types import SearchRequest, TextQuery
from item_rules.lifetime import span_of
from item_rules.metadata import metadata_text
from tests.pool_cases import BOOSTS, DIM, NOW, SPEC, Rows, answered, plain, request_of, vector_of
from tests.view_fetcher import pool_view


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
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


@pytest.mark.long
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


def test_full_groups_are_fetched_no_more() -> None:
    rows = Rows(Random(5), 600)
    group = Ranking(group=GroupBy("shade", 1), pool=10)
    pool, fetcher = pool_view(rows.view, SPEC)
    request = SearchRequest(vector_of(Random(1)), 30, ranking=group)
    assert answer(pool, request).ids == answer(rows.view, request).ids
    assert fetcher.fetched < 300  # of 600, of which a fifth have no group


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
