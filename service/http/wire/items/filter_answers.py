"""The answer to a write by filter."""

from __future__ import annotations

from typing import Any

from service.app.listing.filter_writes import FilterSurvey, FilterWriteResult
from service.http.wire.items.written import rejected_item


def surveyed(survey: FilterSurvey) -> dict[str, Any]:
    """Return what would be changed."""
    return {
        "dry_run": True,
        "matched": survey.matched,
        "items": survey.held,
        "sample_ids": list(survey.sample_ids),
        "needs_confirm": survey.matched > survey.allowed,
    }


def changed(survey: FilterSurvey, outcome: FilterWriteResult) -> dict[str, Any]:
    """Return what was changed."""
    return {
        "dry_run": False,
        "matched": survey.matched,
        "done": outcome.done,
        "stale_ignored": outcome.stale_ignored,
        "passed_over": outcome.passed_over,
        "rejected": [rejected_item(each) for each in outcome.rejects],
        "rejected_count": outcome.rejected,
        "vanished": outcome.vanished,
        "reappeared": outcome.reappeared,
        "seq": outcome.seq,
        "version": outcome.embedding_version,
    }
