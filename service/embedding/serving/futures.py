"""Waiting in an event loop for work that threads do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from service.errors import DeadlineExceeded

Result = TypeVar("Result")


async def within(deadline_ms: float, work: Awaitable[Result]) -> Result:
    """Return what `work` gives. Raises DeadlineExceeded when it takes longer.

    Not by `asyncio.wait_for`: in Python 3.11 it loses a cancellation that comes together with the result, and
    who waits for the cancelled task's end waits for ever.
    """
    try:
        async with asyncio.timeout(deadline_ms / 1000):
            return await work
    except TimeoutError as exc:
        raise DeadlineExceeded(f"The model gave no answer within {deadline_ms:.0f} ms.") from exc


async def gathered(work: Iterable[Awaitable[Result]]) -> list[Result]:
    """Return what each gives, in order, or raise the first failure: the others are cancelled then, since
    nobody waits for them any more."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


async def all_results(futures: Sequence[Future[Result]]) -> list[Result]:
    """Return every result in order, or raise the first failure; leaving early cancels what still waits.

    The loop is woken once, not once a future: a write may hold thousands.
    """
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    open_count = len(futures)
    lock = threading.Lock()

    def settle() -> None:
        if not finished.done():
            finished.set_result(None)

    def count_down(_: Future[Result]) -> None:
        nonlocal open_count
        with lock:
            open_count -= 1
            is_last = open_count == 0
        if is_last and not loop.is_closed():
            loop.call_soon_threadsafe(settle)

    for future in futures:
        future.add_done_callback(count_down)
    try:
        if futures:
            await finished
    finally:
        for future in futures:
            future.cancel()
    return [future.result() for future in futures]
