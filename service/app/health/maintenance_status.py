"""Whether the maintenance process runs, as any process that shares its data directory can tell."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from index_store.processes import is_running

STATUS_FILE = "maintenance.json"


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """up: it runs. down: it should run and will be started again soon. off: it is not configured."""

    word: Literal["up", "down", "off"]
    restarts: int = 0


def maintenance_status(data_dir: Path) -> MaintenanceStatus:
    """Return what holds now, from any process that shares `data_dir`."""
    try:
        told = json.loads((data_dir / STATUS_FILE).read_text())
        process_id, restarts = int(told["pid"]), int(told["restarts"])
    except (OSError, ValueError, KeyError, TypeError):
        return MaintenanceStatus("off")
    if process_id == 0:  # ended in order
        return MaintenanceStatus("off")
    return MaintenanceStatus("up" if is_running(process_id) else "down", restarts)
