"""From when until when an item is shown: two keys of its metadata that its collection names."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from item_rules.moments import seconds_of

_OFFSET = re.compile(r"(?:Z|([+-])(\d\d):(\d\d))")
WANTED = (
    "must be a date and time (2026-11-28T21:00:00+09:00), a date, a number of seconds since 1970, or null"
)

LifetimeState: TypeAlias = Literal["not_yet_active", "ended"]


@dataclass(frozen=True, slots=True)
class Lifetime:
    """begin_key, end_key: top-level keys of the metadata; empty for none. An item is shown from the moment
    under the first on, and before the one under the second; without one there is no such bound.
    utc_offset_s: of times that do not say theirs. clock: seconds since the epoch."""

    begin_key: str = ""
    end_key: str = ""
    utc_offset_s: float = 0.0
    clock: Callable[[], float] = field(default=time.time, compare=False)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys that there are."""
        return tuple(filter(None, (self.begin_key, self.end_key)))

    def instant(self, value: object) -> float | None:
        """Return the moment that a value of the metadata names, in seconds since the epoch; None for null and
        for what can't be read."""
        seconds = seconds_of(value.strip() if isinstance(value, str) else value, self.utc_offset_s)
        return seconds if math.isfinite(seconds) else None

    def state(self, metadata: Mapping[str, Any] | None, now: float) -> LifetimeState | None:
        """Return why an item with this metadata is not shown now; None where it is."""
        begin, end = (self.instant((metadata or {}).get(key)) for key in (self.begin_key, self.end_key))
        if end is not None and now >= end:
            return "ended"
        return "not_yet_active" if begin is not None and now < begin else None

    def fault(self, metadata: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a value under one of the keys, the key first; None where nothing is."""
        for key in self.keys:
            value = metadata.get(key)
            if value is not None and self.instant(value) is None:
                return f"{key} {WANTED}"
        return None


class ShownSpan(NamedTuple):
    """Rows that are shown: those that have begun at `begun_by` and not ended at `now`."""

    lifetime: Lifetime
    begun_by: float
    now: float


def span_of(lifetime: Lifetime | None, pinned: float | None = None) -> ShownSpan | None:
    """Return what is shown now; of later pages, what was shown when the first began and is not over. None
    where nothing bounds the life of items."""
    if lifetime is None:
        return None
    now = lifetime.clock()
    return ShownSpan(lifetime, now if pinned is None else min(pinned, now), now)


def utc_offset_of(text: str) -> float | None:
    """Return the seconds of an offset as RFC 3339 writes it (`+09:00`, `Z`); None for another text."""
    found = _OFFSET.fullmatch(text)
    if found is None:
        return None
    sign, hours, minutes = found.groups()
    seconds = 3600 * int(hours or 0) + 60 * int(minutes or 0)
    return float(-seconds if sign == "-" else seconds) if seconds < 86_400 else None
