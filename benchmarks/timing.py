"""Timings that can be compared: contenders take turns on the same queries, medians are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Call = Callable[[int], Any]
"""Does the work for one query, given its number."""


def in_turns(calls: Mapping[str, Call], queries: Sequence[int], rounds: int = 2) -> dict[str, float]:
    """Return each call's median microseconds. What else the machine does hits all of them alike."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        call(queries[0])  # page in and cache, untimed
        assert name
    for _ in range(rounds):
        for query in queries:
            for name, call in calls.items():
                began = time.perf_counter()
                call(query)
                took[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) * 1e6 for name, times in took.items()}
