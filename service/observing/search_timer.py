"""Where the time of one search goes: the one object that it carries along for that."""

from __future__ import annotations

import msgspec

from index_store.types import PlanStep


class SearchTimer(msgspec.Struct, gc=False):
    """Of one search; each value is written by whoever has the search in hand, times on `time.perf_counter`.

    asked_at: when it was put in line for the index. embed_s: waiting for its vector, the model's queue
    included. wait_s: in line. search_s: of the index call that answered it, and maybe others too. steps: how
    the index searched.
    """

    asked_at: float = 0.0
    embed_s: float = 0.0
    wait_s: float = 0.0
    search_s: float = 0.0
    steps: list[PlanStep] = msgspec.field(default_factory=list)
