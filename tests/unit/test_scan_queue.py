"""Scans take turns by caller; what would wait too long is refused; what was begun goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.app.listing.scan_queue import ScanQueue
from service.errors import Overloaded
from tests.clock import Clock


@pytest.fixture
def readers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def queue_of(readers: ThreadPoolExecutor, clock: Clock, wait_ms: int = 400) -> ScanQueue:
    """A queue that has measured a millisecond a row."""
    scans = ScanQueue(readers, queue_ms_max=wait_ms, clock=clock)

    def scan() -> None:
        clock.now += 10.0

    asyncio.run(scans.run(scan, 10_000, "a"))
    return scans


async def _held(scans: ScanQueue, rows: float, gate: threading.Event) -> asyncio.Task[bool]:
    """A scan that runs until the gate opens."""
    running = asyncio.create_task(scans.run(lambda: gate.wait(30), rows, "first"))
    await asyncio.sleep(0)
    return running


def _noted(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_one_runs_at_a_time_and_callers_take_turns(readers: ThreadPoolExecutor) -> None:
    scans, order, gate = queue_of(readers, Clock()), list[str](), threading.Event()

    async def ask() -> None:
        running = await _held(scans, 1, gate)
        names = ["a1", "a2", "a3", "b1"]
        waiting = [asyncio.create_task(scans.run(_noted(order, n), 10, n[0])) for n in names]
        await asyncio.sleep(0)
        assert order == []
        gate.set()
        await asyncio.gather(running, *waiting)

    asyncio.run(ask())
    assert order == ["a1", "b1", "a2", "a3"]


def test_what_would_wait_too_long_is_refused_unless_it_was_begun(readers: ThreadPoolExecutor) -> None:
    scans, order, gate = queue_of(readers, Clock()), list[str](), threading.Event()

    async def ask() -> None:
        running = await _held(scans, 2000, gate)
        with pytest.raises(Overloaded) as refused:
            await scans.run(_noted(order, "new"), 1, "a")
        assert refused.value.reason == "scan" and refused.value.retry_after_s == 1.0
        begun = asyncio.create_task(scans.run(_noted(order, "begun"), 1, "a", is_admitted=True))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(running, begun)

    asyncio.run(ask())
    assert order == ["begun"]


def test_who_gives_up_or_fails_leaves_the_turn_to_the_next(readers: ThreadPoolExecutor) -> None:
    scans, order, gate = queue_of(readers, Clock()), list[str](), threading.Event()

    def broken() -> None:
        raise ValueError("broken")

    async def ask() -> None:
        running = await _held(scans, 1, gate)
        given_up = asyncio.create_task(scans.run(_noted(order, "given up"), 1, "a"))
        fails = asyncio.create_task(scans.run(broken, 1, "b"))
        last = asyncio.create_task(scans.run(_noted(order, "last"), 1, "c"))
        await asyncio.sleep(0)
        given_up.cancel()
        gate.set()
        found = await asyncio.gather(running, given_up, fails, last, return_exceptions=True)
        assert isinstance(found[1], asyncio.CancelledError) and isinstance(found[2], ValueError)
        assert await scans.run(lambda: 5, 1, "d") == 5

    asyncio.run(ask())
    assert order == ["last"]
