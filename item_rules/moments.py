"""Moments as metadata hold them: ISO 8601 texts, or seconds or milliseconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

_MILLISECONDS_FROM = 1e11
"""Numbers from here on count milliseconds: as seconds it is the year 5138, as milliseconds 1973."""


def seconds_of(value: object, utc_offset_s: float = 0.0) -> float:
    """Return seconds since the epoch; NaN for what is no moment. utc_offset_s: of texts that do not say
    theirs."""
    if isinstance(value, bool):
        return math.nan
    try:
        if isinstance(value, int | float):
            number = float(value)
            return number / 1000 if abs(number) >= _MILLISECONDS_FROM else number
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                zone = timezone(timedelta(seconds=utc_offset_s)) if utc_offset_s else UTC
                moment = moment.replace(tzinfo=zone)
            return moment.timestamp()
    except (ValueError, OverflowError):
        return math.nan
    return math.nan
