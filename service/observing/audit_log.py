"""The audit log: who changed or operated what, as JSON lines in files of their own that all workers share.

    DATA_DIR/audit/audit.jsonl, audit.1.jsonl (the one before), ... audit.N.jsonl (the oldest)

Every append and every rotation happens under one lock of the directory, so lines of several processes never
mix and no process writes into a file that another has turned over.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import orjson

log = logging.getLogger(__name__)

Entry: TypeAlias = Mapping[str, Any]
AuditState: TypeAlias = Literal["ok", "failing", "off"]

_CURRENT: Final = "audit.jsonl"
_BLOCK_BYTES: Final = 64 << 10
_LINES_AT_ONCE: Final = 500
_RETRY_S: Final = 1.0
_CLOSE_S: Final = 5.0
_FLUSH_S: Final = 1.0


class AuditFiles:
    """The files. Every method is safe from any thread of any process, blocks, and raises OSError."""

    def __init__(self, directory: Path, *, bytes_max: int, files: int) -> None:
        """bytes_max: of one file, about. files: how many there are at most, the current one included."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._files = files

    def add_lines(self, lines: bytes) -> None:
        """Add whole lines; all of them, or none where it raises."""
        self._directory.mkdir(exist_ok=True)  # not its parent: a data directory that has gone stays gone
        with self._locked(fcntl.LOCK_EX):
            if self._size() + len(lines) > self._bytes_max:
                self._rotate()
            descriptor = os.open(self._path(0), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _append_whole(descriptor, lines)
            finally:
                os.close(descriptor)

    def last_entries(self, limit: int) -> list[Entry]:
        """Return the last `limit` entries, newest first."""
        found: list[Entry] = []
        if not self._directory.is_dir():
            return found
        with self._locked(fcntl.LOCK_SH):
            for number in range(self._files):
                if len(found) < limit and self._path(number).exists():
                    found += _last_entries(self._path(number), limit - len(found))
        return found

    def _path(self, number: int) -> Path:
        return self._directory / (f"audit.{number}.jsonl" if number else _CURRENT)

    def _size(self) -> int:
        try:
            return self._path(0).stat().st_size
        except FileNotFoundError:
            return 0

    def _rotate(self) -> None:
        """Make each file an older one; the oldest goes. A crash in between leaves a gap in the numbers."""
        if not self._path(0).exists():
            return
        for number in range(self._files - 1, 0, -1):
            if self._path(number - 1).exists():
                self._path(number - 1).replace(self._path(number))
        if self._files == 1:
            self._path(0).unlink()

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)  # gives the lock back


class AuditLog:
    """Takes entries on the event loop and writes them on a thread of its own, at once. What can't be written
    waits and is tried again each second; beyond `lines_max` the oldest are lost, counted and told in the log
    itself once it can be written. Not synced: a power cut may take the last seconds."""

    def __init__(
        self,
        files: AuditFiles | None,
        count_lost: Callable[[], None],
        now: Callable[[], datetime],
        *,
        lines_max: int = 10_000,
    ) -> None:
        """files: None writes nothing. count_lost: called on the event loop for each entry that is lost. now:
        UTC."""
        self._files = files
        self._count_lost = count_lost
        self._now = now
        self._lock = threading.Lock()
        self._lines_max = lines_max
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._lost_told = 0
        self._fault = ""
        self._has_lines = threading.Event()
        self._is_written = threading.Event()
        self._is_written.set()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_off(self) -> bool:
        """Whether no entry is kept."""
        return self._files is None

    @property
    def state(self) -> AuditState:
        """Whether entries reach the disk."""
        return "off" if self._files is None else "failing" if self._fault else "ok"

    @property
    def fault(self) -> str:
        """Why entries do not reach the disk, or an empty string."""
        return self._fault

    @property
    def lost(self) -> int:
        """How many entries this process has lost since it started."""
        return self._lost

    def close(self) -> None:
        """Write what is left, for `_CLOSE_S` at most."""
        self._is_closing.set()
        self._has_lines.set()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_S)

    def record(self, entry: Entry) -> None:
        """Queue one entry. Event loop only; never blocks."""
        if self._files is None:
            return
        line = self._line(entry)
        with self._lock:
            if len(self._lines) >= self._lines_max:
                self._lines.popleft()
                self._lost += 1
                self._count_lost()
            self._is_written.clear()
            self._lines.append(line)
        self._has_lines.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._files,), name="audit", daemon=True)
            self._thread.start()

    def newest_entries(self, limit: int) -> list[Entry]:
        """Return the last `limit` entries of all workers, newest first, this one's own among them as far as
        the disk takes them. Blocks; raises OSError."""
        self._is_written.wait(_FLUSH_S)
        return [] if self._files is None else self._files.last_entries(limit)

    def _run(self, files: AuditFiles) -> None:
        while not (self._is_closing.is_set() and not self._lines):
            self._has_lines.wait()
            self._has_lines.clear()
            while self._lines and self._write_some(files):
                pass
            with self._lock:
                is_written = not self._lines
                if is_written:
                    self._is_written.set()
            if is_written:
                continue
            if self._is_closing.is_set():
                return  # a disk that takes nothing must not hold up the stop
            self._is_closing.wait(_RETRY_S)
            self._has_lines.set()

    def _write_some(self, files: AuditFiles) -> bool:
        """Write the oldest lines; return whether the disk took them."""
        with self._lock:
            taken = [self._lines.popleft() for _ in range(min(len(self._lines), _LINES_AT_ONCE))]
            lost = self._lost - self._lost_told
        gap = [self._line({"lost": lost})] if lost else []
        try:
            files.add_lines(b"".join([*gap, *taken]))
        except OSError as exc:
            if not self._fault:
                log.error("audit_not_written", extra={"error": str(exc)})
            self._fault = exc.strerror or str(exc)
            with self._lock:
                self._lines.extendleft(reversed(taken))
            return False
        self._lost_told += lost
        if self._fault:
            log.warning("audit_written_again", extra={"lost": self._lost})
            self._fault = ""
        return True

    def _line(self, entry: Entry) -> bytes:
        stamped = {"time": self._now().isoformat(timespec="milliseconds"), **entry}
        return orjson.dumps(stamped, option=orjson.OPT_APPEND_NEWLINE)


def _append_whole(descriptor: int, lines: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a crash of the machine left half a line
        lines = b"\n" + lines
    try:
        if os.write(descriptor, lines) == len(lines):
            return
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    os.ftruncate(descriptor, size)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _last_entries(path: Path, limit: int) -> list[Entry]:
    """Return the last entries of one file, newest first. Reads no more of it than it has to."""
    found: list[Entry] = []
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        head = b""
        while start > 0 and len(found) < limit:
            stop, start = start, max(0, start - _BLOCK_BYTES)
            file.seek(start)
            head, *lines = (file.read(stop - start) + head).split(b"\n")
            if start == 0:
                lines.insert(0, head)
            found += [entry for line in reversed(lines) if (entry := _entry_of(line)) is not None]
    return found[:limit]


def _entry_of(line: bytes) -> Entry | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:  # of a crash, or the empty end
        return None
    return entry if isinstance(entry, dict) else None
