"""What the environment says, read once: where the service is, and how a backend moves to it and back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeAlias, cast, get_args

from vector_client.errors import SettingsWrong
from vector_client.log_events import log_event
from vector_client.protocol.call import Address
from vector_client.retries import Limits
from vector_client.types import Keys

Mode: TypeAlias = Literal["local", "db", "remote_embed", "remote_store"]
"""local, db: the backend's own model and pgvector. remote_embed: the service's model, pgvector. remote_store:
the service alone."""

log = logging.getLogger(__name__)

NAMES = frozenset(
    {
        "ML_BREAKER_FAILURES", "ML_BREAKER_REST_S", "ML_CONNECTIONS_MAX", "ML_EMBEDDING_VERSION",
        "ML_FALLBACK_MODE", "ML_HEDGE_MS", "ML_INFERENCE_URL", "ML_LOCAL_MODEL", "ML_MODE", "ML_RETRIES",
        "ML_ROLLOUT_PERCENT", "ML_SHADOW_PERCENT", "ML_STEP_BACK_CALLS", "ML_STEP_BACK_ERRORS_PERCENT",
        "ML_STEP_BACK_MS_P95", "ML_STEP_BACK_REST_S", "ML_STEP_BACK_WINDOW_S", "ML_TIMEOUT",
    }
)  # fmt: skip
"""What is read here. Other names that begin with ML_ may be the backend's own: they are no mistake."""
SLIP_LIKENESS = 0.85
LOCAL_MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """url: ML_INFERENCE_URL. limits: ML_TIMEOUT (seconds, of a call with all its repeats), ML_RETRIES,
    ML_HEDGE_MS. keys: SEARCH_API_KEY, WRITE_API_KEY, ADMIN_API_KEY; the first of each list."""

    url: str
    keys: Keys
    limits: Limits

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> ClientSettings:
        """Read `environ`, or this process's own. Raises SettingsWrong with every mistake found."""
        reader = _Reader(os.environ if environ is None else environ)
        settings = reader.client()
        reader.raise_mistakes()
        return settings


@dataclass(frozen=True, slots=True)
class StepBack:
    """When the new path is left by itself: errors_percent or latency_ms_p95 (0: not watched) of its last
    `calls` within `window_s` are over the limit. It is tried again after `rest_s`."""

    errors_percent: float = 5.0
    latency_ms_p95: float = 0.0
    calls: int = 50
    window_s: float = 60.0
    rest_s: float = 300.0


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """failures in a row that open the breaker; after rest_s one call tries again."""

    failures: int = 5
    rest_s: float = 5.0


@dataclass(frozen=True, slots=True)
class MoveSettings:
    """How recommendations are answered.

    mode: ML_MODE, the path that answers. fallback_mode: ML_FALLBACK_MODE, the other path. It answers the keys
    outside rollout_percent, and every call in which ML_MODE fails; None: there is no other path.
    shadow_percent: of the calls that the other path answers, those that ML_MODE is asked too, to compare.
    local_model: ML_LOCAL_MODEL, for the modes local and db where the backend brings no model of its own.
    embedding_version: ML_EMBEDDING_VERSION, of the vectors in pgvector, for remote_embed.
    """

    client: ClientSettings
    mode: Mode
    fallback_mode: Mode | None
    rollout_percent: float
    shadow_percent: float
    breaker: BreakerLimits
    step_back: StepBack
    local_model: str = LOCAL_MODEL
    embedding_version: str = ""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> MoveSettings:
        """Read `environ`, or this process's own. Raises SettingsWrong with every mistake found."""
        reader = _Reader(os.environ if environ is None else environ)
        settings = cls(
            client=reader.client(),
            mode=reader.mode("ML_MODE") or "db",
            fallback_mode=reader.mode("ML_FALLBACK_MODE"),
            rollout_percent=reader.number("ML_ROLLOUT_PERCENT", 100, 0, 100),
            shadow_percent=reader.number("ML_SHADOW_PERCENT", 0, 0, 100),
            breaker=BreakerLimits(
                int(reader.number("ML_BREAKER_FAILURES", 5, 1, 1000)),
                reader.number("ML_BREAKER_REST_S", 5, 0.01, 3600),
            ),
            step_back=StepBack(
                reader.number("ML_STEP_BACK_ERRORS_PERCENT", 5, 0.1, 100),
                reader.number("ML_STEP_BACK_MS_P95", 0, 0, 60_000),
                int(reader.number("ML_STEP_BACK_CALLS", 50, 1, 100_000)),
                reader.number("ML_STEP_BACK_WINDOW_S", 60, 1, 3600),
                reader.number("ML_STEP_BACK_REST_S", 300, 0.01, 86_400),
            ),
            local_model=reader.text("ML_LOCAL_MODEL") or LOCAL_MODEL,
            embedding_version=reader.text("ML_EMBEDDING_VERSION"),
        )
        if settings.fallback_mode is None and (settings.rollout_percent < 100 or settings.shadow_percent > 0):
            reader.mistakes.append(
                "ML_FALLBACK_MODE: needed with ML_ROLLOUT_PERCENT below 100 or ML_SHADOW_PERCENT: "
                "it names the path that answers the others"
            )
        reader.raise_mistakes()
        return settings


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.mistakes: list[str] = []

    def client(self) -> ClientSettings:
        url = self._environ.get("ML_INFERENCE_URL") or "http://uhok-ml-inference:8080"
        try:
            Address.of(url)
        except ValueError as exc:
            self.mistakes.append(f"ML_INFERENCE_URL: {exc}")
        limits = Limits(
            deadline_s=self.number("ML_TIMEOUT", 3, 0.01, 600),
            retries=int(self.number("ML_RETRIES", 2, 0, 10)),
            connections_max=int(self.number("ML_CONNECTIONS_MAX", 100, 1, 10_000)),
            hedge_s=self.number("ML_HEDGE_MS", 0, 0, 60_000) / 1000 or None,
        )
        return ClientSettings(
            url, Keys(*(self._first(f"{n}_API_KEY") for n in ("SEARCH", "WRITE", "ADMIN"))), limits
        )

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name)
        try:
            value = float(text) if text else float(default)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            self.mistakes.append(f"{name}: {low:g} to {high:g} expected, got {text!r}")
            return default
        return value

    def text(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def mode(self, name: str) -> Mode | None:
        text = self.text(name)
        if text and text not in get_args(Mode):
            self.mistakes.append(f"{name}: one of {', '.join(get_args(Mode))} expected, got {text!r}")
            return None
        return cast(Mode, text) if text else None

    def raise_mistakes(self) -> None:
        """Raise SettingsWrong with every mistake; warn of names that look like a slip of the pen."""
        for name in sorted(self._environ.keys() - NAMES):
            meant = get_close_matches(name, NAMES, 1, SLIP_LIKENESS) if name.startswith("ML_") else []
            if meant:
                log_event(log, logging.WARNING, "unknown_variable", variable=name, meant=meant[0])
        if self.mistakes:
            raise SettingsWrong("; ".join(self.mistakes))

    def _first(self, name: str) -> str:
        """Several keys may stand in a variable while they are rotated; any of them opens."""
        return next(iter(self._environ.get(name, "").replace(",", " ").split()), "")
