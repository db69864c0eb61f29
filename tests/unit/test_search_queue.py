"""The search thread: batches what queued, isolates what is refused, turns away what would wait too long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from index_store.errors import IndexStoreError, InvalidFilter, StoreUnavailable
from index_store.request.ranking import Boost, GroupBy, RankedPage, Ranking
from index_store.types import PageKey, SearchOutcome, SearchRequest, SearchResult, TextQuery
from service.app.search_cost import cost_of
from service.app.search_queue import SearchQueue
from service.errors import DeadlineExceeded, Overloaded
from service.observing.metrics import Metrics
from tests.waiting import PATIENCE_S

RESULT = SearchResult(hits=(), generation="g", embedding_version="v", seq=1, exhausted=True, next_page=None)


class GatedIndex:
    """Answers when `gate` is open, refuses requests with a filter, and all during an `outage`; remembers the
    sizes of its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.is_asked = False
        self.is_ready = False
        self.batches: list[int] = []
        self.searched_by: list[str] = []
        self.now = time.monotonic()
        self.outage: IndexStoreError | None = None

    def is_caught_up(self, _: str) -> bool:
        return self.is_ready

    def search_each(self, _: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        self.is_asked = True
        self.searched_by.append(threading.current_thread().name)
        assert self.gate.wait(PATIENCE_S)
        self.batches.append(len(requests))
        if self.outage is not None:
            raise self.outage
        if any(request.k == 13 for request in requests):
            raise ZeroDivisionError
        return [InvalidFilter("no", "filter") if request.filter else RESULT for request in requests]


def request(**more: Any) -> SearchRequest:
    return SearchRequest(vector=np.ones(3, np.float32), k=more.pop("k", 1), **more)


def queue_over(index: Any, requests_max: int = 1000, ms_max: int = 1000, **more: Any) -> SearchQueue:
    return SearchQueue(index, Metrics(), queue_requests_max=requests_max, queue_ms_max=ms_max, **more)


def soon() -> float:
    return time.monotonic() + PATIENCE_S


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_queued_while_busy_is_one_call() -> None:
    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index)
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        rest = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(20)]
        await asyncio.sleep(0)
        index.gate.set()
        assert await asyncio.gather(first, *rest) == [RESULT] * 21
        assert index.batches == [1, 20]
        queue.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("bad", "error", "batches"),
    [
        ({"filter": {"a": 1}}, InvalidFilter, [1, 5]),
        ({"k": 13}, ZeroDivisionError, [1, 5, 1, 1, 1, 1, 1]),
    ],
)
def test_a_request_that_is_refused_or_fails_spoils_no_other(
    bad: Any, error: type[Exception], batches: list[int]
) -> None:
    """What the index refuses is paid once; only after what nobody foresaw is each asked alone."""

    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index)
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        asked = [queue.ask("a", request(**(bad if place == 2 else {})), soon()) for place in range(5)]
        tasks = [asyncio.ensure_future(each) for each in asked]
        await asyncio.sleep(0)
        index.gate.set()
        found = await asyncio.gather(first, *tasks, return_exceptions=True)
        assert [type(each) for each in found] == [SearchResult] * 3 + [error] + [SearchResult] * 2
        assert index.batches == batches
        queue.close()

    asyncio.run(scene())


def test_what_refuses_a_whole_call_is_asked_for_once() -> None:
    """A store that is away costs its callers one wait, not one for each of them."""

    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index)
        queue.start()
        index.outage = StoreUnavailable("the store is away", "try again")
        asked = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in found] == [StoreUnavailable] * 5
        assert index.batches == [5]
        queue.close()

    asyncio.run(scene())


def test_an_unforeseen_error_is_told_and_the_thread_goes_on() -> None:
    async def scene() -> None:
        queue = queue_over(GatedIndex())
        queue.start()
        with pytest.raises(ZeroDivisionError):
            await queue.ask("a", request(k=13), soon())
        assert await queue.ask("a", request(), soon()) is RESULT
        queue.close()

    asyncio.run(scene())


