"""A process that maintains one directory and kills itself at the n-th effect on the disk."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance


def maintain_until(data_dir: str, fatal: int, segments_max: int, waste_share: float) -> None:
    """Exits 0 when it got through before effect number `fatal`."""
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        if seen == fatal:
            Path(data_dir, "died_at").write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    limits = MaintenanceLimits(
        seal_rows=1, segments_max=segments_max, waste_share=waste_share, disk_reserve_bytes=0
    )
    assert Maintenance(Path(data_dir), limits=limits, step=step).run_once()
