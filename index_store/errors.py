"""Every way the index can say no.

IndexStoreError
├── InvalidRequest          the caller's fault: nothing was changed
│   ├── UnknownCollection
│   ├── InvalidId           wrong type for the collection
│   ├── InvalidVector       dimension, NaN, zero
│   ├── InvalidFilter
│   └── PageExpired         a cursor older than the history that is kept
├── VersionMismatch         vectors of two embedding versions would meet
├── GenerationConflict      begin/promote/rollback in a state that does not allow it
└── Unavailable             try again later
    ├── WriteFailed         the disk said no; whether it was stored is unknown, repeating is safe
    ├── ReadOnly            disk nearly full or store damaged: searches go on
    ├── SeqNotReached       min_seq was not reached within the wait
    ├── StoreUnavailable    a store can't be opened or read now, or has another dim, metric or id type
    └── StoreDamaged        a row or file fails its checksum and cannot be mended from here
        └── PointerLost     the stores may be sound; which of them to serve is unknown
"""

from __future__ import annotations


class IndexStoreError(Exception):
    """Base of all errors of this package. `str()` is one plain sentence fit for a caller; `hint` is the
    command or the setting that helps, whole, or an empty string."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InvalidRequest(IndexStoreError):
    """Nothing was changed; repeating the same request fails again. `field` names the culprit."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class UnknownCollection(InvalidRequest):
    pass


class InvalidId(InvalidRequest):
    pass


class InvalidVector(InvalidRequest):
    pass


class InvalidFilter(InvalidRequest):
    pass


class PageExpired(InvalidRequest):
    pass


class VersionMismatch(IndexStoreError):
    """`expected` is what the collection serves, `got` what was offered."""

    def __init__(self, collection: str, expected: str, got: str) -> None:
        super().__init__(
            f"collection {collection!r} holds vectors of embedding_version {expected!r}, not {got!r}"
        )
        self.expected = expected
        self.got = got


class GenerationConflict(IndexStoreError):
    pass


class Unavailable(IndexStoreError):
    """The same request may succeed later."""


class WriteFailed(Unavailable):
    pass


class ReadOnly(Unavailable):
    pass


class SeqNotReached(Unavailable):
    pass


class StoreUnavailable(Unavailable):
    """Of one collection alone. Its bytes may be sound: what stands in the way is the system or the
    configuration."""


class StoreDamaged(Unavailable):
    pass


class PointerLost(StoreDamaged):
    """`hint` makes the pointer again; trying to open the collection is cheap and goes well after that."""
