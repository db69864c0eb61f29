"""Hot backups on request, under names that the server makes."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from service.errors import Overloaded

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")

BackUp: TypeAlias = Callable[[Path], Mapping[str, int]]
"""Copy everything to a directory that does not exist yet; return the seq of each copied store."""


@dataclass(frozen=True, slots=True)
class SnapshotMade:
    """name: of the directory below DATA_DIR/backups. seqs: up to where each store was copied."""

    name: str
    bytes: int
    seqs: Mapping[str, int]
    pruned: Sequence[str]


@dataclass(frozen=True, slots=True)
class SnapshotKept:
    """One that is there. made_at: RFC 3339, UTC."""

    name: str
    bytes: int
    made_at: str


class Snapshots:
    """Makes, lists and expires copies. Safe from any thread; makes one at a time, since each reads and writes
    everything. Deletes nothing in `directory` but its own copies."""

    def __init__(
        self, back_up: BackUp, directory: Path, now: Callable[[], datetime], *, kept_max: int
    ) -> None:
        """kept_max: older ones are deleted once a new one is whole; 0 keeps all."""
        self._back_up = back_up
        self._directory = directory
        self._now = now
        self._kept_max = kept_max
        self._is_busy = threading.Lock()

    def make(self) -> SnapshotMade:
        """Return when the copy is whole and on disk. Raises Overloaded, IndexStoreError."""
        if not self._is_busy.acquire(blocking=False):
            raise Overloaded("Another snapshot is being made.", retry_after_s=10, reason="snapshot")
        try:
            name = f"{self._now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
            target = self._directory / name
            seqs = self._back_up(target)
            return SnapshotMade(name, _size(target), dict(seqs), self._prune())
        finally:
            self._is_busy.release()

    def kept(self) -> list[SnapshotKept]:
        """Return those that are there, newest first."""
        return [SnapshotKept(path.name, _size(path), _made_at(path.name)) for path in self._there()]

    def _there(self) -> list[Path]:
        if not self._directory.is_dir():
            return []
        found = [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=_age_key, reverse=True)

    def _prune(self) -> list[str]:
        pruned = []
        for path in self._there()[self._kept_max :] if self._kept_max else ():
            shutil.rmtree(path, ignore_errors=True)
            pruned.append(path.name)
            log.info("snapshot_pruned", extra={"path": str(path)})
        return pruned


def _age_key(path: Path) -> tuple[str, int]:
    """Several may be made in one second."""
    return path.name.partition("-")[0], path.stat().st_mtime_ns


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def _made_at(name: str) -> str:
    moment = datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return moment.isoformat().replace("+00:00", "Z")
