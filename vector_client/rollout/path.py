"""One path of recommendations, guarded: breaker, time limit, and a note of every outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vector_client.errors import BadRequest, CircuitOpen, Conflict, NotFound, NotSent, PathFailed, TimedOut
from vector_client.log_events import log_event
from vector_client.recommend.port import Neighbours, VectorSearcherPort
from vector_client.rollout.breaker import Breaker
from vector_client.telemetry.events import Event, Observer, PathCalled, Role, Switched
from vector_client.types import Id

log = logging.getLogger(__name__)

CANCEL_SHARE = 0.05
"""Of a path's time, to wait for its end after it was cancelled. Nearly all end at once, and leave the
request's session free for the other path."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one call of VectorSearcherPort.find_similar_ids is given, but for the session.

    cancelled: tasks of a path that was too slow. They may hold the request's session until they have ended:
    a database driver that tells a silent server to cancel takes seconds.
    """

    query: str
    top_k: int
    exclude_ids: Sequence[Id] | None
    cancelled: list[asyncio.Task[Neighbours]] = field(default_factory=list)

    async def wait_for_cancelled(self, limit_s: float) -> None:
        """Return when nothing of this call runs any more, at the latest after limit_s."""
        running = [task for task in self.cancelled if not task.done()]
        if running and limit_s > 0:
            await asyncio.wait(running, timeout=limit_s)


@dataclass(frozen=True, slots=True)
class Reporter:
    """Hands events to the backend's observer; an observer that fails costs no answer."""

    observe: Observer | None

    def __call__(self, event: Event) -> None:
        """Report one event; never raises."""
        if isinstance(event, Switched):
            log_event(
                log, logging.WARNING, "path_switched",
                path=event.path, state=event.state, reason=event.reason,
            )  # fmt: skip
        if self.observe is None:
            return
        try:
            self.observe(event)
        except Exception:
            log.exception("observer_failed")


def is_the_questions_fault(failure: Exception) -> bool:
    """Return whether the question itself was refused: the path works. A refusal without a code of the
    service comes from something between (a proxy's 413 or 431) and counts as a failure."""
    if isinstance(failure, NotSent):
        return True
    if not isinstance(failure, BadRequest | NotFound | Conflict):
        return False
    return not failure.code.startswith("http_")


class ObservedRecommender:
    """VectorSearcherPort over one path alone: every outcome is reported, nothing else changes."""

    def __init__(
        self, name: str, searcher: VectorSearcherPort, report: Reporter, clock: Callable[[], float]
    ) -> None:
        """name: of the path, in events."""
        self._name = name
        self._searcher = searcher
        self._report = report
        self._clock = clock

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        """As the port says. Raises what the path raises."""
        began = self._clock()
        try:
            found = await self._searcher.find_similar_ids(pg_db, query, top_k, exclude_ids)
        except Exception as exc:
            self._report(PathCalled(self._name, "first", self._clock() - began, type(exc).__name__))
            raise
        self._report(PathCalled(self._name, "first", self._clock() - began))
        return found


class GuardedPath:
    """Asks one searcher. For one event loop."""

    def __init__(
        self,
        name: str,
        searcher: VectorSearcherPort,
        breaker: Breaker,
        report: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._searcher = searcher
        self._breaker = breaker
        self._report = report
        self._clock = clock

    async def ask(self, pg_db: Any, question: Question, limit_s: float, role: Role) -> Neighbours:
        """Return the path's answer within limit_s. Raises what the path raises, TimedOut, CircuitOpen.

        A fall-back is asked whatever the breaker says: there is nobody else to ask.
        """
        try:
            self._breaker.enter()
        except CircuitOpen:
            if role != "fallback":
                self._report(PathCalled(self.name, role, 0.0, CircuitOpen.__name__))
                raise
        began = self._clock()
        try:
            found = await self._within(limit_s, pg_db, question)
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        except Exception as exc:
            self._note_failure(role, began, exc)
            raise
        self._report(PathCalled(self.name, role, self._clock() - began))
        if self._breaker.succeeded():
            self._report(Switched(self.name, "closed"))
        return found

    async def _within(self, limit_s: float, pg_db: Any, question: Question) -> Neighbours:
        """Ask the searcher. Raises TimedOut, whether or not what is cancelled has ended: asyncio.wait_for
        waits for that (SQLAlchemy with psycopg and a silent database: ten seconds)."""
        task = asyncio.ensure_future(
            self._searcher.find_similar_ids(pg_db, question.query, question.top_k, question.exclude_ids)
        )
        try:
            done, _ = await asyncio.wait({task}, timeout=limit_s)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if not done:
            task.cancel()
            task.add_done_callback(_outcome_is_known)
            question.cancelled.append(task)
            await asyncio.wait({task}, timeout=CANCEL_SHARE * limit_s)
            raise TimedOut(f"{self.name}: no answer within {limit_s:.3g} s")
        if task.cancelled():
            raise PathFailed(f"{self.name} cancelled itself")
        return task.result()

    def _note_failure(self, role: Role, began: float, failure: Exception) -> None:
        error = type(failure).__name__
        self._report(PathCalled(self.name, role, self._clock() - began, error))
        if is_the_questions_fault(failure):
            if self._breaker.succeeded():
                self._report(Switched(self.name, "closed"))
        elif self._breaker.failed():
            self._report(Switched(self.name, "open", error))


def _outcome_is_known(task: asyncio.Task[Neighbours]) -> None:
    """Look at the outcome, so that asyncio does not log it as an exception that nobody retrieved."""
    if not task.cancelled():
        task.exception()
