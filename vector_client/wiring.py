"""From the environment to the port: ML_MODE chooses what stands behind it, a restart changes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from vector_client.async_client import AsyncVectorClient
from vector_client.errors import SettingsWrong
from vector_client.recommend.drivers import sqlalchemy_rows
from vector_client.recommend.local_model import LocalModel
from vector_client.recommend.pgvector import PgTable, Rows
from vector_client.recommend.port import VectorSearcherPort
from vector_client.recommend.searchers import (
    DBVectorRecommender,
    Encode,
    RemoteDBVectorRecommender,
    RemoteVectorStoreRecommender,
)
from vector_client.retries import Timing
from vector_client.rollout.breaker import Breaker
from vector_client.rollout.moving import MovingRecommender, Plan
from vector_client.rollout.path import GuardedPath, ObservedRecommender, Reporter
from vector_client.rollout.shadow import Sessions, Shadow
from vector_client.rollout.step_back import StepBackGuard
from vector_client.settings import Mode, MoveSettings
from vector_client.telemetry.events import Observer

OWN_MODEL: frozenset[Mode] = frozenset({"local", "db"})
"""Two names of one path: the backend's model and its pgvector."""
NEEDS_NO_SESSION: frozenset[Mode] = frozenset({"remote_store"})


@dataclass(frozen=True, slots=True)
class Backend:
    """What the backend brings.

    encode: its model; None: sentence-transformers with ML_LOCAL_MODEL. table, rows: its vectors and
    driver. collection: of the service; None: the default one for text. sessions: opens a database session for
    comparisons; needed when the compared path asks pgvector. key_of: who asks, from the query, for the
    rollout share (a string or a number; None or "": the query itself decides, as it does by default).
    observe: takes every event.
    """

    encode: Encode | None = None
    table: PgTable = field(default_factory=PgTable)
    rows: Rows = sqlalchemy_rows
    collection: str | None = None
    sessions: Sessions | None = None
    key_of: Callable[[str], Any] = str
    observe: Observer | None = None


class Recommenders:
    """Holds `searcher`, the backend's VectorSearcherPort, and what has to be closed. For one event loop;
    make one at start-up and keep it."""

    def __init__(
        self, settings: MoveSettings, backend: Backend | None = None, timing: Timing | None = None
    ) -> None:
        self.settings = settings
        self.client = AsyncVectorClient.to(settings.client.url, settings.client.keys, settings.client.limits)
        self._backend = backend or Backend()
        self._timing = timing or Timing(time.monotonic)
        self._closes: list[Any] = [self.client]
        self.searcher: VectorSearcherPort = self._wired()

    @classmethod
    def from_env(
        cls, backend: Backend | None = None, environ: Mapping[str, str] | None = None
    ) -> Recommenders:
        """Return what ML_MODE and its companions say (MoveSettings). Raises SettingsWrong."""
        return cls(MoveSettings.from_env(environ), backend)

    async def __aenter__(self) -> Recommenders:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the client and end comparisons; the searcher can no longer be used."""
        for each in reversed(self._closes):
            await each.close()

    def _wired(self) -> VectorSearcherPort:
        settings, other = self.settings, self.settings.fallback_mode
        report = Reporter(self._backend.observe)
        if other is None or other == settings.mode or {other, settings.mode} == OWN_MODEL:
            path = self._path_of(settings.mode)
            return ObservedRecommender(settings.mode, path, report, self._timing.clock)
        old, new = (self._guarded(mode, report) for mode in (other, settings.mode))
        deadline_s = settings.client.limits.deadline_s
        if settings.shadow_percent and settings.mode not in NEEDS_NO_SESSION and not self._backend.sessions:
            raise SettingsWrong(
                f"ML_SHADOW_PERCENT with ML_MODE={settings.mode} needs Backend.sessions: the comparison asks "
                "pgvector while the request uses its own session"
            )
        sessions = None if settings.mode in NEEDS_NO_SESSION else self._backend.sessions
        shadow = Shadow(new, deadline_s, report, self._timing.clock, sessions)
        plan = Plan(settings.rollout_percent, settings.shadow_percent, deadline_s, self._backend.key_of)
        guard = StepBackGuard(settings.step_back, self._timing.clock)
        moving = MovingRecommender(old, new, plan, guard, shadow, report, self._timing)
        self._closes.append(moving)
        return moving

    def _guarded(self, mode: Mode, report: Reporter) -> GuardedPath:
        clock = self._timing.clock
        breaker = Breaker(mode, self.settings.breaker, clock)
        return GuardedPath(mode, self._path_of(mode), breaker, report, clock)

    def _path_of(self, mode: Mode) -> VectorSearcherPort:
        backend = self._backend
        if mode == "remote_store":
            return RemoteVectorStoreRecommender(self.client, backend.collection)
        if mode == "remote_embed":
            return RemoteDBVectorRecommender(
                self.client, backend.table, backend.rows, backend.collection, self.settings.embedding_version
            )
        encode = backend.encode or LocalModel(self.settings.local_model).encode
        local = DBVectorRecommender(encode, backend.table, backend.rows)
        self._closes.append(local)
        return local
