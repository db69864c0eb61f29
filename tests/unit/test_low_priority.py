"""Work beside the searches runs at low priority, and as a batch."""

from __future__ import annotations

import os
import subprocess
import sys

from service.server.job_worker import low_priority

_TELL = "import os; print(os.nice(0), os.sched_getscheduler(0))"


def told(code: str, prefix: bool) -> list[int]:
    command = [sys.executable, "-c", code]
    found = subprocess.run(low_priority(command) if prefix else command, capture_output=True, check=True)
    return [int(each) for each in found.stdout.split()]


def test_a_command_is_run_as_a_batch_of_low_priority() -> None:
    assert told(_TELL, prefix=True) == [max(10, min(19, os.nice(0) + 10)), os.SCHED_BATCH]


def test_maintenance_that_somebody_starts_by_hand_makes_itself_one() -> None:
    lower = "from index_store.maintenance.worker import lower_priority; lower_priority(); " + _TELL
    assert told(lower, prefix=False) == [max(10, os.nice(0)), os.SCHED_BATCH]
