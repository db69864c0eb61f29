"""Log lines that a newcomer reads first do not look like errors; files of counts have room for them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.observing.request_log import configure_logging


def test_builds_of_faiss_that_are_not_there_are_no_news() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info")
        assert not logging.getLogger("faiss.loader").isEnabledFor(logging.INFO)
        assert logging.getLogger("service").isEnabledFor(logging.INFO)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.long
def test_files_that_workers_share_have_no_holes(tmp_path: Path) -> None:
    """A first write into one while the disk is full would end the process."""
    script = """
import sys
from pathlib import Path
from service.observing.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]))
for number in range(1500):
    metrics.written(f"collection-{number}", 1, 1, 1)
metrics.exposition()
"""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environ, check=True, timeout=60)
    files = list(tmp_path.glob("*.db"))
    assert {file.name.partition("_")[0] for file in files} == {"counter", "gauge"}
    for file in files:
        about = file.stat()
        assert about.st_size == 1 << 20 and about.st_blocks * 512 >= about.st_size, file
