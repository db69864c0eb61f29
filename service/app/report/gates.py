"""Gates: what a report must hold before a promotion (docs/decisions/0067)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.app.report.result import Report
from service.collections import Gates

_KIND_QUERIES_MIN = 10
"""A kind with fewer queries is judged within the whole: one query must not stop a promotion."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """name: the setting that has `limit`. value: None where the report could not measure it; such a gate
    holds. kind: the kind of query that decided, empty where it is all of them."""

    name: str
    value: float | None
    limit: float
    holds: bool
    kind: str = ""

    @property
    def sentence(self) -> str:
        """What is wrong, for a caller."""
        where = f" for {self.kind} queries" if self.kind else ""
        bound = "at least" if self.name.endswith("_min") else "at most"
        return f"{self.name} is {self.value}{where}, {bound} {self.limit} is wanted"


def gate_results(report: Report, gates: Gates) -> list[GateResult]:
    """Return each gate with its value. The worst kind of query decides over overlap and known items: a good
    mean must not hide a broken one."""
    return [
        _overlap(report, gates.overlap_at_10_min),
        _known_item_loss(report, gates.known_item_loss_max),
        _ndcg_loss(report, gates.ndcg_loss_max),
        _zero_results(report, gates.zero_results_max),
    ]


def failing(results: Sequence[GateResult]) -> list[GateResult]:
    """Return those that do not hold."""
    return [each for each in results if not each.holds]


def _overlap(report: Report, limit: float) -> GateResult:
    name = "overlap_at_10_min"
    if report.overall is None:
        return GateResult(name, None, limit, holds=True)
    rows: dict[str, float] = {
        kind: row.overlap_at_10 for kind, row in report.by_kind.items() if row.queries >= _KIND_QUERIES_MIN
    }
    rows[""] = report.overall.overlap_at_10  # where kinds of few queries count
    kind, value = min(rows.items(), key=lambda row: row[1])
    return GateResult(name, value, limit, holds=value >= limit, kind=kind)


def _known_item_loss(report: Report, limit: float) -> GateResult:
    name = "known_item_loss_max"
    losses = {
        kind: round(each.found_before - each.found_after, 4) for kind, each in report.known_items.items()
    }
    if not losses:
        return GateResult(name, None, limit, holds=True)
    kind, value = max(losses.items(), key=lambda row: row[1])
    return GateResult(name, value, limit, holds=value <= limit, kind=kind)


def _ndcg_loss(report: Report, limit: float) -> GateResult:
    name = "ndcg_loss_max"
    judged = report.judged
    if judged is None:
        return GateResult(name, None, limit, holds=True)
    value = round(judged.ndcg_at_10_before - judged.ndcg_at_10_after, 4)
    return GateResult(name, value, limit, holds=value <= limit)


def _zero_results(report: Report, limit: int) -> GateResult:
    name = "zero_results_max"
    if report.overall is None:
        return GateResult(name, None, limit, holds=True)
    value = report.overall.zero_new
    return GateResult(name, value, limit, holds=value <= limit)
