"""A circuit breaker: a path that keeps failing is not asked for a while, then one call tries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from vector_client.errors import CircuitOpen
from vector_client.settings import BreakerLimits

State: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """closed: all calls pass. open: none for rest_s. half_open: one call tries; its outcome decides.

    For one thread or event loop. A call that is cancelled says nothing about the path: `abandoned`.
    """

    def __init__(self, name: str, limits: BreakerLimits, clock: Callable[[], float]) -> None:
        self._name = name
        self._limits = limits
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._is_trying = False

    @property
    def state(self) -> State:
        """Return the state at this moment."""
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._is_trying or self._rest_is_over() else "open"

    def enter(self) -> None:
        """Ask to make a call. Raises CircuitOpen."""
        if self._opened_at is None:
            return
        if self._is_trying or not self._rest_is_over():
            raise CircuitOpen(f"{self._name} failed {self._failures} times in a row and is not asked for now")
        self._is_trying = True

    def succeeded(self) -> bool:
        """Note an answer; return whether it closed the breaker."""
        was_open = self._opened_at is not None
        self._failures, self._opened_at, self._is_trying = 0, None, False
        return was_open

    def failed(self) -> bool:
        """Note a failure; return whether it opened the breaker."""
        self._failures += 1
        was_open, was_trying = self._opened_at is not None, self._is_trying
        self._is_trying = False
        if was_trying or self._failures >= self._limits.failures:
            self._opened_at = self._clock()
        return self._opened_at is not None and not was_open

    def abandoned(self) -> None:
        """Note that a call was cancelled: it says nothing about the path."""
        self._is_trying = False

    def _rest_is_over(self) -> bool:
        return self._opened_at is not None and self._clock() - self._opened_at >= self._limits.rest_s
