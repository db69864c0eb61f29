"""Waiting for what must come about, however busy the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0
"""How long a test waits before it fails. It costs nothing where the thing comes, and a short wait fails on a
busy machine. A time that is itself promised is stated in its test."""

STOP_LOOK_S = 0.01
"""How often a server of a test looks whether it is to end. The library's half a second is added to each test
that ends one."""


def until(holds: Callable[[], bool], what: str = "it", every_s: float = 0.01) -> None:
    """Return when `holds()` is true; fail after PATIENCE_S."""
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up, f"{what} did not come about within {PATIENCE_S:g} s"
        threading.Event().wait(every_s)
