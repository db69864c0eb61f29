"""Work beside the searches runs at low priority, and as a batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.server.job_worker import low_priority

_TELL = "import os; print(os.nice(0), os.sched_getscheduler(0))"


def told(code: str, prefix: bool) -> list[int]:
    command = [sys.executable, "-c", code]
    found = subprocess.run(low_priority(command) if prefix else command, capture_output=True, check=True)
    return [int(each) for each in found.stdout.split()]


def test_a_command_is_run_as_a_batch_of_low_priority() -> None:
    assert told(_TELL, prefix=True) == [max(10, min(19, os.nice(0) + 10)), os.SCHED_BATCH]


def test_where_a_sandbox_knows_no_batches_it_is_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "chrt"
    refusing.write_text("#!/bin/sh\necho 'failed to set policy: Invalid argument' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    niceness, _ = told(_TELL, prefix=True)
    assert niceness == max(10, min(19, os.nice(0) + 10))


@pytest.mark.long
def test_maintenance_that_somebody_starts_by_hand_makes_itself_one() -> None:
    lower = "from index_store.maintenance.worker import lower_priority; lower_priority(); " + _TELL
    assert told(lower, prefix=False) == [max(10, os.nice(0)), os.SCHED_BATCH]
