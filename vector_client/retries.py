"""When a failed call is sent again: one deadline over all attempts, and only where it is safe. No I/O."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from vector_client.errors import Disconnected, NoAnswer, Refused, TimedOut, VectorClientError

STATUSES_THAT_PASS = frozenset({429, 502, 503, 504})
CODES_THAT_LAST = frozenset({"model_unavailable", "read_only", "store_damaged"})
"""503 answers that no retry within seconds changes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """deadline_s: of a call, all its attempts and the waits between them. retries: attempts after the first.
    attempt_s: of one attempt; None: the whole deadline. backoff_s doubles, with full jitter, up to
    backoff_s_max. connections_max: kept open between calls; the async client queues calls beyond it.
    hedge_s: a read that is not answered by then is sent a second time (async client only; None: never)."""

    deadline_s: float = 10.0
    retries: int = 2
    attempt_s: float | None = None
    backoff_s: float = 0.1
    backoff_s_max: float = 10.0
    connections_max: int = 100
    hedge_s: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Clock and chance, so that a test can replace them. clock: seconds that never go back."""

    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random


class Attempts:
    """The attempts of one call. Not shared between threads."""

    def __init__(self, limits: Limits, timing: Timing, repeats_on_timeout: bool) -> None:
        self._limits = limits
        self._timing = timing
        self._repeats_on_timeout = repeats_on_timeout
        self._ends = timing.clock() + limits.deadline_s
        self._repeated = 0
        self._replaced = False

    def next_s(self) -> float:
        """Return how many seconds the next attempt may take. Raises TimedOut when none are left."""
        left_s = self._ends - self._timing.clock()
        if left_s <= 0:
            raise TimedOut(f"no answer within {self._limits.deadline_s} s")
        return min(left_s, self._limits.attempt_s or math.inf)

    def wait_s(self, failure: VectorClientError) -> float | None:
        """Return how many seconds to wait before the next attempt; None: the failure is final.

        A connection that broke is replaced once, at once, and does not count as a repeat: the service may
        have closed a pooled connection between two calls. A wait that would pass the deadline is not begun.
        """
        if isinstance(failure, Disconnected) and not self._replaced:
            self._replaced = True
            return 0.0
        if self._repeated >= self._limits.retries or not self._may_pass(failure):
            return None
        ceiling = min(self._limits.backoff_s * float(2**self._repeated), self._limits.backoff_s_max)
        self._repeated += 1
        asked_s = failure.retry_after_s if isinstance(failure, Refused) else None
        wait_s = max(asked_s or 0.0, ceiling * self._timing.jitter())
        return wait_s if self._timing.clock() + wait_s < self._ends else None

    def _may_pass(self, failure: VectorClientError) -> bool:
        """Writes are repeated after a broken connection (they are idempotent, and what a dead connection
        carried is applied before it broke or never), but not after silence: the first may still come."""
        if isinstance(failure, TimedOut):
            return self._repeats_on_timeout
        if isinstance(failure, Refused):
            return failure.status in STATUSES_THAT_PASS and failure.code not in CODES_THAT_LAST
        return isinstance(failure, NoAnswer)
