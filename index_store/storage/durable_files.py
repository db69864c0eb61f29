"""Small files and directories that survive a power cut, and the lock that processes share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def publish(path: Path, content: bytes) -> None:
    """Replace a file whole: after a crash it holds the old bytes or the new ones. One writer at a time.
    Raises OSError."""
    # Always the same name: what a crash leaves is overwritten by the next writer, and does not pile up.
    temporary = path.with_name(f"{path.name}.tmp-")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def holder_of(path: Path) -> int | None:
    """Return a process that holds the lock file, as the system tells it; None where it does not."""
    try:
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF; of one that waits, "->" comes first
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return int(fields[4])
    except (OSError, ValueError, IndexError):
        return None
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file against other processes and against other holders in this one.
    The kernel lets go of it when the holder dies. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