def test_a_full_line_turns_away_with_a_time_to_come_back() -> None:
    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index, requests_max=3)
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        waiting = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await queue.ask("a", request(), soon())
        assert caught.value.retry_after_s >= 1
        index.gate.set()
        assert await asyncio.gather(first, *waiting) == [RESULT] * 4
        queue.close()

    asyncio.run(scene())


def test_a_deadline_is_kept_while_the_thread_is_busy_and_late_work_is_not_done() -> None:
    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index)
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await queue.ask("a", request(), time.monotonic() + 0.1)
        assert time.monotonic() - started < PATIENCE_S / 2, "it does not wait for the thread"
        left = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        index.gate.set()
        await first
        assert await queue.ask("a", request(), soon()) is RESULT
        assert sum(index.batches) == 2
        queue.close()

    asyncio.run(scene())


def test_a_heavy_request_is_a_call_of_its_own() -> None:
    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index)
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        line = [request(), request(k=10_000, with_metadata=True), request(exact=True), *[request()] * 5]
        rest = [asyncio.ensure_future(queue.ask("a", each, soon())) for each in line]
        await asyncio.sleep(0)
        index.gate.set()
        await asyncio.gather(first, *rest)
        assert index.batches == [1, 1, 1, 6]
        queue.close()

    asyncio.run(scene())


