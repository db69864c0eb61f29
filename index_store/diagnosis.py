"""What is wrong with a store: what an error of SQLite or of the system means for it, and what helps."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from index_store import hints
from index_store.errors import IndexStoreError, StoreDamaged, StoreUnavailable
from index_store.types import CollectionSpec, Trouble

PASSING = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
)
_HINTS: Mapping[int, Callable[[Path], str]] = {
    sqlite3.SQLITE_BUSY: hints.other_holder,
    sqlite3.SQLITE_LOCKED: hints.other_holder,
    sqlite3.SQLITE_NOMEM: lambda _path: hints.MORE_MEMORY,
    sqlite3.SQLITE_IOERR: hints.look_at_disk,
    sqlite3.SQLITE_FULL: hints.free_space,
    sqlite3.SQLITE_CANTOPEN: hints.file_rights,
}

_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOSPC, errno.EDQUOT)


def is_passing(error: BaseException | None) -> bool:
    """Whether the system stood in the way, which may pass: such an error says nothing about the bytes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            return True
        if isinstance(error, sqlite3.Error) and _code_of(error) in PASSING:
            return True
        error = error.__cause__
    return False


def what_helps(error: BaseException, path: Path) -> str:
    """What an operator can do about an error: about what the system refused, where that is the cause, else
    what the error itself says. Never empty."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    for each in causes:
        if isinstance(each, OSError) and each.errno in _SYSTEM:
            return hint_of(each, path)
        if isinstance(each, sqlite3.Error) and (hint_for := _HINTS.get(_code_of(each))):
            return hint_for(path)
    for each in causes:
        if isinstance(each, IndexStoreError) and each.hint:
            return each.hint
    return hint_of(error, path) if isinstance(error, OSError) else hints.check(path)


def _code_of(error: BaseException) -> int:
    """SQLite's primary result code; 0 for an error that has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def unreadable(path: Path, error: Exception) -> StoreDamaged | StoreUnavailable:
    """Return what SQLite's error means: it names neither the file nor the system's reason."""
    code = _code_of(error)
    if code not in PASSING:
        return StoreDamaged(f"{path} can't be read: {error}", hints.check(path))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return StoreDamaged(f"{path} is missing", hints.check(path))
    except OSError as exc:
        return unavailable(path, exc)
    return StoreUnavailable(f"{path} can't be read now: {error}", _HINTS[code](path))


def unavailable(path: Path, error: OSError) -> StoreUnavailable:
    """Say the system's error with the file that it is about, and what helps."""
    reason = f"{error.strerror or error}"
    return StoreUnavailable(f"{error.filename or path} can't be opened: {reason}", hint_of(error, path))


def hint_of(error: OSError, path: Path) -> str:
    """What helps against a system error about `path`. Never empty."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return hints.MORE_FILES
    if error.errno == errno.ENOMEM:
        return hints.MORE_MEMORY
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return hints.free_space(path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return hints.file_rights(path)
    return hints.look_at_disk(path)


def store_behind(path: Path, commits: int, side_file: Path) -> Trouble:
    """Of a store that was put back from a copy older than what was acknowledged. side_file: says so."""
    return Trouble(
        "store_behind",
        f"{path} is {commits} commits behind what was acknowledged: it was put back from an older copy",
        f"{hints.IMPORT_AGAIN} && rm {side_file}",
    )


def items_missing(path: Path, items: int) -> Trouble:
    """Return what to report of a store whose counters and rows disagree by `items` live items."""
    return Trouble(
        "items_missing",
        f"{path} is damaged: {items} live items more or less are in it than it counts",
        f"{hints.IMPORT_AGAIN} (or restore a backup: {hints.command('restore', 'BACKUP', 'DATA_DIR')})",
    )


def rows_damaged(path: Path, rows: int) -> Trouble:
    """Return what to report of a store with this many rows that fail their checksum."""
    return Trouble(
        "rows_damaged",
        f"{path}: {rows} rows fail their checksum and are not served until they are written again",
        "python -m feeder reconcile",
    )


def contents_damaged(path: Path, contents: int) -> list[Trouble]:
    """Return what to report of a store with this many kept contents that fail their checksum; nothing of
    none."""
    if not contents:
        return []
    text = f"{path}: {contents} kept texts or pictures fail their checksum: no rebuild can read them"
    return [Trouble("contents_damaged", text, f"write those items again; {hints.check(path)} names them")]


def another_shape(
    store: Path, spec: CollectionSpec, setting: str, made_with: object, configured: object
) -> StoreUnavailable:
    """Return the error for a store that was made with another `setting` than is configured now."""
    return StoreUnavailable(
        f"{store} was made with {setting} {made_with}, the configuration says {configured}",
        f"set {setting} of collection {spec.name!r} back to {made_with} and restart; for {setting} "
        f"{configured} declare a collection of another name and import into that",
    )
