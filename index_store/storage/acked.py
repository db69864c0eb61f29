"""Remembers, outside the store, how far its commits had come: a store that is behind that was put back.

The file is written after each commit and never synced: after a power cut it may tell of less than was
acknowledged, never of more.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

ACKED_FILE = "acked.seq"

_BODY = struct.Struct("<32sq")
_SIZE = _BODY.size + 4


class AckedSeq:
    """One file beside a store. `note` belongs to one thread, under the store's lock."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / ACKED_FILE
        self._descriptor: int | None = None

    def note(self, store_uuid: str, seq: int) -> None:
        """Everything up to `seq` is committed. Raises OSError."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        body = _BODY.pack(store_uuid.encode(), seq)
        os.pwrite(self._descriptor, body + struct.pack("<I", zlib.crc32(body)), 0)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def acked_seq(directory: Path, store_uuid: str) -> int:
    """The newest seq that this store is known to have committed; 0 where nothing is known."""
    try:
        content = (directory / ACKED_FILE).read_bytes()
    except OSError:
        return 0
    if len(content) != _SIZE or zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        return 0
    name, seq = _BODY.unpack(content[:-4])
    return int(seq) if name == store_uuid.encode() else 0
