"""The child process beside the workers: started, started again when it dies, ended, and told of."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from service.app.health.maintenance_status import STATUS_FILE, maintenance_status
from service.server.maintenance_process import Maintainer
from tests.waiting import until

PAUSE_S = 0.1
SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_killed_child_is_started_again_and_both_are_told(tmp_path: Path) -> None:
    assert maintenance_status(tmp_path).word == "off"
    maintainer = Maintainer(SLEEPS, tmp_path, first_pause_s=0.05)
    maintainer.start()
    try:
        assert maintenance_status(tmp_path).word == "up"
        assert maintainer._child is not None
        os.kill(maintainer._child.pid, signal.SIGKILL)
        until(lambda: maintenance_status(tmp_path).word == "down" or _restarts(tmp_path) == 1)
        until(lambda: _restarts(tmp_path) == 1)
        assert maintenance_status(tmp_path).word == "up"
    finally:
        maintainer.close()
    assert maintenance_status(tmp_path).word == "off"
    assert maintainer._child is not None and maintainer._child.poll() is not None


def _restarts(data_dir: Path) -> int:
    return maintenance_status(data_dir).restarts


@pytest.mark.long
def test_a_child_that_always_dies_is_not_started_in_a_loop(tmp_path: Path) -> None:
    maintainer = Maintainer([sys.executable, "-c", "raise SystemExit(1)"], tmp_path, first_pause_s=PAUSE_S)
    began = time.monotonic()
    maintainer.start()
    until(lambda: _restarts(tmp_path) >= 3)
    maintainer.close()
    # Each pause is twice the one before it, so n of them take 2^n - 1 of the first.
    assert time.monotonic() - began >= PAUSE_S * (2**maintainer._restarts - 1)


def test_what_a_dead_parent_left_reads_as_down(tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).write_text('{"pid": 99999999, "restarts": 2}')
    assert maintenance_status(tmp_path).word == "down"
    (tmp_path / STATUS_FILE).write_text("torn")
    assert maintenance_status(tmp_path).word == "off"
