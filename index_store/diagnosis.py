"""What is wrong with a store: what an error of SQLite or of the system means for it, and what helps."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from index_store.errors import IndexStoreError, StoreDamaged, StoreUnavailable
from index_store.types import Trouble

PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)
_HINTS = {
    sqlite3.SQLITE_FULL: "free space on the disk of the data directory",
    sqlite3.SQLITE_IOERR: "look whether the disk is full (`df -h`), and for its errors in `dmesg`",
}


_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOSPC, errno.EDQUOT)


def is_passing(error: BaseException | None) -> bool:
    """Whether the system stood in the way, which may pass: such an error says nothing about the bytes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in PASSING:
            return True
        error = error.__cause__
    return False


def what_helps(error: BaseException | None, path: Path) -> str:
    """What an operator can do about an error or its cause, or an empty string."""
    while error is not None:
        if isinstance(error, IndexStoreError) and error.hint:
            return error.hint
        if isinstance(error, OSError) and (hint := hint_of(error, path)):
            return hint
        if isinstance(error, sqlite3.Error):
            return _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "")
        error = error.__cause__
    return ""


def unreadable(path: Path, error: Exception) -> StoreDamaged | StoreUnavailable:
    """What SQLite's error means: it tells neither the file nor the system's reason."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in PASSING:
        return StoreDamaged(f"{path} can't be read: {error}")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return StoreDamaged(f"{path} is missing")
    except OSError as exc:
        return unavailable(path, exc)
    return StoreUnavailable(f"{path} can't be read now: {error}", _HINTS.get(code, ""))


def unavailable(path: Path, error: OSError) -> StoreUnavailable:
    """Say the system's error with the file that it is about, and what helps."""
    reason = f"{error.strerror or error}"
    return StoreUnavailable(f"{error.filename or path} can't be opened: {reason}", hint_of(error, path))


def hint_of(error: OSError, path: Path) -> str:
    """What helps against a system error, or an empty string."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit on open files (`ulimit -n 65536`, LimitNOFILE= of systemd) and restart"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free space on the disk of {path} (`df -h {path}`)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"let the service's user read and write {path} (`ls -l {path}`)"
    return ""


def store_behind(path: Path, commits: int, side_file: Path) -> Trouble:
    """Of a store that was put back from a copy older than what was acknowledged. side_file: says so."""
    return Trouble(
        "store_behind",
        f"{path} is {commits} commits behind what was acknowledged: it was put back from an older copy",
        f"python -m feeder import && rm {side_file}",
    )


def items_missing(path: Path, items: int) -> Trouble:
    return Trouble(
        "items_missing",
        f"{path} is damaged: {items} live items more or less are in it than it counts",
        "python -m feeder import (or restore a backup: python -m index_store restore)",
    )


def rows_damaged(path: Path, rows: int) -> Trouble:
    return Trouble(
        "rows_damaged",
        f"{path}: {rows} rows fail their checksum and are not served until they are written again",
        "python -m feeder reconcile",
    )
