"""The port over two paths: who is answered by the new one, what happens when a path fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vector_client.errors import CircuitOpen, PathFailed, VectorClientError
from vector_client.log_events import log_event
from vector_client.recommend.port import Neighbours
from vector_client.retries import Timing
from vector_client.rollout.path import GuardedPath, Question, Reporter, is_the_questions_fault
from vector_client.rollout.shadow import Shadow
from vector_client.rollout.share import is_in_share
from vector_client.rollout.step_back import StepBackGuard
from vector_client.telemetry.events import Switched
from vector_client.types import Id

log = logging.getLogger(__name__)

FIRST_SHARE = 0.7
"""Of the deadline, for the path that is asked first; the rest is the other's, so that a path that hangs
leaves time for an answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """rollout_percent: of all keys, those whom the new path answers. shadow_percent: of the old path's
    answers, those compared. deadline_s: of a call, both paths together. key_of: who asks, from the query;
    None or "" where nobody is known: then the query decides."""

    rollout_percent: float
    shadow_percent: float
    deadline_s: float
    key_of: Callable[[str], Any]


class MovingRecommender:
    """VectorSearcherPort over an old and a new path. For one event loop."""

    def __init__(
        self, old: GuardedPath, new: GuardedPath, plan: Plan, guard: StepBackGuard, shadow: Shadow,
        report: Reporter, timing: Timing | None = None,
    ) -> None:  # fmt: skip
        self._old = old
        self._new = new
        self._plan = plan
        self._guard = guard
        self._shadow = shadow
        self._report = report
        self._timing = timing or Timing(time.monotonic)
        self._has_stepped_back = False

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        """As the port says. Raises what the path asked first raised, when the other failed as well."""
        question = Question(query, top_k, exclude_ids)
        began = self._timing.clock()
        if self._is_new(query):
            return await self._by_new(pg_db, question, began)
        try:
            shown = await self._old.ask(pg_db, question, FIRST_SHARE * self._plan.deadline_s, "first")
        except Exception as exc:
            return await self._fall_back(self._new, pg_db, question, began, exc)
        if self._plan.shadow_percent and self._timing.jitter() * 100 < self._plan.shadow_percent:
            self._shadow.compare(question, shown, self._timing.clock() - began)
        return shown

    async def close(self) -> None:
        """Cancel the comparisons that run."""
        await self._shadow.close()

    def _is_new(self, query: str) -> bool:
        percent = self._plan.rollout_percent
        if percent <= 0 or (percent < 100 and not is_in_share(self._key(query), percent)):
            return False
        allowed = self._guard.allows()
        if allowed and self._has_stepped_back:
            self._has_stepped_back = False
            self._report(Switched(self._new.name, "tried_again"))
        return allowed

    def _key(self, query: str) -> str:
        """Return who asks; the query where the backend does not know, or fails to say."""
        try:
            key = self._plan.key_of(query)
        except Exception:
            log.exception("key_of_failed")
            return query
        return query if key is None or key == "" else str(key)

    async def _by_new(self, pg_db: Any, question: Question, began: float) -> Neighbours:
        try:
            found = await self._new.ask(pg_db, question, FIRST_SHARE * self._plan.deadline_s, "first")
        except Exception as exc:
            self._note(began, failed=not is_the_questions_fault(exc))
            return await self._fall_back(self._old, pg_db, question, began, exc)
        self._note(began, failed=False)
        return found

    async def _fall_back(
        self, other: GuardedPath, pg_db: Any, question: Question, began: float, failure: Exception
    ) -> Neighbours:
        if not isinstance(failure, CircuitOpen):
            known = isinstance(failure, VectorClientError)
            cause = None if known else failure
            log_event(log, logging.WARNING, "fell_back", cause, to=other.name, why=failure)
        try:
            return await other.ask(pg_db, question, self._left_s(began), "fallback")
        except Exception as exc:
            raise _typed(failure) from exc
        finally:
            await question.wait_for_cancelled(self._left_s(began))

    def _left_s(self, began: float) -> float:
        return self._plan.deadline_s - (self._timing.clock() - began)

    def _note(self, began: float, failed: bool) -> None:
        reason = self._guard.note(self._timing.clock() - began, failed)
        if reason:
            self._has_stepped_back = True
            self._report(Switched(self._new.name, "stepped_back", reason))


def _typed(failure: Exception) -> VectorClientError:
    if isinstance(failure, VectorClientError):
        return failure
    return PathFailed(f"{type(failure).__name__}: {failure}")
