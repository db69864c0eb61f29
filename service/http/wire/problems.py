"""Error to HTTP answer: the one table, and the problem document (RFC 9457) it fills."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from index_store import errors as index
from service import errors as service
from service.errors import FieldError, InvalidInput

PROBLEM_JSON = "application/problem+json"
_ERRORS_SHOWN_MAX = 20
_DETAIL_CHARS_MAX = 300


class HttpRefusal(service.Refused):
    """What only HTTP can get wrong: keys, bodies, content types, routes."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        busy: str = "",
    ) -> None:
        """busy: as `Overloaded.reason`, of what is refused for lack of room."""
        super().__init__(detail)
        self.busy = busy
        self.status = status
        self.code = code
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Problem:
    """An error answer. headers: those besides the content type. hint: what helps, never shortened. busy: of
    what was turned away, as `Overloaded.reason`. progress: of what stopped in the middle."""

    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    busy: str = ""
    progress: Mapping[str, int] = field(default_factory=dict)

    def to_json(self, instance: str, request_id: str) -> bytes:
        """Return the problem document (RFC 9457) as JSON bytes."""
        document: dict[str, Any] = {
            "type": f"urn:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail[:_DETAIL_CHARS_MAX],
            "instance": instance[:_DETAIL_CHARS_MAX],
            "code": self.code,
            "errors": [{"loc": list(each.loc), "msg": each.msg} for each in self.errors[:_ERRORS_SHOWN_MAX]],
            "request_id": request_id,
        }
        document.update(self.progress)
        if self.hint:
            document["hint"] = self.hint
        return orjson.dumps(document)


_TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    # The first row that fits counts: subclasses stand above their bases.
    (index.UnknownCollection, 404, "unknown_collection"),
    (index.InvalidId, 422, "invalid_id"),
    (index.InvalidVector, 422, "invalid_vector"),
    (index.InvalidFilter, 422, "invalid_filter"),
    (index.AnswerLimitExceeded, 422, "answer_too_large"),
    (index.PageExpired, 422, "cursor_expired"),
    (index.InvalidRequest, 422, "invalid_request"),
    (index.VersionMismatch, 409, "embedding_version_mismatch"),
    (index.GenerationConflict, 409, "promote_conflict"),
    (index.SeqNotReached, 503, "min_seq_timeout"),
    (index.ReadOnly, 503, "read_only"),
    (index.WriteFailed, 503, "write_failed"),
    (index.StoreDamaged, 503, "store_damaged"),
    (index.WordsNotSealed, 503, "words_not_sealed"),
    (index.Unavailable, 503, "store_unavailable"),
    (service.UnknownItem, 404, "unknown_item"),
    (service.UnknownGeneration, 404, "unknown_generation"),
    (service.BrakeOn, 409, "brake_on"),
    (service.JobConflict, 409, "job_conflict"),
    (service.NotSupported, 409, "not_supported"),
    (service.BatchRejected, 422, "batch_rejected"),
    (service.Starting, 503, "starting"),
    (service.Overloaded, 503, "overloaded"),
    (service.DeadlineExceeded, 503, "deadline_exceeded"),
    (service.PendingReport, 503, "report_under_way"),
    (service.ModelUnavailable, 503, "model_unavailable"),
    (service.TryLater, 503, "unavailable"),
    (ClientDisconnect, 400, "client_disconnected"),
)
HANDLED: tuple[type[Exception], ...] = (
    service.ServiceError,
    index.IndexStoreError,
    HTTPException,
    RequestValidationError,
    ClientDisconnect,
)
"""What a route may raise; anything else is a 500 and a traceback in the log."""

_STEP = re.compile(r"([^\[\]]+)|\[(\d+)\]")
_FIELD_OF_CODE = {"invalid_vector": "vector", "invalid_filter": "filter", "cursor_expired": "cursor"}
_OF_ROUTING = {
    404: ("unknown_route", "There is no such route."),
    405: ("method_not_allowed", "The route does not answer this method."),
}


