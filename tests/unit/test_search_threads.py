"""Several threads that search, for an index whose searches wait for a server."""

from __future__ import annotations

import asyncio

from tests.unit.test_search_queue import RESULT, GatedIndex, queue_over, request, soon, until


def test_several_threads_search_at_the_same_time() -> None:
    """Where a search waits for a server, three that are slow hold up no fourth."""

    async def scene() -> None:
        index = GatedIndex()
        queue = queue_over(index, threads=4)
        queue.start()
        index.gate.clear()
        slow = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(3)]
        await until(lambda: len(index.searched_by) == 3)
        late = [asyncio.ensure_future(queue.ask("a", request(), soon())) for _ in range(9)]
        await until(lambda: len(index.searched_by) == 4)
        index.gate.set()
        assert await asyncio.gather(*slow, *late) == [RESULT] * 12
        assert index.batches == [1] * 12
        queue.close()

    asyncio.run(scene())


def test_the_event_loop_never_waits_for_the_server() -> None:
    async def scene() -> None:
        index = GatedIndex()
        index.is_ready = True
        queue = queue_over(index, threads=2)
        queue.start()
        for _ in range(40):
            assert await queue.ask("a", request(), soon()) == RESULT
        assert set(index.searched_by) == {"search"}
        queue.close()

    asyncio.run(scene())
