"""kill -9, a full disk and a failing one at each call that changes a file, of all upkeep: seal, merge,
rebuild, publish, backup, restore, and the steps of generations.

What is left opens, answers like a dictionary and is sound; an index that is open goes on; what failed is
reported; the next try succeeds and leaves nothing of the failed one behind. A longer form is part of
`make crash` (`--every-fault`).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.simulation.failing_calls import build_library, run_under, unsynced_renames

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1600)]

OFTEN = {"seal kill", "merge kill", "rebuild kill", "rebuild errors", "backup kill", "backup errors"}
"""Every call is tried. Of the others, which write by the same functions, every third, `make crash` all."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        assert not os.environ.get("CI"), "CI must have a C compiler"
        pytest.skip("needs Linux and a C compiler")
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.mark.parametrize("fault", ["kill", "errors"])
@pytest.mark.parametrize("job", ["seal", "merge", "rebuild", "backup", "restore", "advance"])
def test_a_fault_at_each_call(
    library: Path, tmp_path: Path, job: str, fault: str, pytestconfig: pytest.Config
) -> None:
    is_thorough = pytestconfig.getoption("--every-fault") or f"{job} {fault}" in OFTEN
    print(
        run_under(
            library, "tests.simulation.upkeep_faults", str(tmp_path), job, fault, str(3 - 2 * is_thorough)
        )
    )


def test_renames_without_syncing_are_seen() -> None:
    sound = ["create /a.tmp-", "write /a.tmp-", "sync /a.tmp-", "from /a.tmp-", "rename /a", "sync /"]
    assert unsynced_renames(sound) == []
    assert unsynced_renames([line for line in sound if line != "sync /a.tmp-"]) == ["/a.tmp-"]
    assert unsynced_renames(sound[:-1]) == ["/a"]
    inside = [
        "write /d.tmp-1/x.new",
        "from /d.tmp-1/x.new",
        "rename /d.tmp-1/x",
        "from /d.tmp-1",
        "rename /d",
    ]
    assert unsynced_renames([*inside, "sync /"]) == ["/d.tmp-1/x"]
    aside = ["write /g/acked.seq", "create /g/log", "from /g", "rename /g.old-1", "sync /"]
    assert unsynced_renames(aside) == []
    assert unsynced_renames(["write /g/log", *aside[2:]]) == ["/g/log"]
    assert unsynced_renames(["create /g/log", "write /g/log", *aside[2:]]) == ["/g/log"]
    assert unsynced_renames(aside[:-1]) == ["/g.old-1"]
