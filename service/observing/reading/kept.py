"""One reading of the metrics for everybody who takes one that is some seconds old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class KeptReading:
    """The newest reading. Safe from any thread; who asks while one is made waits for it."""

    def __init__(self, read: Callable[[], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        """read: makes a reading. clock: seconds that only go forward."""
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._kept = b""
        self._began_at: float | None = None

    def at_most(self, age_s: float) -> tuple[bytes, float]:
        """Return a reading that was begun `age_s` ago at most, and how old it is, in seconds; with 0 one that
        was begun after this call."""
        asked_at = self._clock()
        with self._lock:
            if self._began_at is None or self._began_at <= asked_at - age_s:
                began_at = self._clock()
                self._kept = self._read()
                self._began_at = began_at
            return self._kept, self._clock() - self._began_at
