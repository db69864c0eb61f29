"""The child process beside the workers: started, started again when it dies, ended, and told of."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from service.app.health.maintenance_status import STATUS_FILE, maintenance_status
from service.server.maintenance_process import Maintainer

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
DIES = [sys.executable, "-c", "raise SystemExit(1)"]


class Pauses:
    """Waits before starts, recorded. The one numbered `held` lasts until `go_on`, all others no time."""

    def __init__(self, held: int) -> None:
        self.seconds: list[float] = []
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._held = held

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == self._held:
            self.reached.set()
            assert self.go_on.wait(20)


def test_a_killed_child_is_started_again_and_both_are_told(tmp_path: Path) -> None:
    assert maintenance_status(tmp_path).word == "off"
    first = Pauses(held=1)
    maintainer = Maintainer(SLEEPS, tmp_path, first)
    maintainer.start()
    try:
        assert maintenance_status(tmp_path).word == "up"
        assert maintainer._child is not None
        os.kill(maintainer._child.pid, signal.SIGKILL)
        assert first.reached.wait(20)
        assert maintenance_status(tmp_path).word == "down"
    finally:
        first.go_on.set()
        maintainer.close()
    assert maintenance_status(tmp_path).word == "off"
    assert maintainer._child.poll() is not None


def test_a_child_that_always_dies_is_started_at_ever_longer_intervals(tmp_path: Path) -> None:
    pauses = Pauses(held=9)
    maintainer = Maintainer(DIES, tmp_path, pauses)
    maintainer.start()
    try:
        assert pauses.reached.wait(20)
        status = maintenance_status(tmp_path)
        assert (status.word, status.restarts) == ("down", 8)
        assert pauses.seconds == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    finally:
        pauses.go_on.set()
        maintainer.close()


def test_what_a_dead_parent_left_reads_as_down(tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).write_text('{"pid": 99999999, "restarts": 2}')
    assert maintenance_status(tmp_path).word == "down"
    (tmp_path / STATUS_FILE).write_text("torn")
    assert maintenance_status(tmp_path).word == "off"
