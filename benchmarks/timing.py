"""Timings that can be compared: contenders take turns, medians are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Call = Callable[[int], Any]
"""Does the work for one query, given its number."""


def in_turns(calls: Mapping[str, Call], queries: Sequence[int], rounds: int = 3) -> dict[str, float]:
    """Return each call's median microseconds of this thread's processor time, of the best round a query.

    What else the machine does hits all of them alike. At any moment each is at a query of its own: whoever
    comes second to a query finds the rows in the processor's cache, and looks twice as fast.
    """
    count = len(queries)
    took = {name: np.empty((rounds, count)) for name in calls}
    for call in calls.values():
        call(queries[0])  # page in and cache, untimed
    for turn in range(rounds):
        for at in range(count):
            for number, (name, call) in enumerate(calls.items()):
                place = (at + number * count // len(calls)) % count
                began = time.thread_time()
                call(queries[place])
                took[name][turn, place] = time.thread_time() - began
    return {name: float(np.median(times.min(axis=0))) * 1e6 for name, times in took.items()}
