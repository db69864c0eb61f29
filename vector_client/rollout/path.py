"""One path of recommendations, guarded: breaker, time limit, and a note of every outcome."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vector_client.errors import BadRequest, CircuitOpen, Conflict, NotFound, TimedOut
from vector_client.recommend.port import Neighbours, VectorSearcherPort
from vector_client.rollout.breaker import Breaker
from vector_client.telemetry.events import Asked, Event, Observer, Role, Switched
from vector_client.types import Id

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """What VectorSearcherPort.find_similar_ids is given, but for the session."""

    query: str
    top_k: int
    exclude_ids: Sequence[Id] | None


@dataclass(frozen=True, slots=True)
class Reporter:
    """Hands events to the backend's observer; an observer that fails costs no answer."""

    observe: Observer | None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Switched):
            fields = {"path": event.path, "state": event.state, "reason": event.reason}
            log.warning("path_switched", extra=fields)
        if self.observe is None:
            return
        try:
            self.observe(event)
        except Exception:
            log.exception("observer_failed")


def is_the_questions_fault(failure: Exception) -> bool:
    """Return whether the service itself refused the question: the path works. A refusal without a code of
    the service comes from something between (a proxy's 413 or 431) and counts as a failure."""
    if not isinstance(failure, BadRequest | NotFound | Conflict):
        return False
    return not failure.code.startswith("http_")


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
                self._report(Asked(self.name, role, 0.0, CircuitOpen.__name__))
                raise
        began = self._clock()
        try:
            found = await asyncio.wait_for(self._found(pg_db, question), limit_s)
        except TimeoutError as exc:
            self._note_failure(role, began, TimedOut.__name__, counts=True)
            raise TimedOut(f"{self.name}: no answer within {limit_s:.3g} s") from exc
        except Exception as exc:
            self._note_failure(role, began, type(exc).__name__, not is_the_questions_fault(exc))
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._report(Asked(self.name, role, self._clock() - began))
        if self._breaker.succeeded():
            self._report(Switched(self.name, "closed"))
        return found

    async def _found(self, pg_db: Any, question: Question) -> Neighbours:
        return await self._searcher.find_similar_ids(
            pg_db, question.query, question.top_k, question.exclude_ids
        )

    def _note_failure(self, role: Role, began: float, error: str, counts: bool) -> None:
        self._report(Asked(self.name, role, self._clock() - began, error))
        if not counts:
            if self._breaker.succeeded():
                self._report(Switched(self.name, "closed"))
        elif self._breaker.failed():
            self._report(Switched(self.name, "open", error))
