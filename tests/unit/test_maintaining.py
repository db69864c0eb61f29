"""The child process beside the workers: started, started again when it dies, ended, and told of."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from service.app.health.maintenance_status import STATUS_FILE, maintenance_status
from service.server.maintenance_process import Maintainer

SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def eventually(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_killed_child_is_started_again_and_both_are_told(tmp_path: Path) -> None:
    assert maintenance_status(tmp_path).word == "off"
    maintainer = Maintainer(SLEEPS, tmp_path, first_pause_s=0.05)
    maintainer.start()
    try:
        assert maintenance_status(tmp_path).word == "up"
        assert maintainer._child is not None
        os.kill(maintainer._child.pid, signal.SIGKILL)
        eventually(lambda: maintenance_status(tmp_path).word == "down" or _restarts(tmp_path) == 1)
        eventually(lambda: _restarts(tmp_path) == 1)
        assert maintenance_status(tmp_path).word == "up"
    finally:
        maintainer.close()
    assert maintenance_status(tmp_path).word == "off"
    assert maintainer._child is not None and maintainer._child.poll() is not None


def _restarts(data_dir: Path) -> int:
    return maintenance_status(data_dir).restarts


def test_a_child_that_always_dies_is_not_started_in_a_loop(tmp_path: Path) -> None:
    maintainer = Maintainer([sys.executable, "-c", "raise SystemExit(1)"], tmp_path, first_pause_s=0.2)
    maintainer.start()
    time.sleep(1.0)
    maintainer.close()
    assert maintainer._restarts <= 3


def test_what_a_dead_parent_left_reads_as_down(tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).write_text('{"pid": 99999999, "restarts": 2}')
    assert maintenance_status(tmp_path).word == "down"
    (tmp_path / STATUS_FILE).write_text("torn")
    assert maintenance_status(tmp_path).word == "off"
