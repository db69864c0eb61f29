"""Every way the index can say no.

IndexStoreError
├── InvalidRequest          the caller's fault: nothing was changed
│   ├── UnknownCollection
│   ├── InvalidId           wrong type for the collection
│   ├── InvalidVector       dimension, NaN, zero
│   ├── InvalidFilter
│   ├── AnswerLimitExceeded what was asked for weighs more than the request allows
│   └── PageExpired         a cursor older than the history that is kept
├── VersionMismatch         vectors of two embedding versions would meet
├── GenerationConflict      begin/promote/rollback in a state that does not allow it
└── Unavailable             try again later
    ├── WriteFailed         the disk said no; whether it was stored is unknown, repeating is safe
    ├── ReadOnly            disk nearly full or store damaged: searches go on
    ├── SeqNotReached       min_seq was not reached within the wait
    ├── WordsNotSealed      rows were sealed before their words could be searched
    ├── StoreUnavailable    a store can't be opened or read now, or has another dim, metric or id type
    └── StoreDamaged        a row or file fails its checksum and can't be read back
        ├── UnknownFormat   another release wrote it; it may be sound
        └── PointerLost     the stores may be sound; which of them to serve is unknown
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class IndexStoreError(Exception):
    """Base of all errors of this package; raised only as one of its leaves.

    `str()` is one plain sentence fit for a caller. `hint`: the command or the setting that helps an operator,
    whole; empty where only the caller can change something.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        """hint: what helps; see the class."""
        super().__init__(message)
        self.hint = hint


class InvalidRequest(IndexStoreError):
    """Raised for a request that breaks a rule of the port: nothing was changed, and the same request fails
    again. What helps: correct what `field` names; empty where it is the request as a whole."""

    def __init__(self, message: str, field: str = "") -> None:
        """field: path of the culprit in the request, like `items[3].id`."""
        super().__init__(message)
        self.field = field


class UnknownCollection(InvalidRequest):
    """Raised for a collection that the configuration does not declare. What helps: another name, or
    declaring it and restarting."""


class InvalidId(InvalidRequest):
    """Raised for an id of the wrong type for the collection, out of range, or too long. What helps: ids of
    the collection's kind."""


class InvalidVector(InvalidRequest):
    """Raised for a vector with another dimension, with NaN or infinity, or without a length. What helps: a
    vector of the collection's model."""


class InvalidFilter(InvalidRequest):
    """Raised for a filter with an unknown operator, an operand of the wrong kind, or too many conditions.
    What helps: the part that `field` names, written in the operators of openapi.yaml."""


class AnswerLimitExceeded(InvalidRequest):
    """Raised when what was asked for weighs more than the request allows; nothing of it was read from disk.
    What helps: fewer items, or without vectors or metadata."""


class PageExpired(InvalidRequest):
    """Raised for a cursor older than the history that is kept: the items of its page can't be told any more.
    What helps: searching again from the first page."""


class VersionMismatch(IndexStoreError):
    """Raised when vectors of two embedding versions would meet. `expected` is what the collection serves,
    `got` what was offered. What helps: the model of `expected`, or a generation for `got`."""

    def __init__(self, collection: str, expected: str, got: str) -> None:
        """expected, got: embedding versions; `expected` is empty for a collection without a generation."""
        super().__init__(
            f"collection {collection!r} holds vectors of embedding_version {expected!r}, not {got!r}"
        )
        self.expected = expected
        self.got = got


class GenerationConflict(IndexStoreError):
    """Raised for a step of the generations that their state does not allow, like promoting what was never
    begun; nothing was changed. What helps: the step that the message names, first."""


class Unavailable(IndexStoreError):
    """Raised when the index can't do something now that it can do at another time; the same request may
    succeed later. This and every class below it carries a `hint` that is never empty."""

    def __init__(self, message: str, hint: str) -> None:
        """hint: what an operator can do about it, the command whole."""
        assert hint, f"what helps against {message!r}?"
        super().__init__(message, hint)


class WriteFailed(Unavailable):
    """Raised when the disk refused a write, a backup or a step of the generations. Whether a batch was stored
    is unknown; repeating it is safe. What helps: room on the disk, or another disk."""


class ReadOnly(Unavailable):
    """Raised for writes and backups while the disk is nearly full; searches go on and nothing was written.
    What helps: free space; writes are accepted again without a restart."""


class SeqNotReached(Unavailable):
    """Raised when a search named a `min_seq` that no process committed within the wait. What helps: the seq
    of an Ack of this data directory; one of another directory, or of before a restore, is never reached."""

    def __init__(self, message: str) -> None:
        """What helps is the same for every one of them."""
        super().__init__(message, "leave min_seq out: it may come from another data directory")


class WordsNotSealed(Unavailable):
    """Raised for a search by words while sealed rows have no postings of the collection's lexical fields:
    they were sealed before those were declared, or by an older version. Searches by vectors go on. What
    helps: waiting for maintenance, which seals them again by itself, or `hint`."""


class StoreUnavailable(Unavailable):
    """Raised when a store can't be opened or read now, though its bytes may be sound: the system stands in
    the way (open files, memory, rights, a full disk), or the collection is declared with another dim,
    metric or id type. Concerns one collection alone. What helps: the limit or the setting that `hint`
    names."""


class StoreDamaged(Unavailable):
    """Raised when a row or a file fails its checksum, is missing, or belongs to another store. Segments
    and snapshots are made again by maintenance; a store of record is not. What helps: `hint` says which it
    is."""


class UnknownFormat(StoreDamaged):
    """Raised when a pointer or a store is of another format_version than this program reads. Nothing was
    changed. What helps: the release that wrote it, or a backup of before."""


class PointerLost(StoreDamaged):
    """Raised when both files of a collection's pointer are lost: its stores may be sound, but which of
    them to serve is unknown. What helps: `hint` makes the pointer again; the collection opens by itself
    after that."""


def without_errors(outcomes: Sequence[T | IndexStoreError]) -> list[T]:
    """Return them all. Raises the first of them that is an error."""
    found: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, IndexStoreError):
            raise outcome
        found.append(outcome)
    return found
