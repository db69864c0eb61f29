"""Recommendations equal loops over a dict: both modes, ties, weights, vetoes, filters, exclusions and pages,
over segments and rows in memory, while writes go on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.errors import InvalidRequest
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.request.recommendation import Recommendation
from index_store.types import (
    CollectionSpec,
    Hit,
    Id,
    ItemDelete,
    ItemWrite,
    SearchRequest,
    SearchResult,
    Vector,
    WriteBatch,
)
from tests.reference_recommendation import Shown, recommended

DIM = 4
LIMITS = MaintenanceLimits(seal_rows=1, segments_max=9, disk_reserve_bytes=0)
NONE: Vector = np.empty((0, DIM), np.float32)


class Shop:
    """An index beside a dict of what is live in it. Vectors are of few whole numbers: their distances are
    exact, and many of them equal."""

    def __init__(self, data_dir: Path, metric: Literal["l2", "ip"], random: np.random.Generator) -> None:
        self.metric: Literal["l2", "ip"] = metric
        self.random = random
        self.vectors: dict[Id, Vector] = {}
        self.index = EmbeddedIndex(data_dir, [CollectionSpec("things", "int64", DIM, metric)])
        self.index.open()
        self.index.advance("things", "begin", "v1")

    def vector(self) -> Vector:
        found: Vector = self.random.integers(-2, 3, DIM).astype(np.float32)
        return found if found.any() else self.vector()

    def write(self, ids: range) -> None:
        fresh: dict[Id, Vector] = {number: self.vector() for number in ids}
        items = [ItemWrite(key, vector, metadata={"odd": int(key) % 2}) for key, vector in fresh.items()]
        self.index.write("things", WriteBatch(items, embedding_version="v1"))
        self.vectors |= fresh

    def delete(self, ids: list[int]) -> None:
        self.index.write("things", WriteBatch(deletes=[ItemDelete(each) for each in ids]))
        for each in ids:
            self.vectors.pop(each, None)

    def search(self, request: SearchRequest) -> SearchResult:
        (found,) = self.index.search("things", [request])
        return found

    def question(self) -> SearchRequest:
        random = self.random
        some = random.choice(list(map(int, self.vectors)), int(random.integers(1, 7)), replace=False)
        likes = np.stack([self.vectors[int(each)] for each in some])
        unlikes = np.stack([self.vector() for _ in range(3)])[: int(random.integers(0, 4))]
        asked = Recommendation(
            "best" if random.random() < 0.5 else "each",
            likes,
            tuple(random.choice([0.5, 1.0, 1.0, 2.0], len(likes)).tolist()),
            unlikes if len(unlikes) else NONE,
        )
        return SearchRequest(
            likes[0],
            int(random.integers(1, 12)),
            exclude_ids=[int(each) for each in some],
            filter={"odd": 1} if random.random() < 0.3 else None,
            max_distance=float(random.choice([1.0, 2.5, 4.0])) if random.random() < 0.4 else None,
            recommendation=asked,
        )

    def allowed(self, request: SearchRequest) -> dict[Id, Vector]:
        excluded = {int(each) for each in request.exclude_ids}
        return {
            key: vector
            for key, vector in self.vectors.items()
            if key not in excluded and (request.filter is None or int(key) % 2)
        }


@pytest.fixture(scope="module", params=["l2", "ip"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    data_dir = tmp_path_factory.mktemp("shop")
    found = Shop(data_dir, request.param, np.random.default_rng(17))
    for ids in (range(60), range(60, 90)):
        found.write(ids)
        assert Maintenance(data_dir, limits=LIMITS).run_once()
    found.index.close()
    found.index.open()
    found.write(range(80, 120))
    found.delete([3, 65, 100])
    yield found
    found.index.close()


def told(hits: Any) -> list[tuple[Id, float, int | None]]:
    return [(hit.id, hit.distance, hit.like) for hit in hits]


def wanted(shop: Shop, request: SearchRequest, rows: dict[Id, Vector], **more: Any) -> list[Shown]:
    assert request.recommendation is not None
    limit = math.inf if request.max_distance is None else request.max_distance
    return recommended(request.recommendation, shop.metric, rows, limit, **more)


@pytest.mark.long
def test_answers_equal_the_reference(shop: Shop) -> None:
    for _ in range(40):
        request = replace(shop.question(), offset=int(shop.random.integers(0, 3)))
        expected = wanted(shop, request, shop.allowed(request))
        found = shop.search(request)
        assert told(found.hits) == expected[request.offset : request.offset + request.k]
        assert found.exhausted == (len(expected) <= request.offset + request.k)


@pytest.mark.long
def test_pages_neither_repeat_nor_skip_while_writes_go_on(shop: Shop) -> None:
    fresh = max(map(int, shop.vectors)) + 100
    for _ in range(6):
        request = shop.question()
        rows = shop.allowed(request)
        shown: list[Any] = []
        found = shop.search(request)
        while True:
            gone = rows.keys() - shop.vectors.keys()
            expected = wanted(shop, request, rows, shown=shown, gone=gone)
            assert told(found.hits) == expected[: request.k]
            shown += told(found.hits)
            if found.next_page is None:
                assert found.exhausted
                break
            shop.write(range(fresh, fresh + 3))  # nearer ones among them
            shop.write(range(fresh - 7, fresh - 6))  # another vector of an item that stands in the answer
            shop.delete([int(shop.random.choice(list(map(int, shop.vectors))))])
            fresh += 3
            found = shop.search(replace(request, after=found.next_page))
            if len(shown) > 25:
                break


def test_a_page_of_each_and_the_next_are_one_page_of_both(shop: Shop) -> None:
    for _ in range(10):
        request = shop.question()
        both = shop.search(replace(request, k=2 * request.k))
        first = shop.search(request)
        hits: list[Hit] = list(first.hits)
        if first.next_page is not None:
            hits += shop.search(replace(request, after=first.next_page)).hits
        assert told(hits) == told(both.hits)


def test_each_covers_every_liked_item_in_the_order_of_weights(shop: Shop) -> None:
    likes = np.eye(DIM, dtype=np.float32)
    asked = Recommendation("each", likes, (1.0, 3.0, 1.0, 2.0), NONE)
    found = shop.search(SearchRequest(likes[0], 6, recommendation=asked))
    assert [hit.like for hit in found.hits] == [1, 3, 0, 2, 1, 3]


def test_one_liked_item_is_a_search_by_its_vector(shop: Shop) -> None:
    vector = shop.vectors[1]
    plain = shop.search(SearchRequest(vector, 20))
    for mode in ("best", "each"):
        asked = Recommendation(mode, vector[None, :], (3.0,), NONE)  # type: ignore[arg-type]
        found = shop.search(SearchRequest(vector, 20, recommendation=asked))
        assert [(hit.id, hit.distance) for hit in found.hits] == [
            (hit.id, hit.distance) for hit in plain.hits
        ]


def test_what_is_refused(shop: Shop) -> None:
    likes = np.stack([shop.vectors[1], shop.vectors[2]])
    good = Recommendation("each", likes, (1.0, 1.0), NONE)
    request = SearchRequest(likes[0], 2, recommendation=good)
    page = shop.search(request).next_page
    assert page is not None and page.likes is not None
    for field, bad in {
        "like_weights": replace(request, recommendation=replace(good, weights=(1.0,))),
        "like_weights ": replace(request, recommendation=replace(good, weights=(1.0, 0.0))),
        "like_weights  ": replace(request, recommendation=replace(good, weights=(1.0, math.nan))),
        "like_ids": replace(request, recommendation=replace(good, likes=NONE, weights=())),
        "unlike_ids": replace(request, recommendation=replace(good, unlikes=np.ones((1, 3), np.float32))),
        "top_k": replace(
            request, k=500, recommendation=replace(good, likes=np.tile(likes, (50, 1)), weights=(1.0,) * 100)
        ),
        "cursor": replace(request, after=replace(page, likes=None)),
        "cursor ": replace(request, after=replace(page, likes=page.likes._replace(ends=(None,)))),
    }.items():
        with pytest.raises(InvalidRequest) as refused:
            shop.search(bad)
        assert refused.value.field == field.strip()
