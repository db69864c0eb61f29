"""Hot backups on request, under names that the server makes."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from service.errors import Overloaded

BackUp: TypeAlias = Callable[[Path], Mapping[str, int]]
"""Copy everything to a directory that does not exist yet; return the seq of each copied store."""


@dataclass(frozen=True, slots=True)
class SnapshotMade:
    """name: of the directory below DATA_DIR/backups. seqs: up to where each store was copied."""

    name: str
    bytes: int
    seqs: Mapping[str, int]


class Snapshots:
    """Safe from any thread; one copy at a time, since each reads and writes everything."""

    def __init__(self, back_up: BackUp, directory: Path, now: Callable[[], datetime]) -> None:
        self._back_up = back_up
        self._directory = directory
        self._now = now
        self._is_busy = threading.Lock()

    def make(self) -> SnapshotMade:
        """Return when the copy is whole and on disk. Raises Overloaded, IndexStoreError."""
        if not self._is_busy.acquire(blocking=False):
            raise Overloaded("Another snapshot is being made.", retry_after_s=10)
        try:
            name = f"{self._now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
            target = self._directory / name
            seqs = self._back_up(target)
            size = sum(path.stat().st_size for path in target.iterdir())
            return SnapshotMade(name, size, dict(seqs))
        finally:
            self._is_busy.release()
