"""What a follower tells of quarantined items, and a person's wish that they be tried again: both go through
cursors, since the service is where feeder and operator meet."""

from __future__ import annotations

import json
from collections.abc import Mapping

from feeder.changes import Changes
from feeder.facts import SourceReader
from feeder.sink.brake import Store
from feeder.state.cursor_names import QUARANTINE_CURSOR, RETRY_CURSOR
from feeder.telemetry.reporting import by_reason
from vector_client.types import Id

_REASONS_MAX = 10
_IDS_SHOWN = 5
_REASON_CHARS_MAX = 300


class QuarantineNotes:
    """For one follower; for one thread."""

    def __init__(self, reader: SourceReader, store: Store) -> None:
        self._reader = reader
        self._store = store
        self._retried = ""

    def follow_wish(self, stored: Mapping[str, str]) -> None:
        """Make everything due if somebody asked for it since the last time; once after a start, too, if
        somebody ever did. stored: the service's cursors."""
        wish = stored.get(RETRY_CURSOR, "")
        if wish != self._retried:
            self._retried = wish
            self._reader.retry_quarantined()

    def tell(self, stored: Mapping[str, str]) -> None:
        """Have the service store what is in quarantine, where that is not what it holds."""
        text = quarantine_text(self._reader.quarantined())
        if text != stored.get(QUARANTINE_CURSOR, ""):
            self._store.apply(Changes(), {QUARANTINE_CURSOR: text})


def quarantine_text(reasons: Mapping[Id, str]) -> str:
    """Return JSON: under `reasons` why, count and some ids, the most frequent reason first; empty for none.

    At most 10 reasons with 5 ids each, so it stays below 64 KiB whatever the source holds."""
    if not reasons:
        return ""
    told = [
        {"why": why[:_REASON_CHARS_MAX], "count": len(ids), "ids": ids[:_IDS_SHOWN]}
        for why, ids in by_reason(reasons)[:_REASONS_MAX]
    ]
    return json.dumps({"reasons": told}, ensure_ascii=False)
