"""A wait that is cancelled as it ends is cancelled: a stop waits for every task that it cancels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.app.encoders import Encoders
from service.embedding.serving.futures import gathered, within
from service.errors import DeadlineExceeded


def cancelled_as_it_ends(begin: Callable[[], tuple[Awaitable[object], Callable[[], None]]]) -> None:
    """begin: returns the wait and what ends it. Cancelled any number of turns of the loop after that."""

    async def scene(turns: int) -> bool:
        wait, end = begin()
        task = asyncio.ensure_future(wait)
        for _ in range(3):  # whatever it starts has started
            await asyncio.sleep(0)
        end()
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            return False
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return True

    assert [asyncio.run(scene(turns)) for turns in range(6)].count(True) >= 1


def test_a_model_that_is_sought() -> None:
    def begin() -> tuple[Awaitable[object], Callable[[], None]]:
        encoders = Encoders({})
        return encoders.sought(60), encoders._sought.set

    cancelled_as_it_ends(begin)


def test_an_answer_within_its_deadline() -> None:
    def begin() -> tuple[Awaitable[object], Callable[[], None]]:
        answer = asyncio.get_running_loop().create_future()
        return within(60_000, asyncio.shield(answer)), lambda: answer.set_result(1)

    cancelled_as_it_ends(begin)


def test_a_late_answer_is_a_deadline_exceeded() -> None:
    async def scene() -> None:
        with pytest.raises(DeadlineExceeded, match="within 10 ms"):
            await within(10, asyncio.get_running_loop().create_future())

    asyncio.run(scene())


def test_after_the_first_failure_the_others_are_cancelled() -> None:
    async def scene() -> None:
        ended: list[str] = []
        never = asyncio.Event()

        async def wait(name: str) -> None:
            try:
                await never.wait()
            except asyncio.CancelledError:
                ended.append(name)
                raise

        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await gathered([wait("before"), fail(), wait("behind")])
        await asyncio.sleep(0)
        assert ended == ["before", "behind"]
        outer = asyncio.ensure_future(gathered([wait("of another")]))
        for _ in range(3):  # whatever it starts has started
            await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert ended[2:] == ["of another"]
        assert await gathered(asyncio.sleep(0, n) for n in range(3)) == [0, 1, 2]

    asyncio.run(scene())
