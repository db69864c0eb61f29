"""What a feeder last said about a collection: read from the cursors that it stores with its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

REPORT_CURSOR = "sync.report"
BRAKE_CURSOR = "sync.brake"


class _Written(msgspec.Struct):
    equal: bool
    as_of_ms: int
    lag_ms: float | None = None
    quarantined: int | None = None


@dataclass(frozen=True, slots=True)
class SyncReport:
    """All None while no feeder has reported. in_sync: its last full comparison found source and index equal,
    as of `as_of_ms` (milliseconds since 1970). lag_ms: of the last change, commit in the source to sent.
    quarantined: how many items can't be stored, because their content or vector can't be had or taken."""

    in_sync: bool | None = None
    as_of_ms: int | None = None
    lag_ms: float | None = None
    quarantined: int | None = None


def sync_report(cursors: Mapping[str, str]) -> SyncReport:
    """Return nothing for a report that can't be read: any caller with a write key may store cursors."""
    written = cursors.get(REPORT_CURSOR)
    if written is None:
        return SyncReport()
    try:
        report = msgspec.json.decode(written, type=_Written)
    except msgspec.DecodeError:
        return SyncReport()
    return SyncReport(report.equal, report.as_of_ms, report.lag_ms, report.quarantined)


def is_braked(cursors: Mapping[str, str]) -> bool:
    """Whether the feeder holds deletes back, since too many items would vanish at once."""
    return bool(cursors.get(BRAKE_CURSOR))
