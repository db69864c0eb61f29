"""What is answered to a head that can't be read, or is beyond its bounds."""

from __future__ import annotations

from service.http.wire.problems import Problem


def malformed(error: Exception) -> Problem:
    """What can't be read as HTTP/1.1."""
    return Problem(400, "malformed_http", f"The request is no HTTP/1.1: {str(error)[:100]}.")


def too_large(bytes_max: int) -> Problem:
    """A head of too many bytes."""
    return Problem(431, "head_too_large", f"The request's line and header fields exceed {bytes_max} bytes.")


def too_many_fields(fields_max: int) -> Problem:
    """A head of too many fields."""
    return Problem(431, "head_too_large", f"The request has more than {fields_max} header fields.")


def late_head(seconds: float) -> Problem:
    """A head that did not come in time."""
    return Problem(408, "head_timeout", f"The request's head did not arrive within {seconds:g} s.")
