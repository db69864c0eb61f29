"""What keeps a collection from being followed: said, counted, and waited out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from feeder.errors import FeederError, ImportRefused, ServiceDown, SettingsWrong, SourceDown
from feeder.metrics import Metrics

log = logging.getLogger(__name__)


class Stop(Protocol):
    """Says when to end; `threading.Event` fits."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float) -> bool: ...


class Interruptions:
    """What keeps one collection from being followed: said, counted, and waited out. jitter: 0..1."""

    def __init__(
        self,
        collection: str,
        metrics: Metrics,
        jitter: Callable[[], float],
        first_s: float = 0.5,
        highest_s: float = 60.0,
        refused_s: float = 5.0,
    ) -> None:
        self._collection = collection
        self._metrics = metrics
        self._jitter = jitter
        self._first_s = first_s
        self._highest_s = highest_s
        self._refused_s = refused_s
        self._in_a_row = 0

    def over(self) -> None:
        if self._in_a_row:
            log.info("sync_resumed", extra={"collection": self._collection})
        self._in_a_row = 0
        self._metrics.following(self._collection, True)

    def note(self, exc: FeederError) -> float:
        """Return how many seconds to wait: the pause doubles, with full jitter."""
        self._in_a_row += 1
        kind = type(exc).__name__
        self._metrics.following(self._collection, False)
        self._metrics.failed(self._collection, kind)
        ceiling = min(self._first_s * 2.0 ** min(self._in_a_row, 16), self._highest_s)
        wait_s = ceiling * self._jitter()
        if isinstance(exc, ImportRefused | SettingsWrong):
            wait_s = max(wait_s, self._refused_s)  # no link that is back at once, and looking again is dear
        log.log(
            logging.WARNING if isinstance(exc, SourceDown | ServiceDown) else logging.ERROR,
            "sync_interrupted",
            extra={
                "collection": self._collection,
                "kind": kind,
                "why": str(exc),
                "in_a_row": self._in_a_row,
                "again_in_s": round(wait_s, 1),
            },
        )
        return wait_s