def problem_of(error: Exception) -> Problem:
    """Return the answer for `error`. An internal error reveals nothing about itself."""
    if isinstance(error, HttpRefusal):
        return Problem(error.status, error.code, str(error), error.errors, error.headers, busy=error.busy)
    if isinstance(error, InvalidInput):
        return Problem(422, error.code, str(error), [FieldError(("body", *error.loc), error.msg)])
    if isinstance(error, HTTPException):
        code, detail = _OF_ROUTING.get(error.status_code, ("http_error", str(error.detail)))
        return Problem(error.status_code, code, detail, headers=_with_head(error.headers or {}))
    if isinstance(error, RequestValidationError):
        return _of_parameters(error)
    if isinstance(error, service.InvalidImage):
        return _of_image(error)
    if isinstance(error, service.StoppedHalfway):
        progress = {"done": error.done, "matched": error.matched}
        return replace(problem_of(error.cause), detail=str(error), progress=progress)
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return Problem(
                status,
                code,
                str(error) or type(error).__name__,
                _field_errors(error, code),
                _headers(error, status),
                getattr(error, "hint", ""),
                error.reason if isinstance(error, service.Overloaded) else "",
            )
    return Problem(500, "internal_error", "An unexpected error; the log has it under this request_id.")


def problem_of_parameters(problem: Problem, path_names: Collection[str]) -> Problem:
    """Return the same for a request without a body: its fields stand in the query string, or in the path.
    path_names: those that stand in the path."""
    errors = [
        replace(each, loc=("path" if each.loc[1:2] and each.loc[1] in path_names else "query", *each.loc[1:]))
        if each.loc[0] == "body"
        else each
        for each in problem.errors
    ]
    return replace(problem, errors=errors)


def _with_head(headers: Mapping[str, str]) -> dict[str, str]:
    """Add HEAD to an `Allow` of GET: it is answered wherever GET is."""
    return {name: "GET, HEAD" if value == "GET" else value for name, value in headers.items()}


def _headers(error: Exception, status: int) -> dict[str, str]:
    if status != HTTPStatus.SERVICE_UNAVAILABLE:
        return {}
    seconds = error.retry_after_s if isinstance(error, service.TryLater) else 1.0
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def _field_errors(error: Exception, code: str) -> Sequence[FieldError]:
    if isinstance(error, service.BatchRejected):
        return [FieldError(("body", *each.loc), f"{each.code}: {each.detail}") for each in error.rejects]
    if isinstance(error, index.InvalidRequest):
        name = error.field or _FIELD_OF_CODE.get(code, "")
        return [FieldError(("body", *loc_of(name)), str(error))] if name else ()
    return ()


def loc_of(name: str) -> service.Loc:
    """Return where a field of the index is in a body: "items[1].vector" is ("items", 1, "vector"). Behind the
    first point of a filter anything may stand; a boost has one in `if`."""
    head, _, rest = name.partition(".")
    steps: list[str | int] = [step if step else int(place) for step, place in _STEP.findall(head)]
    if head.startswith("boost["):
        kind, _, rest = rest.partition(".")
        steps.append(kind)
    return (*steps, rest) if rest else tuple(steps)


def _of_image(error: service.InvalidImage) -> Problem:
    """What is wrong with a picture stands in `errors`; callers tell a bad file from a bad address by code."""
    is_address = error.code.startswith("image_url_")
    field, code = ("image_url", error.code) if is_address else ("image", "invalid_image")
    return Problem(422, code, str(error), [FieldError(("body", field), f"{error.code}: {error}")])


def _of_parameters(error: RequestValidationError) -> Problem:
    errors = [FieldError(tuple(each["loc"]), str(each["msg"])) for each in error.errors()]
    first = errors[0]
    return Problem(422, "invalid_request", f"{first.loc[-1]}: {first.msg}.", errors)
