"""Two searchers that obey, and everything that stands over them in a move."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vector_client.errors import (
    Unavailable,
)
from vector_client.recommend.port import Neighbours
from vector_client.retries import Timing
from vector_client.rollout.breaker import Breaker
from vector_client.rollout.moving import MovingRecommender, Plan
from vector_client.rollout.path import GuardedPath, Reporter
from vector_client.rollout.shadow import Shadow
from vector_client.rollout.step_back import StepBackGuard
from vector_client.settings import BreakerLimits, StepBack
from vector_client.telemetry.events import Event, Switched
from vector_client.types import Id


@dataclass(slots=True)
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Searcher:
    """Answers `found`; raises or waits first where told to. takes_s is what it costs on the clock.
    ends_after_s: how long a cancelled call goes on. ended: how many of them are over."""

    found: Neighbours
    clock: Clock
    failure: Exception | None = None
    hangs: bool = False
    ends_after_s: float = 0.0
    takes_s: float = 0.0
    ended: int = 0
    asked: list[tuple[Any, str, int, Sequence[Id] | None]] = field(default_factory=list)

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        self.asked.append((pg_db, query, top_k, exclude_ids))
        self.clock.now += self.takes_s
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(self.ends_after_s)  # as a driver that tells a silent server to cancel
                self.ended += 1
                raise
        if self.failure is not None:
            raise self.failure
        return list(self.found)


OLD: Neighbours = [(1, 0.1), (2, 0.2), (3, 0.3)]
NEW: Neighbours = [(1, 0.1), (3, 0.3004), (4, 0.4)]


class Stage:
    """A moving recommender and everything around it that a test looks at."""

    def __init__(
        self, *, rollout: float = 100, shadow: float = 0, deadline_s: float = 60, **limits: Any
    ) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.old = Searcher(OLD, self.clock)
        self.new = Searcher(NEW, self.clock)
        report = Reporter(self.events.append)
        breaker = BreakerLimits(limits.get("failures", 5), limits.get("rest_s", 5.0))
        paths = [
            GuardedPath(name, searcher, Breaker(name, breaker, self.clock), report, self.clock)
            for name, searcher in (("db", self.old), ("remote_store", self.new))
        ]
        guard = StepBackGuard(limits.get("step_back", StepBack()), self.clock)
        self.shadow = Shadow(paths[1], deadline_s, report, self.clock, None)
        self.chance = 0.0
        self.moving = MovingRecommender(
            paths[0], paths[1], Plan(rollout, shadow, deadline_s, str), guard, self.shadow, report,
            Timing(self.clock, lambda: self.chance),
        )  # fmt: skip

    async def ask(self, query: str = "갈비탕", session: Any = None) -> Neighbours:
        return await self.moving.find_similar_ids(session, query, 3, [9])

    def switches(self) -> list[tuple[str, str]]:
        return [(each.path, each.state) for each in self.events if isinstance(each, Switched)]


def unavailable() -> Unavailable:
    return Unavailable(503, "overloaded", "busy")
