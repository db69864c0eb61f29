"""A disk under SQLite that records every write and sync, and that fails on demand (an apsw VFS).

The wal-index of these connections is in their heap (locking_mode=EXCLUSIVE): a Python VFS has no shared
memory. All else, schema and statements included, is the store's own.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Event:
    """kind: write, truncate, sync or delete."""

    file: str
    kind: str
    offset: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """What was asked of the disk; `fail_at`: number of the write, sync or truncate that fails (and, with
    `is_broken`, every one after it)."""

    events: list[Event] = field(default_factory=list)
    fail_at: int | None = None
    is_broken: bool = False
    error: type[Exception] = apsw.IOError
    operations: int = 0

    def note(self, event: Event) -> None:
        number, self.operations = self.operations, self.operations + 1
        if self.fail_at is not None and (
            number == self.fail_at or (self.is_broken and number > self.fail_at)
        ):
            raise self.error(f"injected at operation {number}")
        self.events.append(event)


class FailingVFS(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return FailingFile(self.disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.disk.note(Event(Path(filename).name, "delete"))
        super().xDelete(filename, syncdir)


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._name = Path(path).name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.note(Event(self._name, "write", offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._disk.note(Event(self._name, "truncate", size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        self._disk.note(Event(self._name, "sync"))
        super().xSync(flags)


class ApswConnection:
    """Fits `index_store.storage.schema.Connection`."""

    def __init__(self, path: Path, vfs: str) -> None:
        self._connection = apsw.Connection(str(path), vfs=vfs, flags=apsw.SQLITE_OPEN_READWRITE)
        self.execute("PRAGMA locking_mode=EXCLUSIVE")

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Found:
        with _translated():
            return Found(list(self._connection.execute(sql, tuple(parameters))))

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> None:
        with _translated():
            self._connection.executemany(sql, parameters)

    def close(self) -> None:
        with _translated():
            self._connection.close()


class Found:
    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        return self._rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


class _translated:  # reads as a word at the seam
    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, apsw.Error):
            raise sqlite3.OperationalError(str(error)) from error


def after_power_loss(
    start: dict[str, bytes], events: Sequence[Event], variant: str, chance: random.Random
) -> dict[str, bytes]:
    """The files as a disk may hold them when the power fails after `events`: what was synced is there, what
    was not is lost, whole, torn at a sector with garbage, or there in part and out of order."""
    durable = {name: bytearray(content) for name, content in start.items()}
    pending: dict[str, list[Event]] = {}
    for event in events:
        if event.kind == "sync":
            for waiting in pending.pop(event.file, []):
                _put(durable, waiting)
        elif event.kind == "delete":
            durable.pop(event.file, None)
            pending.pop(event.file, None)
        else:
            pending.setdefault(event.file, []).append(event)
    for waiting_all in pending.values():
        for event in _survivors(waiting_all, variant, chance):
            _put(durable, event)
    return {name: bytes(content) for name, content in durable.items()}


def _survivors(waiting: list[Event], variant: str, chance: random.Random) -> list[Event]:
    if variant == "dropped":
        return []
    if variant == "kept":
        return waiting
    if variant == "torn":
        kept = waiting[: chance.randrange(len(waiting) + 1)]
        if kept and kept[-1].kind == "write":
            last = kept[-1]
            cut = chance.randrange(0, len(last.data) + 1, SECTOR) if len(last.data) >= SECTOR else 0
            garbage = chance.randbytes(min(SECTOR, len(last.data) - cut))
            kept = [*kept[:-1], Event(last.file, "write", last.offset, last.data[:cut] + garbage)]
        return kept
    mixed = [event for event in waiting if chance.random() < 0.5]
    chance.shuffle(mixed)
    return mixed


def _put(files: dict[str, bytearray], event: Event) -> None:
    content = files.setdefault(event.file, bytearray())
    if event.kind == "truncate":
        del content[event.offset :]
        return
    if len(content) < event.offset:
        content.extend(bytes(event.offset - len(content)))
    content[event.offset : event.offset + len(event.data)] = event.data
