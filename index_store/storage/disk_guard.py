"""Refuses writes before the disk is full, and stores before this process has opened all its files."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

FreeBytes: TypeAlias = Callable[[Path], int]

log = logging.getLogger(__name__)

BALLAST_FILE = "ballast"
_BALLAST_BYTES = 4 * 1024 * 1024
RESERVE_BYTES = 64 * 1024 * 1024

_FILES_KEPT_FREE = 12
"""For connections: a process that opened stores with its last files could not be asked what is wrong."""


def free_bytes(directory: Path) -> int:
    """Bytes that this process may still write on the directory's disk. Raises OSError."""
    return shutil.disk_usage(directory).free


class DiskGuard:
    """Whether a directory's disk has room left. Checked before every transaction, so writes are accepted
    again as soon as there is room."""

    def __init__(
        self, directory: Path, reserve_bytes: int = RESERVE_BYTES, free: FreeBytes = free_bytes
    ) -> None:
        self._directory = directory
        self._reserve_bytes = reserve_bytes
        self._free = free

    def problem(self) -> str | None:
        """A sentence when too little is free, else None."""
        free = self._free(self._directory)
        if free >= self._reserve_bytes:
            return None
        return (
            f"the disk is nearly full ({free >> 20} MiB free, {self._reserve_bytes >> 20} MiB are kept): "
            "searches go on, writes wait for room"
        )


class Ballast:
    """A file whose room is given up when the disk is full: SQLite needs some 32 KiB next to each store to
    open it, and after a clean stop a full disk would have none."""

    def __init__(self, directory: Path, free: FreeBytes = free_bytes) -> None:
        self._path = directory / BALLAST_FILE
        self._free = free

    def refill(self, reserve_bytes: int) -> None:
        """Make the file again if that leaves `reserve_bytes` free. Raises nothing: a failure is logged."""
        try:
            if self._path.exists() or self._free(self._path.parent) < _BALLAST_BYTES + reserve_bytes:
                return
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _BALLAST_BYTES)
        except OSError as exc:
            log.warning("ballast_not_kept", extra={"path": str(self._path), "error": str(exc)})

    def release_if_full(self) -> bool:
        """Remove the file if less than its size is free; return whether the disk is that full. Raises
        OSError."""
        if self._free(self._path.parent) >= _BALLAST_BYTES:
            return False
        self._path.unlink(missing_ok=True)
        log.error("ballast_released", extra={"path": str(self._path)})
        return True


def require_free_files(wanted: int) -> None:
    """Raise OSError (EMFILE) when `wanted` files can't be opened without using up those kept free."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except FileNotFoundError:
        return  # a system without /proc: opening will fail by itself
    if used + wanted + _FILES_KEPT_FREE > soft:
        raise OSError(errno.EMFILE, f"{used} of {soft} files are open, {wanted} more are needed")
