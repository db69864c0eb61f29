"""The outcome of a full comparison, for programs and for the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from feeder.compare.diff import Differences
from vector_client.types import Id

log = logging.getLogger(__name__)

NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome. is_equal: every one of the `rows` items is the same on both sides, `root` says it, as of
    `as_of_s`, except for the `quarantined` ids, whose content can't be had or stored: of them only activity
    is compared. found: what differed at first; left: what still did at the end. set_aside: rows of the source
    that cannot be stored, by reason. seconds: reading the source, everything."""

    collection: str
    is_equal: bool
    as_of_s: float
    rows: int
    root: str
    embedding_version: str
    found: Differences
    left: Differences
    skipped: Mapping[str, int]
    quarantined: Mapping[Id, str]
    read_seconds: float
    seconds: float

    def __str__(self) -> str:
        found = self.found
        differed = f"{len(found.missing)} missing, {len(found.changed)} changed, {len(found.extra)} extra"
        if self.is_equal:
            but = f" except {len(self.quarantined):,} quarantined" if self.quarantined else ""
            return f"equal{but}, {self.rows:,} rows, root {self.root[:16]} ({differed} before)"
        names = ", ".join(map(str, self.left.all_ids[:NAMES_SHOWN]))
        return f"NOT equal: {len(self.left.all_ids):,} of {self.rows:,} rows differ (as {names}); {differed}"


def log_report(report: Report) -> None:
    """Write one line, a warning where the two sides differ."""
    log.log(
        logging.INFO if report.is_equal else logging.WARNING,
        "compared",
        extra={
            "collection": report.collection,
            "equal": report.is_equal,
            "rows": report.rows,
            "root": report.root,
            "missing": len(report.found.missing),
            "changed": len(report.found.changed),
            "extra": len(report.found.extra),
            "left": len(report.left.all_ids),
            "quarantined": len(report.quarantined),
            "seconds": round(report.seconds, 3),
        },
    )
