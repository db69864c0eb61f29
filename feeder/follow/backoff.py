"""What keeps a collection from being followed: said, counted, and waited out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from feeder.errors import (
    AnotherFeeder,
    FeederError,
    FeedLost,
    ImportRefused,
    ServiceDown,
    SettingsWrong,
    SourceDown,
)
from feeder.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


LEASE_PATIENCE_S = 120.0
"""How long a feeder that followed, and lost its link, waits for the lease: the database may take its old
connection for alive for that long."""


class StopSignal(Protocol):
    """Says when to end; `threading.Event` fits."""

    def is_set(self) -> bool:
        """Tell whether the feeder is to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for it; return whether it came."""


class Backoff:
    """What keeps one collection from being followed: said, counted, and waited out.

    jitter: 0..1; ticks: monotonic seconds.
    """

    def __init__(
        self,
        collection: str,
        metrics: Metrics,
        jitter: Callable[[], float],
        ticks: Callable[[], float],
        first_s: float = 0.5,
        highest_s: float = 60.0,
        refused_s: float = 5.0,
    ) -> None:
        self._collection = collection
        self._metrics = metrics
        self._jitter = jitter
        self._ticks = ticks
        self._first_s = first_s
        self._highest_s = highest_s
        self._refused_s = refused_s
        self._in_a_row = 0
        self._followed_at: float | None = None
        self._refused_at: float | None = None

    def is_final(self, exc: FeederError) -> bool:
        """Tell whether waiting can't help: what never worked, and a lease that another feeder keeps. A table
        that was there may be away for the length of a migration, and an import that was waited for lets go of
        the lease when it ends."""
        if isinstance(exc, SettingsWrong):
            return self._followed_at is None
        if not isinstance(exc, AnotherFeeder):
            return False
        last = [at for at in (self._followed_at, self._refused_at) if at is not None]
        return not last or self._ticks() - max(last) > LEASE_PATIENCE_S

    def note_progress(self) -> None:
        """Note that changes are followed: the next failure begins with the shortest pause."""
        self._followed_at = self._ticks()
        if self._in_a_row:
            log.info("sync_resumed", extra={"collection": self._collection})
        self._in_a_row = 0
        self._metrics.set_following(self._collection, True)

    def note_failure(self, exc: FeederError) -> float:
        """Return how many seconds to wait: the pause doubles, with full jitter."""
        self._in_a_row += 1
        kind = type(exc).__name__
        if isinstance(exc, ImportRefused):
            self._refused_at = self._ticks()
        self._metrics.set_following(self._collection, False)
        self._metrics.count_failure(self._collection, kind)
        ceiling = min(self._first_s * 2.0 ** min(self._in_a_row, 16), self._highest_s)
        wait_s = ceiling * self._jitter()
        if isinstance(exc, FeedLost | ImportRefused | SettingsWrong):
            wait_s = max(wait_s, self._refused_s)  # no link that is back at once, and looking again is dear
        log.log(
            logging.WARNING if isinstance(exc, SourceDown | ServiceDown) else logging.ERROR,
            "sync_interrupted",
            extra={
                "collection": self._collection,
                "kind": kind,
                "why": str(exc),
                "hint": exc.hint,
                "in_a_row": self._in_a_row,
                "again_in_s": round(wait_s, 1),
            },
        )
        return wait_s
