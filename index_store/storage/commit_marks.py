"""Two marks of how far a store's commits have come: one mapped, for readers; one kept, for the next start.

The newest seq is eight mapped bytes. Before each search a process must know whether anything was committed
since it last looked. Asking SQLite takes 5 to 10 µs, two file locks and a lock among threads; this takes one
load from memory. The committing process writes the bytes under the store's lock, after COMMIT and before it
acknowledges, so every acknowledged commit is visible here. Nothing is synced, and a crash may leave an older
seq: readers never trust the number, they only compare it with the one they saw last.

The acknowledged seq is a file outside the store: a store whose own seq is lower is an older copy. The file is
written after each commit and never synced: after a power cut it may hold less than was acknowledged, never
more.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from index_store.storage.schema import LOCK_FILE

ACKED_FILE = "acked.seq"

_ACKED_BODY = struct.Struct("<32sq")
_ACKED_SIZE = _ACKED_BODY.size + 4
_NEWEST_SIZE = 8


class SharedSeq:
    """Eight bytes in the lock file, which all writers of the store share anyway. Call `publish` under the
    lock, everything else from any thread."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        self._descriptor: int | None = None
        self._mapped: Sequence[int] = (0,)

    def open(self) -> None:
        """Raises OSError."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(self._descriptor).st_size < _NEWEST_SIZE:
            os.ftruncate(self._descriptor, _NEWEST_SIZE)  # leaves what another process may just have written
        self._mapped = memoryview(mmap.mmap(self._descriptor, _NEWEST_SIZE, access=mmap.ACCESS_READ)).cast(
            "q"
        )

    def close(self) -> None:
        """Let go of the mapped file."""
        descriptor, self._descriptor = self._descriptor, None
        self._mapped = (0,)
        if descriptor is not None:
            os.close(descriptor)

    def publish(self, seq: int) -> None:
        """State that everything up to `seq` is committed. Raises OSError: then the commit must not be
        acknowledged."""
        assert self._descriptor is not None, "the store is closed"
        os.pwrite(self._descriptor, seq.to_bytes(_NEWEST_SIZE, "little", signed=True), 0)

    def latest(self) -> int:
        """Return the newest seq that any process has published, one load from memory (0.1 us). Any thread.

        It changes with each commit, before that is acknowledged: read it before the rows that it stands
        for."""
        return self._mapped[0]


class AckedSeq:
    """One file next to a store. `record` belongs to one thread, under the store's lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / ACKED_FILE
        self._descriptor: int | None = None

    def record(self, store_uuid: str, seq: int) -> None:
        """Everything up to `seq` is committed. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        body = _ACKED_BODY.pack(store_uuid.encode(), seq)
        os.pwrite(self._descriptor, body + struct.pack("<I", zlib.crc32(body)), 0)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def acked_seq(directory: Path, store_uuid: str) -> int:
    """The newest seq that this store is known to have committed; 0 where nothing is known."""
    try:
        content = (directory / ACKED_FILE).read_bytes()
    except OSError:
        return 0
    if len(content) != _ACKED_SIZE or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        return 0
    name, seq = _ACKED_BODY.unpack(content[:-4])
    return int(seq) if name == store_uuid.encode() else 0
