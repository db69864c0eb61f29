"""What this process keeps of memory that it has freed, and whether another process still runs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""As malloc.h has them."""
_KEPT_BYTES_MAX: Final = 4 << 20
_SET_FROM_OUTSIDE: Final = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def bound_kept_memory(environ: Mapping[str, str]) -> None:
    """Let the C library keep 4 MiB of freed memory at the end of each of its arenas, and no freed block
    that is larger; without this both limits grow with the largest block that was ever freed, to 64 and
    32 MiB (docs/decisions/0106). Call once, early. Does nothing where `environ`, this process's, has
    set them, or where the C library is not glibc."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None or any(name in environ for name in _SET_FROM_OUTSIDE):
        return
    set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES_MAX)
    set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


def give_memory_back() -> None:
    """Return freed pages in the middle of the C library's arenas to the system (2 to 14 ms, without the
    interpreter's lock). Safe from any thread. Does nothing where the C library is not glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
