"""Stops writing before the disk is full, while there is still room to checkpoint and to search."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

FreeBytes: TypeAlias = Callable[[Path], int]

RESERVE_BYTES = 64 * 1024 * 1024


def free_bytes(directory: Path) -> int:
    """Bytes that this process may still write on the directory's disk. Raises OSError."""
    return shutil.disk_usage(directory).free


class DiskGuard:
    """Says whether a directory's disk has room left. Asked before every transaction, so writes go on by
    themselves once there is room again."""

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
