"""Every way the service can say no, above what `index_store.errors` says.

ServiceError
├── BadConfiguration        the start stops: settings, collections file, data directory, port
├── Refused                 the caller's fault: nothing was changed
│   ├── InvalidInput        one field is wrong
│   ├── InvalidImage        not a picture that is read here, or too large
│   ├── UnknownItem         a search starts from an item that is not there
│   ├── UnknownGeneration   a generation, or the report of one, is asked for that is not there
│   ├── BrakeOn             a write by filter would change more items than it may unconfirmed
│   ├── NotSupported        what keeps the collections does not do it
│   ├── JobConflict         a job can't be made, or can't be ended any more
│   └── BatchRejected       items of an all-or-nothing write are wrong
├── ModelError              files of a model are missing, altered, or not what is opened here
└── TryLater                the same request may succeed later
    ├── Starting            collections or models are still being opened
    ├── Overloaded          it would wait longer than it may; `retry_after_s` is how long
    ├── PendingReport       it is being made; who asks again gets it
    ├── DeadlineExceeded    it was begun and not finished in time
    ├── StoppedHalfway      it stopped in the middle; `done` tells how far it came
    └── ModelUnavailable    the model can't load, or serves another embedding_version
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Loc: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class FieldError:
    """Where in a request the mistake is, and what it is."""

    loc: Loc
    msg: str


@dataclass(frozen=True, slots=True)
class Reject:
    """One part of a write that was not stored. loc: where it is below the body, as ("items", 1, "vector")."""

    loc: Loc
    id: int | str | None
    code: str
    detail: str


class ServiceError(Exception):
    """Base of all errors of this package. `str()` is one plain sentence fit for a caller; `hint` is the
    command or the setting that helps, whole, or an empty string."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class BadConfiguration(ServiceError):
    """All mistakes at once, one a line."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


class ModelError(ServiceError):
    """The files of a model can't be had, trusted or converted.

    Met by the commands for models, and when a model is opened, where it becomes ModelUnavailable."""


class Refused(ServiceError):
    """Repeating the same request fails again."""


class InvalidInput(Refused):
    """`loc` names the field below the body, `msg` what is expected of it."""

    def __init__(self, loc: Loc | str, msg: str, code: str = "invalid_request") -> None:
        self.loc: Loc = (loc,) if isinstance(loc, str) else loc
        self.msg = msg
        self.code = code
        name = ".".join(str(part) for part in self.loc)
        super().__init__(f"{name} {msg}." if name else f"{msg[:1].upper()}{msg[1:]}.")


class InvalidImage(Refused):
    """code: image_not_readable, image_too_large, image_format, ..."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class UnknownItem(Refused):
    """A search names an item (`like_ids`) that the collection does not hold."""


class UnknownGeneration(Refused):
    """A generation is named that the collection does not have, or that no report was made of."""


class JobConflict(Refused):
    """What is there stands in the way: another job, an ended one, too little room."""


class NotSupported(Refused):
    """What keeps the collections does not do it; `hint` says what does."""


class BrakeOn(Refused):
    """So many items would be changed that somebody has to confirm it."""


class BatchRejected(Refused):
    """Nothing of the batch was stored; `rejects` says why, item by item."""

    def __init__(self, rejects: Sequence[Reject]) -> None:
        super().__init__(f"{len(rejects)} item(s) of the batch are wrong; nothing was stored.")
        self.rejects = tuple(rejects)


class TryLater(ServiceError):
    """`retry_after_s`: when asking again makes sense."""

    def __init__(self, message: str, retry_after_s: float = 1.0, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Starting(TryLater):
    """Collections or models are still being opened; waiting helps."""


class Overloaded(TryLater):
    """It would wait longer than it may. `retry_after_s`: seconds until the queue is short enough. `reason`:
    what is busy, in one word for metrics."""

    def __init__(self, message: str, retry_after_s: float = 1.0, *, reason: str) -> None:
        super().__init__(message, retry_after_s)
        self.reason = reason


class DeadlineExceeded(TryLater):
    """It was taken, but not finished within the caller's or the service's limit."""


class StoppedHalfway(TryLater):
    """A write in several commits stopped between two of them; what was done stays done. cause: why. done,
    matched: items that were changed, and that were to be."""

    def __init__(self, cause: Exception, *, done: int, matched: int) -> None:
        super().__init__(f"{done} of {matched} items were changed before it stopped: {cause}")
        self.cause = cause
        self.done = done
        self.matched = matched


class PendingReport(TryLater):
    """It takes longer than a caller should wait; it goes on, and is there for who asks again."""

    def __init__(self, collection: str, done: int, total: int) -> None:
        """done, total: queries."""
        super().__init__(
            f"The report is being made, {done} of {total} queries are compared.",
            retry_after_s=5.0,
            hint=f"python -m service report {collection}",
        )


class ModelUnavailable(TryLater):
    """`hint`: the shell command that helps, or an empty string when there is none."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason, retry_after_s=30.0, hint=hint)
        self.reason = reason
