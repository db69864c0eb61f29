"""Moments as metadata hold them: ISO 8601 texts, or seconds or milliseconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

MILLISECONDS_FROM = 1e11
"""Numbers from here on count milliseconds: as seconds it is the year 5138, as milliseconds 1973."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def seconds_of(value: object, utc_offset_s: float = 0.0) -> float:
    """Return seconds since the epoch; NaN for what is no moment. utc_offset_s: of texts that do not say
    theirs."""
    if isinstance(value, bool):
        return math.nan
    try:
        if isinstance(value, int | float):
            number = float(value)
            return number / 1000 if abs(number) >= MILLISECONDS_FROM else number
    except OverflowError:
        return math.nan
    named = microseconds_of(value) if isinstance(value, str) else None
    if named is None:
        return math.nan
    microseconds, has_offset = named
    if not has_offset:
        microseconds -= microseconds_in(utc_offset_s)
    return microseconds / 1_000_000


def microseconds_of(text: str) -> tuple[int, bool] | None:
    """Return the microseconds since the epoch that a text names, and whether it says its offset; without one
    they are counted as if it were in UTC. None for what is no moment."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    has_offset = moment.tzinfo is not None
    return ((moment if has_offset else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND, has_offset


def microseconds_in(seconds: float) -> int:
    """Return so many seconds in whole microseconds."""
    return timedelta(seconds=seconds) // _MICROSECOND
