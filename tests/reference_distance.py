"""Distances as the reference index computes them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from index_store.types import Metric


def distance_of(metric: Metric, a: Any, b: Any) -> float:
    """pgvector's meaning, summed without rounding."""
    return _distance(metric, *(np.asarray(each, np.float64).tobytes() for each in (a, b)))


@lru_cache(maxsize=1 << 16)  # the same query is asked in many ways
def _distance(metric: Metric, a: bytes, b: bytes) -> float:
    left, right = np.frombuffer(a).tolist(), np.frombuffer(b).tolist()
    if metric == "l2":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(left, right, strict=True)))
    dot = math.fsum(x * y for x, y in zip(left, right, strict=True))
    if metric == "ip":
        return -dot
    lengths = math.sqrt(math.fsum(x * x for x in left)) * math.sqrt(math.fsum(y * y for y in right))
    return max(0.0, 1 - dot / lengths) if left != right else 0.0
