"""Every way a call can fail.

VectorClientError
├── NoAnswer                the service was not reached
│   ├── Disconnected        the connection broke before the answer was whole
│   ├── TimedOut            no answer in time; a write may still be applied later
│   └── CircuitOpen         not asked: too many calls before failed; the circuit breaker tries again soon
├── NotSent                 the call can't be made: an argument has no form in JSON, or the client is closed
├── BadAnswer               something answered that is not the service
├── DatabaseFailed          the backend's own database could not answer
├── PathFailed              a searcher of the backend's own raised another error; its text is in the message
├── SpaceChanged            the service embeds with another model than the table's vectors
└── Refused                 the service said no; status, code, detail, request_id say why
    ├── BadRequest          any other 4xx: the same request fails again
    ├── KeyRefused          401, 403
    ├── NotFound            404
    ├── Conflict            409, as embedding_version_mismatch
    └── Unavailable         429 and 5xx: the same request may succeed later
SettingsWrong               a variable of the environment is missing or out of bounds; all mistakes at once
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class VectorClientError(Exception):
    """Base of all errors of this package."""


class SettingsWrong(Exception):
    pass


class NoAnswer(VectorClientError):
    pass


class Disconnected(NoAnswer):
    pass


class TimedOut(NoAnswer):
    pass


class CircuitOpen(NoAnswer):
    pass


class NotSent(VectorClientError):
    """Nothing was sent. Raised for an argument that has no form in JSON (half of a surrogate pair, NaN, a
    number beyond 64 bits), after `close`, and in another event loop than the client's own."""


class BadAnswer(VectorClientError):
    pass


class DatabaseFailed(VectorClientError):
    pass


class PathFailed(VectorClientError):
    pass


class SpaceChanged(VectorClientError):
    pass


class Refused(VectorClientError):
    """A problem+json answer. `code` is for programs, `detail` for people, `request_id` for the logs. hint:
    the command or the setting that helps, whole; empty where there is none.

    retry_after_s: what the service asks for, None when it does not say.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str = "",
        errors: Sequence[Any] = (),
        retry_after_s: float | None = None,
        hint: str = "",
    ) -> None:
        helps = f" {hint}" if hint and hint not in detail else ""
        asked = f" (request {request_id})" if request_id else ""
        super().__init__(f"{status} {code}: {detail}{helps}{asked}")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.errors = errors
        self.retry_after_s = retry_after_s
        self.hint = hint


class BadRequest(Refused):
    pass


class KeyRefused(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class Unavailable(Refused):
    pass


def refusal_class(status: int) -> type[Refused]:
    """Return the class that says what an HTTP status means for the caller."""
    if status in (401, 403):
        return KeyRefused
    if status == 404:
        return NotFound
    if status == 409:
        return Conflict
    if status == 429 or status >= 500:
        return Unavailable
    return BadRequest
