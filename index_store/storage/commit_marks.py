"""The seq of a store's newest commit, where every process reads it without asking SQLite: eight mapped bytes.

Before each search a process must know whether anything was committed since it last looked. Asking SQLite
takes 5 to 10 µs, two file locks, and a lock among threads; this takes one load from memory.

Who commits writes the bytes under the store's lock, after COMMIT and before anybody hears of it, so whatever
was acknowledged is told here. Nothing is synced, and a crash may leave an older seq behind: readers never
believe the number, they only see that it is another one than when they last looked.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from index_store.storage.schema import LOCK_FILE

_SIZE = 8


class NewestSeq:
    """Eight bytes in the lock file, which all who write to the store share anyhow. `note` under the lock,
    the rest from any thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._descriptor: int | None = None
        self._mapped: Sequence[int] = (0,)

    def open(self) -> None:
        """Raises OSError."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._descriptor).st_size < _SIZE:
            os.ftruncate(self._descriptor, _SIZE)  # leaves what another process may just have written
        self._mapped = memoryview(mmap.mmap(self._descriptor, _SIZE, access=mmap.ACCESS_READ)).cast("q")

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self._mapped = (0,)
        if descriptor is not None:
            os.close(descriptor)

    def note(self, seq: int) -> None:
        """Everything up to `seq` is committed. Raises OSError: then nobody may be told of the commit."""
        assert self._descriptor is not None, "the store is closed"
        os.pwrite(self._descriptor, seq.to_bytes(_SIZE, "little", signed=True), 0)

    def read(self) -> int:
        return self._mapped[0]
