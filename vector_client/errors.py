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
    """Raised at a start, by `from_env` and by Recommenders. Correct what the message lists."""


class NoAnswer(VectorClientError):
    """Raised when the service could not be reached: nobody listens there, or the name has no address."""


class Disconnected(NoAnswer):
    """Raised when the connection broke before the answer was whole, and again when the call was repeated."""


class TimedOut(NoAnswer):
    """Raised when the deadline passed. A write may still be applied: sending the same again is safe."""


class CircuitOpen(NoAnswer):
    """Raised without asking: a path failed several times in a row. One call tries it again after
    ML_BREAKER_REST_S."""


class NotSent(VectorClientError):
    """Nothing was sent. Raised for an argument that has no form in JSON (half of a surrogate pair, NaN, a
    number beyond 64 bits), after `close`, and in another event loop than the client's own."""


class BadAnswer(VectorClientError):
    """Raised when the answer is no answer of this service: check ML_INFERENCE_URL, and proxies on the way."""


class DatabaseFailed(VectorClientError):
    """Raised when the backend's own database failed; the message holds the driver's words. The session's
    transaction may be aborted: roll it back before the session is used again."""


class PathFailed(VectorClientError):
    """Raised when a searcher or a model of the backend raised an error; the message holds its text."""


class SpaceChanged(VectorClientError):
    """Raised when the service embeds with another model than the one that made the table's vectors. Embed
    the table again, or set ML_MODE to a path that uses one model for both."""


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
    """Raised for any other 4xx. The same request fails again; `errors` names the fields."""


class KeyRefused(Refused):
    """Raised for 401 and 403: the key is missing, wrong, or not for this route."""


class NotFound(Refused):
    """Raised for 404: no such collection, item or job."""


class Conflict(Refused):
    """Raised for 409, such as `embedding_version_mismatch`: the state of the collection forbids it."""


class Unavailable(Refused):
    """Raised for 429 and 5xx, after the repeats. The same request may succeed after `retry_after_s`."""


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
