"""Proof of content: 4,096 order-free sums that two sides can compare instead of their rows.

SHA-256 because every side has it (Python, PostgreSQL, a shell) and because it is the fastest strong hash of
the standard library on processors with SHA instructions: 2 KiB in 2.2 us against 4 us for BLAKE2b.
CRC-32 spreads ids over buckets: it need not be strong, only quick and known everywhere.
docs/FORMAT.md describes both for programs that recompute them; tests compare its examples with this file.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from index_store.types import DIGEST_BUCKETS, Id

BUCKETS = DIGEST_BUCKETS
BUCKETS_MAX = 1 << 20
"""Upper bound of the sums that a request may ask for: 8 MiB of them."""
_MASK = (1 << 64) - 1


def id_bytes(item_id: Id) -> bytes:
    """The bytes that stand for an id: int64 little end first, or UTF-8 and one NUL (ids hold none)."""
    if isinstance(item_id, int):
        return item_id.to_bytes(8, "little", signed=True)
    return item_id.encode("utf-8", "surrogateescape") + b"\0"


def crc_of(item_id: Id) -> int:
    """Its low 12 bits are the number of the id's bucket, more of them that of a finer part."""
    return zlib.crc32(id_bytes(item_id))


def bucket_of(item_id: Id) -> int:
    """Number of the bucket of an id, 0..4095."""
    return crc_of(item_id) & (BUCKETS - 1)


class ShareHasher:
    """Computes what one item adds to its bucket, for one embedding_version."""

    def __init__(self, embedding_version: str) -> None:
        self._base = hashlib.sha256(embedding_version.encode() + b"\0")

    def share(self, item_id: Id, active: bool, vector: bytes | None, content_hash: bytes | None) -> int:
        """Unsigned 64 bits. A content_hash stands in for the vector where there is one: vectors made by a
        model can't be reproduced bit for bit, what they were made of can."""
        content = content_hash if content_hash is not None else vector or b""
        flags = active | (vector is not None) << 1 | (content_hash is not None) << 2
        hasher = self._base.copy()
        hasher.update(id_bytes(item_id) + bytes((flags,)) + content)
        return int.from_bytes(hasher.digest()[:8], "little")


def add(sums: dict[int, int], bucket: int, share: int) -> None:
    """Add `share` (may be negative) to a bucket, modulo 2**64."""
    sums[bucket] = (sums.get(bucket, 0) + share) & _MASK


def to_signed(value: int) -> int:
    """SQLite integers are signed; sums are not."""
    return value - (1 << 64) if value >> 63 else value


def to_unsigned(value: int) -> int:
    """The sum that a signed integer of SQLite stands for."""
    return value & _MASK


def buckets_from(sums: Iterable[tuple[int, int]]) -> npt.NDArray[np.uint64]:
    """(4096,) uint64 out of (bucket, signed sum) pairs."""
    out = np.zeros(BUCKETS, dtype=np.uint64)
    for bucket, value in sums:
        out[bucket] = to_unsigned(value)
    return out


def fold_buckets(sums: npt.NDArray[np.uint64], parts: int) -> npt.NDArray[np.uint64]:
    """(parts,) out of more sums: part p of many belongs to part p modulo `parts` of few."""
    out: npt.NDArray[np.uint64] = sums.reshape(-1, parts).sum(axis=0, dtype=np.uint64)
    return out


def root_of(buckets: npt.NDArray[np.uint64]) -> str:
    """SHA-256 in hex of the 4,096 sums, each 8 bytes little end first."""
    return hashlib.sha256(buckets.astype("<u8").tobytes()).hexdigest()