@pytest.mark.long
def test_deadlines_are_looked_at_between_heavy_requests() -> None:
    class SlowIndex(GatedIndex):
        def search_each(self, _: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
            time.sleep(0.1)  # stands for work: what a real index does with it
            return super().search_each(_, requests)

    async def scene() -> None:
        index = SlowIndex()
        queue = queue_over(index, ms_max=60_000)
        queue.start()
        deadline = time.monotonic() + 0.25
        asked = [
            asyncio.ensure_future(queue.ask("a", request(k=10_000, with_vectors=True), deadline))
            for _ in range(20)
        ]
        await asyncio.sleep(0)
        found = await asyncio.gather(*asked, return_exceptions=True)
        queue.close()
        assert [each for each in found if isinstance(each, DeadlineExceeded)]
        assert sum(index.batches) <= 4, "what nobody waits for any more is not searched"

    asyncio.run(scene())


def test_the_line_is_counted_in_work() -> None:
    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index, ms_max=500)  # a unit of work is taken for 1 ms before it was measured
        queue.start()
        index.gate.clear()
        first = asyncio.ensure_future(queue.ask("a", request(), soon()))
        await until(lambda: index.is_asked)
        light = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(50)]
        heavy = [asyncio.ensure_future(queue.ask("a", request(k=10_000), soon())) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await queue.ask("a", request(), soon())
        index.gate.set()
        await asyncio.gather(first, *light, *heavy)
        queue.close()

    asyncio.run(scene())


@pytest.mark.parametrize(
    "heavier",
    [
        {"k": 1000},
        {"offset": 1000},
        {"exact": True},
        {"filter": {"a": 1}},
        {"exclude_ids": tuple(range(10_000))},
        {"k": 25, "with_metadata": True},
        {"k": 25, "with_vectors": True},
    ],
)
def test_what_makes_a_search_heavier(heavier: dict[str, Any]) -> None:
    assert cost_of(request(**heavier)) > cost_of(request(k=min(25, heavier.get("k", 1))))


def test_a_filter_weighs_by_its_size() -> None:
    costs = [
        cost_of(request(filter=each))
        for each in (
            {"a": 1},
            {"a": {"$in": list(range(10_000))}},
            {"a": {"$in": list(range(100_000))}},
            {"$or": [{"a": n} for n in range(900)]},
        )
    ]
    assert costs == sorted(costs) and costs[0] < 4


def test_a_ranking_weighs_by_its_pool_its_terms_and_the_hits_before_it() -> None:
    boost = Boost(0.1, {"stock": {"$gt": 0}})
    page = PageKey("g", 1, 0.5, 3, ranked=RankedPage(None, b"", 5000))
    plain = cost_of(request())
    light, usual = Ranking([boost], pool=10), Ranking([boost])
    costs = [cost_of(request(ranking=each)) for each in (light, usual, Ranking([boost] * 8))]
    costs.append(cost_of(request(ranking=Ranking([boost] * 8, collapse=0.1, diversity=0.5))))
    assert plain < costs[0] < costs[1] < costs[2] < costs[3] < 40
    groups = Ranking(group=GroupBy("seller", 2))
    assert cost_of(request(ranking=groups, after=page)) > 10 * cost_of(request(ranking=groups))
    assert cost_of(request(ranking=usual, after=page)) == cost_of(request(ranking=usual))


def test_words_weigh_by_the_letters_that_are_looked_for() -> None:
    costs = [cost_of(request(text=TextQuery("가" * letters))) for letters in (2, 20, 128, 1000)]
    assert cost_of(request()) < costs[0] < costs[1] < costs[2] == costs[3] < 12


def searches_of(index: GatedIndex, *steps: Any) -> list[str]:
    """Return which threads searched after enough lone searches that the loop does the next one itself. On a
    clock that only `index` moves: how busy the machine is does not matter."""

    async def scene() -> list[str]:
        queue = queue_over(index, clock=lambda: index.now)
        queue.start()
        for _ in range(50):
            await queue.ask("a", request(), soon())
        index.searched_by.clear()
        for step in steps:
            await step(queue)
        queue.close()
        return index.searched_by

    return asyncio.run(scene())


async def a_light_one(queue: SearchQueue) -> None:
    await queue.ask("a", request(), soon())


def test_the_loop_searches_itself_while_nobody_else_asks() -> None:
    index = GatedIndex()
    index.is_ready = True
    assert searches_of(index, a_light_one, a_light_one) == ["MainThread"] * 2


def test_the_loop_does_not_search_for_two() -> None:
    async def two(queue: SearchQueue) -> None:
        await asyncio.gather(*[queue.ask("a", request(), soon()) for _ in range(2)])

    index = GatedIndex()
    index.is_ready = True
    assert searches_of(index, two, a_light_one) == ["search", "search"], "and not at once after them"


@pytest.mark.parametrize(
    "heavy", [{"k": 500}, {"exact": True}, {"filter": {"kind": "soup"}}, {"exclude_ids": np.arange(5000)}]
)
def test_the_loop_does_not_search_what_may_take_long(heavy: dict[str, Any]) -> None:
    async def a_heavy_one(queue: SearchQueue) -> None:
        await asyncio.gather(queue.ask("a", request(**heavy), soon()), return_exceptions=True)

    index = GatedIndex()
    index.is_ready = True
    assert searches_of(index, a_heavy_one) == ["search"]


def test_the_loop_does_not_search_where_commits_are_to_be_applied_first() -> None:
    assert searches_of(GatedIndex(), a_light_one) == ["search"]


def test_after_a_slow_search_on_the_loop_the_thread_does_the_next_ones() -> None:
    class SlowIndex(GatedIndex):
        def search_each(self, _: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
            if self.is_slow and threading.current_thread() is threading.main_thread():
                self.now += 0.005
            return super().search_each(_, requests)

        is_slow = False

    async def slow_down(_: SearchQueue) -> None:
        index.is_slow = True

    index = SlowIndex()
    index.is_ready = True
    assert searches_of(index, slow_down, *[a_light_one] * 20) == ["MainThread", *["search"] * 19]


def test_the_loop_refuses_as_the_thread_does() -> None:
    async def a_failing_one(queue: SearchQueue) -> None:
        with pytest.raises(ZeroDivisionError):
            await queue.ask("a", request(k=13), soon())

    index = GatedIndex()
    index.is_ready = True
    assert searches_of(index, a_failing_one) == ["MainThread"]
