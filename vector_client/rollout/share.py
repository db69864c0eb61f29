"""Which side a caller is on: the same key always on the same, and never back while the share grows."""

from __future__ import annotations

from hashlib import blake2b


def is_in_share(key: str, percent: float) -> bool:
    """Return whether a key (a user, or a query) belongs to the first `percent` of all keys."""
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, person=b"rollout").digest()
    return int.from_bytes(digest, "big") < percent / 100 * 2**64
