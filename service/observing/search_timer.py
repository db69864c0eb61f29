"""Where the time of one search goes: what it carries along for that."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from index_store.types import PlanStep


class SearchTimer(msgspec.Struct, gc=False, kw_only=True):
    """Of one search; each value is written by whoever has the search in hand, times on `time.perf_counter`.

    asked_at: when it was put in line for the index. embed_s: waiting for its vector, the model's queue
    included. wait_s: in line. search_s: of the index call that answered it, and maybe others too. steps: how
    the index searched.
    """

    asked_at: float = 0.0
    embed_s: float = 0.0
    wait_s: float = 0.0
    search_s: float = 0.0
    steps: Sequence[PlanStep] = ()
