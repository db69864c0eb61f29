"""Small files and directories that survive a power cut, and the lock that processes share."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_WAIT_S = 60.0
"""For commits of others: who holds a store's lock for longer is stuck."""


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


@contextmanager
def locked_within(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """The same as `locked`, but waits so long at most. Raises TimeoutError naming the holder, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not WaitingWriter(descriptor, lambda: None).is_over_within(wait_s):
            holder = holder_of(path)
            who = f"process {holder}" if holder else "another process"
            raise TimeoutError(f"{who} has held {path} for {wait_s:g} s") from None
    except OSError:
        os.close(descriptor)
        raise
    try:
        yield
    finally:
        os.close(descriptor)


class WaitingWriter:
    """Waits in a thread: the kernel gives a lock in the order in which it was asked for, and no wait for one
    can be ended."""

    def __init__(self, descriptor: int, at_end: Callable[[], object]) -> None:
        """at_end: called on that thread once it has waited."""
        self._descriptor = descriptor
        self._at_end = at_end
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._is_given_up = False
        self._error: OSError | None = None
        threading.Thread(target=self._run, name="lock-wait", daemon=True).start()

    def is_over_within(self, wait_s: float) -> bool:
        """Return whether the descriptor holds the lock; else it is closed once it would. Raises OSError."""
        self._is_over.wait(wait_s)
        with self._lock:
            self._is_given_up = not self._is_over.is_set()
        if self._error is not None:
            raise self._error
        return not self._is_given_up

    def _run(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as exc:
            self._error = exc
        with self._lock:
            self._is_over.set()
            if self._is_given_up or self._error is not None:
                os.close(self._descriptor)
        self._at_end()
