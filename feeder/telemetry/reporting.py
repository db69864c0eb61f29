"""What people and machines see of a run: a bar or lines while it lasts, a table or a JSON line at its end."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from log_lines.json_lines import extra_fields

log = logging.getLogger(__name__)

LINE_SECONDS = 5.0
_ADDRESS = re.compile(r"^'?https?://\S*: ")


class Progress(Protocol):
    """Shows how far one collection is."""

    def begin(self, what: str, total: int, done: int) -> None:
        """Show that `done` of `total` rows of `what` are there already."""

    def advance(self, rows: int) -> None:
        """Show that `rows` more rows are done."""

    def end(self) -> None:
        """Show that it is over, well or not."""


class ProgressBar:
    """For a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def begin(self, what: str, total: int, done: int) -> None:
        """Draw the bar."""
        self._bar = tqdm(desc=what, total=total, initial=done, unit=" rows", file=self._stream, smoothing=0.1)

    def advance(self, rows: int) -> None:
        """Move it on."""
        self._bar.update(rows)

    def end(self) -> None:
        """Leave it as it stands."""
        if self._bar is not None:
            self._bar.close()


class ProgressLog:
    """For everything else: a log line every few seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._what = ""
        self._total = self._done = 0
        self._shown_at = 0.0

    def begin(self, what: str, total: int, done: int) -> None:
        """Log `import_began`."""
        self._what, self._total, self._done, self._shown_at = what, total, done, self._clock()
        log.info("import_began", extra={"collection": what, "rows": total, "done": done})

    def advance(self, rows: int) -> None:
        """Log `import_went_on` every few seconds."""
        self._done += rows
        if self._clock() - self._shown_at >= LINE_SECONDS:
            self._shown_at = self._clock()
            log.info(
                "import_went_on", extra={"collection": self._what, "done": self._done, "rows": self._total}
            )

    def end(self) -> None:
        """Log `import_ended`."""
        log.info("import_ended", extra={"collection": self._what, "done": self._done, "rows": self._total})


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome for one collection. counts: in the order to print. notes: sentences. names: ids by reason,
    a few of each."""

    collection: str
    outcome: str
    counts: Mapping[str, int | float | str]
    notes: Sequence[str] = ()
    names: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def by_reason(reasons: Mapping[Any, str]) -> list[tuple[str, list[Any]]]:
    """Return each reason once, with what it is the reason of, the most frequent first. The address that a
    reason begins with is no part of it."""
    found: dict[str, list[Any]] = {}
    for name, reason in reasons.items():
        found.setdefault(_ADDRESS.sub("", reason), []).append(name)
    return sorted(found.items(), key=lambda pair: -len(pair[1]))


def as_table(summary: Summary) -> str:
    """Return a summary for people."""
    width = max([len(name) for name in summary.counts] or [0])
    lines = [f"{summary.collection}: {summary.outcome}"]
    for name, value in summary.counts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        names = summary.names.get(name, ())
        lines.append(f"  {name:<{width}}  {shown:>12}" + (f"  {', '.join(map(str, names))}" if names else ""))
    return "\n".join([*lines, *(f"  {note}" for note in summary.notes)])


def as_json(summary: Summary) -> str:
    """Return a summary for machines, one line."""
    body = {
        "event": "import_summary",
        "collection": summary.collection,
        "outcome": summary.outcome,
        **summary.counts,
        "notes": list(summary.notes),
        "names": {reason: list(ids) for reason, ids in summary.names.items()},
    }
    return json.dumps(body, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """`event name=value ...` for people reading a log file."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback behind it where there is one."""
        fields = " ".join(f"{name}={value}" for name, value in extra_fields(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
