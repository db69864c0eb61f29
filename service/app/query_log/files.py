"""The query log of a data directory: JSON lines below DATA_DIR/queries, a file a worker and day.

Every line is a search body. Each file is written by one process, so that no lock is needed. Files go whole:
when they are older than the retention, or the oldest ones where there is more than is kept.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"(\d{8}T\d{6}Z)-\d+\.jsonl")
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_FILES_OF_ALL: Final = 10
"""A file ends at a tenth of what is kept, so that at most that much goes at once."""


class QueryLog:
    """`append` from one thread at a time, the others from any thread and process. Blocking."""

    def __init__(
        self, directory: Path, now: Callable[[], datetime], *, rows_max: int, bytes_max: int, days: int
    ) -> None:
        """rows_max, bytes_max: kept of each collection. days: after these a query is gone."""
        self._directory = directory
        self._now = now
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._days = days
        self._current: dict[str, tuple[Path, int]] = {}

    def append(self, queries: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Write queries, each with the name of its collection. A disk that takes none is logged: searches do
        not depend on it."""
        lines: dict[str, list[bytes]] = {}
        for collection, fields in queries:
            line = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
            lines.setdefault(collection, []).append(line + b"\n")
        for collection, new in lines.items():
            try:
                with self._file_of(collection, len(new)).open("ab") as file:
                    is_new = not file.tell()
                    file.writelines(new)
                if is_new:
                    self._sweep_one(self._directory / collection)
            except OSError as exc:
                log.warning("queries_not_recorded", extra={"collection": collection, "error": str(exc)})

    def sweep(self) -> None:
        """Remove what is older than the retention or more than is kept."""
        if self._directory.is_dir():
            for directory in sorted(self._directory.iterdir()):
                try:
                    self._sweep_one(directory)
                except OSError as exc:
                    log.warning("queries_not_swept", extra={"path": str(directory), "error": str(exc)})

    def recorded_lines(self, collection: str) -> list[str]:
        """Return what is kept of a collection, different lines only, in order of their text."""
        found: set[str] = set()
        for path in self._files(self._directory / collection):
            try:
                # Not `splitlines`: a query may hold what that takes for the end of a line, as U+2028.
                found.update(filter(None, path.read_text("utf-8", "replace").split("\n")))
            except FileNotFoundError:
                continue  # swept meanwhile
            except OSError as exc:
                log.warning("queries_not_read", extra={"path": str(path), "error": str(exc)})
        return sorted(found)

    def _file_of(self, collection: str, rows: int) -> Path:
        """The file that this process appends to; a new one each day, and when the former one is full."""
        now = self._now().astimezone(UTC)
        path, written = self._current.get(collection, (None, 0))
        if path is None or not self._has_room(path, written + rows) or path.name[:8] != f"{now:%Y%m%d}":
            directory = self._directory / collection
            directory.mkdir(parents=True, exist_ok=True)
            path, written = directory / f"{now.strftime(_STAMP)}-{os.getpid()}.jsonl", 0
        self._current[collection] = (path, written + rows)
        return path

    def _has_room(self, path: Path, rows: int) -> bool:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False  # swept
        return rows <= self._rows_max // _FILES_OF_ALL and size <= self._bytes_max // _FILES_OF_ALL

    def _sweep_one(self, directory: Path) -> None:
        oldest = (self._now().astimezone(UTC) - timedelta(days=self._days)).strftime(_STAMP)
        rows = size = 0
        for path in reversed(self._files(directory)):  # the newest first
            try:
                data = path.read_bytes()
                rows, size = rows + data.count(b"\n"), size + len(data)
                is_newest = rows == data.count(b"\n")
                if path.name[: len(oldest)] < oldest or (
                    not is_newest and (rows > self._rows_max or size > self._bytes_max)
                ):
                    path.unlink()
            except FileNotFoundError:
                continue  # another worker's sweep was first

    @staticmethod
    def _files(directory: Path) -> list[Path]:
        """The oldest first."""
        if not directory.is_dir():
            return []
        return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
