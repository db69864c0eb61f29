"""The feeder's half of the proof that index and source are equal: the same sums, made from the source.

Written against docs/FORMAT.md ("Digest"), not against the service's code: two programs that agree prove more
than one program twice.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from vector_client.types import Id

BUCKETS = 4096
ACTIVE, HAS_VECTOR, HAS_CONTENT_HASH = 1, 2, 4

Sums = npt.NDArray[np.uint64]


def id_bytes(item_id: Id) -> bytes:
    if isinstance(item_id, int):
        return item_id.to_bytes(8, "little", signed=True)
    return item_id.encode() + b"\0"


def bucket_of(item_id: Id) -> int:
    return zlib.crc32(id_bytes(item_id)) & (BUCKETS - 1)


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

    def _share(self, item_id: Id, flags: int, content: bytes) -> int:
        hasher = self._base.copy()
        hasher.update(id_bytes(item_id) + bytes((flags,)) + content)
        return int.from_bytes(hasher.digest()[:8], "little")


def sums_of(shares: Mapping[Id, int]) -> Sums:
    """(4096,) sums modulo 2**64."""
    if not shares:
        return np.zeros(BUCKETS, dtype=np.uint64)
    places = np.fromiter((bucket_of(item_id) for item_id in shares), dtype=np.int64, count=len(shares))
    values = np.fromiter(shares.values(), dtype=np.uint64, count=len(shares))
    sums = np.zeros(BUCKETS, dtype=np.uint64)
    np.add.at(sums, places, values)
    return sums


def root_of(sums: Iterable[int] | Sums) -> str:
    """SHA-256 in hex of the sums, each 8 bytes little end first."""
    return hashlib.sha256(np.asarray(sums, dtype="<u8").tobytes()).hexdigest()
