"""An event loop whose clock jumps: sleeps and timeouts take no real time, and their order stays the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: `jumped_s` grows by what the loop would have waited."""

    jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select()
        ready = super().select(0)
        if not ready:
            self.jumped_s += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.jumped_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on a clock that begins at 0. For work without threads: nothing waits for them."""
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        return runner.run(work)
