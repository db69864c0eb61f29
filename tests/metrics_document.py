"""docs/METRICS.md, as tests read it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "METRICS.md"


@dataclass(frozen=True, slots=True)
class DocumentedMetric:
    """One row of a table."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


def documented(program: str) -> dict[str, DocumentedMetric]:
    """The metrics of `service` or `feeder`, by name."""
    text = DOCUMENT.read_text("utf-8").partition(f"<!-- metrics of {program}:")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", text, re.MULTILINE)
    return {
        name: DocumentedMetric(kind, tuple(re.findall(r"`(\w+)`", labels)), meaning)
        for name, kind, labels, meaning in rows
    }
