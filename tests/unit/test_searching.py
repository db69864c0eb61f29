"""The searcher's wait for a seq, and large answers written beside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from index_store.errors import SeqNotReached
from index_store.types import Hit, PageKey, SearchOutcome, SearchRequest, SearchResult
from service.app.encoders import Encoders
from service.app.search import ParsedSearch, Searcher
from service.app.search_queue import SearchQueue
from service.collections import Collection
from service.http.wire.answers import (
    LARGE_BYTES,
    encoded_answer,
    encoded_in_pieces,
    expected_bytes,
)
from service.observing.metrics import Metrics
from service.words.interpreter import Interpreter
from tests.reference_index import ReferenceIndex

VECTOR = np.ones(3, np.float32)


class SlowSeqs(ReferenceIndex):
    """A seq that becomes known at `reached_at`; counts how often it is asked for and how often searched."""

    def __init__(self, reached_at: float, *, can_tell: bool = True) -> None:
        super().__init__([Collection("a", dim=3).spec])
        self._reached_at = reached_at
        self._can_tell = can_tell
        self.asked = 0
        self.searches = 0

    def newest_seq(self, collection: str) -> int | None:
        del collection
        self.asked += 1
        return self._seq() if self._can_tell else None

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        del collection
        self.searches += 1
        return [SearchResult((), "g", "v", self._seq(), True, None) for _ in requests]

    def word_shares(self, collection: str, texts: Sequence[str]) -> list[float]:
        del collection
        return [0.0] * len(texts)

    def _seq(self) -> int:
        return 7 if time.monotonic() >= self._reached_at else 3


def wait_for(index: SlowSeqs, min_seq: int, wait_ms: int) -> SearchResult:
    async def scene() -> SearchResult:
        queue = SearchQueue(index, Metrics(), queue_requests_max=10, queue_ms_max=1000)
        queue.start()
        searcher = Searcher(
            Encoders({}),
            queue,
            index,
            ThreadPoolExecutor(1),
            Interpreter(index, {}),
            deadline_ms=60_000,
            min_seq_wait_ms=wait_ms,
        )
        try:
            search = ParsedSearch(Collection("a", dim=3), SearchRequest(VECTOR, 5), min_seq=min_seq)
            return await searcher.find(search)
        finally:
            queue.close()

    return asyncio.run(scene())


def test_a_seq_that_comes_is_waited_for_without_searches() -> None:
    index = SlowSeqs(time.monotonic() + 0.15)
    assert wait_for(index, 7, 30_000).seq == 7
    assert index.searches == 1


@pytest.mark.long
def test_a_seq_that_does_not_come_costs_no_search() -> None:
    index = SlowSeqs(time.monotonic() + 60)
    with pytest.raises(SeqNotReached, match="at seq 3"):
        wait_for(index, 1000, 300)
    assert index.searches == 0 and index.asked <= 15


def test_a_seq_that_cannot_be_told_is_looked_for_by_searching() -> None:
    index = SlowSeqs(time.monotonic(), can_tell=False)
    assert wait_for(index, 7, 30_000).seq == 7 and index.searches == 1


HITS = [
    Hit(n, n / 7, {"title": f"갈비탕 {n}"}, np.random.default_rng(n).standard_normal(64).astype(np.float32))
    for n in range(1, 2001)
]
FIELDS = ["score", "rank", "metadata", "vector"]


def search_for(collection: Collection, k: int, include: list[str]) -> ParsedSearch:
    vector = HITS[5].vector
    assert vector is not None
    return ParsedSearch(
        collection,
        SearchRequest(vector, k),
        include=frozenset(include),
        shown=30,
        warnings=["w"],
        truncated=True,
    )


@pytest.mark.parametrize("include", [[], ["rank"], ["score", "vector"], FIELDS])
@pytest.mark.parametrize("count", [0, 1, 2000])
def test_pieces_are_the_same_answer(include: list[str], count: int) -> None:
    collection = Collection("a", dim=64, metric="l2")
    search = search_for(collection, 2000, include)
    page = PageKey("g", 7, 1.5, 9) if count else None
    result = SearchResult(HITS[:count], "g", "v", 7, page is None, page, ["catgory"])
    whole, pieces = encoded_answer(search, result, 1.25), encoded_in_pieces(search, result, 1.25)
    assert msgspec.json.decode(pieces) == msgspec.json.decode(whole)
    assert len(pieces) <= len(whole) + 100


@pytest.mark.parametrize("include", [[], ["score", "rank"], FIELDS[:3:2], ["vector"], FIELDS])
def test_expected_bytes_are_near_the_real_ones(include: list[str]) -> None:
    collection = Collection("a", dim=64, metric="l2", id_field="recipe_id")
    search = search_for(collection, 2000, include)
    size = len(encoded_answer(search, SearchResult(HITS, "g", "v", 7, True, None), 1.0))
    assert size * 0.8 <= expected_bytes(search) <= size * 1.5
    assert expected_bytes(search_for(collection, 25, [])) < LARGE_BYTES
