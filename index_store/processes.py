"""Whether another process still runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def is_running(process_id: int) -> bool:
    """Return whether the process runs. A zombie, whose parent has not waited for it yet, does not."""
    try:
        state = (_PROC / str(process_id) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return _answers_signals(process_id) if not (_PROC / "self").exists() else False
    return state not in ("Z", "X")


def _answers_signals(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
