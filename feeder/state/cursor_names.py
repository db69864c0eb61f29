"""Names of the cursors that feeders have the service store, each in the commit of the rows that it speaks of.

Other programs read them too (`GET /v1/sync/status`), so a name stays what it is.
"""

from __future__ import annotations

from typing import Final, Literal

IMPORT_CURSOR: Final = "import"
"""Where an import stands, and which embedding_version its vectors are proven to be of."""
FOLLOWER_CURSOR: Final = "sync.follower"
"""Whose memory the index was last kept up by."""
CLOCK_CURSOR: Final = "sync.clock"
"""The newest source_version that any feeder of the collection wrote."""
TIERS_CURSOR: Final = "sync.tiers"
"""How each side is followed, as `vectors=log items=poll`."""
REPORT_CURSOR: Final = "sync.report"
"""What the service tells about a feeder in /health: JSON with equal, as_of_ms, lag_ms and quarantined."""
WINDOW_CURSOR: Final = "sync.vanished"
"""How many items vanished within the brake's window, as `BrakeWindow.as_cursor` writes it."""
QUARANTINE_CURSOR: Final = "sync.quarantine"
"""JSON with why items are in quarantine, as `quarantine_text` writes it; empty when none is."""
RETRY_CURSOR: Final = "sync.retry"
"""Written by whoever asks the feeder to try quarantined content again: any text but the one before."""
BRAKE_CURSOR: Final = "sync.brake"
"""JSON with why, hint and since_ms while the brake holds; empty when it does not."""


def bookmark_cursor(side: Literal["vectors", "items"]) -> str:
    """Return the name of the cursor that holds the bookmark of a side's feed."""
    return f"sync.{side}"
