"""The feeder's half of the proof that index and source are equal: the same sums, made from the source.

Written against docs/FORMAT.md ("Digest"), not against the service's code: two programs that agree prove more
than one program twice.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from feeder.facts import Chunk
from vector_client.types import Id

BUCKETS = 4096
ACTIVE, HAS_VECTOR, HAS_CONTENT_HASH = 1, 2, 4

Sums = npt.NDArray[np.uint64]


def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1).astype(np.uint32)
    return table


CRC_TABLE = _crc_table()


def id_bytes(item_id: Id) -> bytes:
    """Return an id as the digest hashes it: int64, little end first, or UTF-8 and a zero byte."""
    if isinstance(item_id, int):
        return item_id.to_bytes(8, "little", signed=True)
    return item_id.encode() + b"\0"


def crc_of(item_id: Id) -> int:
    """Its low 12 bits are the number of the id's bucket, more of them that of a finer part."""
    return zlib.crc32(id_bytes(item_id))


def bucket_of(item_id: Id) -> int:
    """Return the number of an id's bucket, 0 to 4,095."""
    return crc_of(item_id) & (BUCKETS - 1)


def crcs_of(ids: Sequence[Id] | npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """(n,) uint32: the same as `crc_of`, for all ids at once."""
    if isinstance(ids, np.ndarray):
        crc = np.full(len(ids), 0xFFFFFFFF, dtype=np.uint32)
        for column in ids.astype("<i8").view(np.uint8).reshape(-1, 8).T:
            crc = CRC_TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
        return crc ^ np.uint32(0xFFFFFFFF)
    return np.fromiter(map(crc_of, ids), dtype=np.uint32, count=len(ids))


class Shares:
    """What each item adds to its bucket, for one embedding_version: unsigned 64 bits."""

    def __init__(self, embedding_version: str) -> None:
        self._base = hashlib.sha256(embedding_version.encode() + b"\0")

    def of_vector(self, item_id: Id, active: bool, vector: bytes) -> int:
        """vector: packed little-endian float32, bit for bit as it was sent."""
        return self._share(item_id, active | HAS_VECTOR, vector)

    def of_content(self, item_id: Id, active: bool, content_hash: bytes) -> int:
        """content_hash: sha256 of what the service embedded, since its vectors can't be made again."""
        return self._share(item_id, active | HAS_VECTOR | HAS_CONTENT_HASH, content_hash)

    def of_chunk(self, chunk: Chunk) -> npt.NDArray[np.uint64]:
        """(n,) shares of rows that lie side by side; the hash is all that is done row by row."""
        kind = HAS_VECTOR | (HAS_CONTENT_HASH if chunk.is_hashed else 0)
        flags = chunk.active.astype(np.uint8) | np.uint8(kind)
        if not len(chunk.ids):
            return np.zeros(0, dtype=np.uint64)
        if isinstance(chunk.ids[0], int):
            heads = np.array(chunk.ids, dtype="<i8").view(np.uint8).reshape(-1, 8)
            digests = self._digests(np.hstack([heads, flags[:, None], chunk.bodies]), ())
        else:
            firsts = [str(item_id).encode() + b"\0" for item_id in chunk.ids]
            digests = self._digests(np.hstack([flags[:, None], chunk.bodies]), firsts)
        return np.frombuffer(b"".join(digests), dtype="<u8")[:: self._base.digest_size // 8]

    def _digests(self, rows: npt.NDArray[np.uint8], firsts: Sequence[bytes]) -> list[bytes]:
        """firsts: what stands before each row, () for nothing."""
        count, width = rows.shape
        data, copy = memoryview(rows.tobytes()), self._base.copy
        digests: list[bytes] = []
        position = 0
        for row in range(count):
            hasher = copy()
            if firsts:
                hasher.update(firsts[row])
            hasher.update(data[position : position + width])
            digests.append(hasher.digest())
            position += width
        return digests

    def _share(self, item_id: Id, flags: int, content: bytes) -> int:
        hasher = self._base.copy()
        hasher.update(id_bytes(item_id) + bytes((flags,)) + content)
        return int.from_bytes(hasher.digest()[:8], "little")


def root_of(sums: Iterable[int] | Sums) -> str:
    """SHA-256 in hex of the sums, each 8 bytes little end first."""
    return hashlib.sha256(np.asarray(sums, dtype="<u8").tobytes()).hexdigest()
