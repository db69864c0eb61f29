"""How changes are noticed, in words: what an operator may expect of freshness."""

from __future__ import annotations

import logging

from feeder.sources.change_feed import Side, Tier

log = logging.getLogger(__name__)


class TierLog:
    """Says of each side of one collection how it is followed, at the start and when that changes; not at each
    new attempt while a database is down. milliseconds: between two looks, of log and triggers."""

    def __init__(self, collection: str, log_ms: int, trigger_ms: int, poll_s: int) -> None:
        self._collection = collection
        self._visible = {
            "log": f"a change is visible some {log_ms} ms after its commit",
            "triggers": f"a change is visible some {trigger_ms} ms after its commit, sooner in PostgreSQL",
            "poll": f"a change is visible up to {poll_s} s after its commit, and as long as a full comparison"
            " takes; for less than a second grant the log or run `python -m feeder install-triggers`"
            " (docs/FEEDER.md)",
        }
        self._said: dict[Side, Tier] = {}

    def log_tier(self, side: Side, tier: Tier) -> None:
        """Log how a side is followed, unless that was said before."""
        if self._said.get(side) == tier:
            return
        self._said[side] = tier
        about = {"collection": self._collection, "side": side, "tier": tier, "freshness": self._visible[tier]}
        log.log(logging.WARNING if tier == "poll" else logging.INFO, "following_by", extra=about)
