"""Ask the new path the same question after the old one answered, and compare: the answer is never touched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from vector_client.errors import VectorClientError
from vector_client.log_events import log_event
from vector_client.recommend.port import Neighbours
from vector_client.rollout.path import GuardedPath, Question, Reporter
from vector_client.telemetry.events import Compared, ShadowSkipped

log = logging.getLogger(__name__)

RUNNING_MAX = 16
"""Comparisons at once; more are left out, and counted."""

CANCEL_S_MAX = 30.0
"""For a comparison that was too slow to end, before its session is closed; nobody waits for it."""

Sessions: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens a database session for a comparison: the request's own must not be used by two at once."""


class Shadow:
    """Runs comparisons as tasks of the event loop, after the answer is found."""

    def __init__(
        self, new: GuardedPath, deadline_s: float, report: Reporter, clock: Callable[[], float],
        sessions: Sessions | None,
    ) -> None:  # fmt: skip
        self._new = new
        self._deadline_s = deadline_s
        self._report = report
        self._clock = clock
        self._sessions = sessions
        self._running: set[asyncio.Task[None]] = set()

    def compare(self, question: Question, shown: Neighbours, old_s: float) -> None:
        """Begin to compare; returns at once."""
        if len(self._running) >= RUNNING_MAX:
            self._report(ShadowSkipped())
            return
        own = Question(question.query, question.top_k, question.exclude_ids)
        task = asyncio.get_running_loop().create_task(self._compare(own, list(shown), old_s))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def finish(self) -> None:
        """Wait for the comparisons that run."""
        await asyncio.gather(*self._running)

    async def close(self) -> None:
        """Cancel the comparisons that run, and wait for their end."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, question: Question, shown: Neighbours, old_s: float) -> None:
        began = self._clock()
        try:
            if self._sessions is None:
                found = await self._new.ask(None, question, self._deadline_s, "shadow")
            else:
                async with self._sessions() as session:
                    try:
                        found = await self._new.ask(session, question, self._deadline_s, "shadow")
                    finally:
                        await question.wait_for_cancelled(CANCEL_S_MAX)
        except VectorClientError as exc:
            log_event(log, logging.INFO, "shadow_failed", path=self._new.name, why=exc)
            return
        except Exception as exc:
            log_event(log, logging.ERROR, "shadow_failed", exc, path=self._new.name)
            return
        difference = compared(shown, found)
        event = Compared(difference.overlap, difference.distance, old_s, self._clock() - began)
        log_event(
            log, logging.INFO, "shadow_compared",
            overlap=event.overlap,
            distance_difference=event.distance_difference,
            old_ms=event.old_s * 1000,
            new_ms=event.new_s * 1000,
            missing=difference.missing[:10],
            added=difference.added[:10],
        )  # fmt: skip
        self._report(event)


@dataclass(frozen=True, slots=True)
class Difference:
    """overlap: share of the old ids that are among the new ones; 1.0 where the old answer is empty too.
    distance: the largest difference, of the ids that both have. missing, added: ids, in their order."""

    overlap: float
    distance: float | None
    missing: list[Any]
    added: list[Any]


def compared(old: Neighbours, new: Neighbours) -> Difference:
    """Return how two answers to one question differ."""
    before, after = dict(old), dict(new)
    shared = [each for each in before if each in after]
    overlap = len(shared) / len(before) if before else float(not after)
    distance = max((abs(before[each] - after[each]) for each in shared), default=None)
    missing = [each for each in before if each not in after]
    return Difference(overlap, distance, missing, [each for each in after if each not in before])
