"""Moments as metadata hold them, ISO 8601 texts or seconds or milliseconds since the epoch; durations."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

_MILLISECONDS_FROM = 1e11
"""As seconds it is the year 5138, as milliseconds 1973."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", re.ASCII)


def duration_of(text: str) -> float:
    """Return the seconds of a text as "36h" or "7d"; NaN for any other."""
    match = _DURATION.fullmatch(text)
    return math.nan if match is None else float(match[1]) * _UNITS[match[2]]


def seconds_of(value: object) -> float:
    """Return seconds since the epoch; NaN for what is no moment. A text without a zone is in UTC."""
    if isinstance(value, bool):
        return math.nan
    try:
        if isinstance(value, int | float):
            number = float(value)
            return number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
    return math.nan
