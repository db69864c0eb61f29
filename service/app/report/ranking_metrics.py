"""How far two rankings agree, and how good one is. Pure; a ranking is a sequence of ids, the nearest first,
none twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from index_store.types import Id

RBO_P = 0.9
"""A reader goes on from each rank to the next in 9 of 10 cases: the first ten carry 86 % of the weight."""
_LOTS, _DRAWN_AT_ONCE, _DRAW_SEED = 10, 100, 17
"""1,000 samples."""


def overlap_at(k: int, before: Sequence[Id], after: Sequence[Id]) -> float:
    """Return the share of the longer one's first `k` that both have; 1 where both are empty."""
    first, second = before[:k], after[:k]
    longest = max(len(first), len(second))
    return len(set(first) & set(second)) / longest if longest else 1.0


def rank_biased_overlap(before: Sequence[Id], after: Sequence[Id], p: float = RBO_P) -> float:
    """Return the extrapolated rank-biased overlap of two rankings of any lengths, 0 to 1.

    Method: Webber, Moffat, Zobel, "A similarity measure for indefinite rankings" (2010), equation 32.
    p: how likely a reader goes on to the next rank.
    """
    shorter, longer = sorted((before, after), key=len)
    s, length = len(shorter), len(longer)
    if s == 0:
        return 1.0 if length == 0 else 0.0
    seen_short: set[Id] = set()
    seen_long: set[Id] = set()
    common = common_at_s = 0
    total = 0.0
    for depth in range(1, length + 1):
        new = longer[depth - 1]
        seen_long.add(new)
        common += new in seen_short
        if depth <= s:
            seen_short.add(shorter[depth - 1])
            common += shorter[depth - 1] in seen_long
            common_at_s = common
        total += common / depth * p**depth
        if depth > s:
            total += common_at_s * (depth - s) / (s * depth) * p**depth
    tail = (common - common_at_s) / length + common_at_s / s
    return (1 - p) / p * total + tail * p**length


def ndcg_at(k: int, ranking: Sequence[Id], grades: Mapping[Id, float]) -> float:
    """Return the normalised discounted cumulative gain of the first `k`, 0 to 1; 0 where no grade is above 0.

    Method: Järvelin and Kekäläinen (2002) as trec_eval computes it: the grade itself is the gain, the
    discount log2(rank + 1), and an item without a grade gains nothing.
    """
    ideal = _discounted(sorted(grades.values(), reverse=True)[:k])
    found = _discounted([grades.get(item_id, 0.0) for item_id in ranking[:k]])
    return found / ideal if ideal > 0 else 0.0


def recall_at(k: int, ranking: Sequence[Id], grades: Mapping[Id, float]) -> float:
    """Return the share of the items graded above 0 that stand in the first `k`, of at most `k`."""
    wanted = {item_id for item_id, grade in grades.items() if grade > 0}
    return len(wanted & set(ranking[:k])) / min(k, len(wanted)) if wanted else 0.0


def reciprocal_rank_at(k: int, ranking: Sequence[Id], grades: Mapping[Id, float]) -> float:
    """Return 1 / the rank of the first item graded above 0 among the first `k`; 0 where there is none."""
    for rank, item_id in enumerate(ranking[:k], start=1):
        if grades.get(item_id, 0.0) > 0:
            return 1 / rank
    return 0.0


def interval_of_means(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return, for each column, where 95 % of the means lie of samples drawn with replacement: (2, m), the
    least and the most. values: (n, m), not empty. Method: percentile bootstrap, always the same draws."""
    rng = np.random.default_rng(_DRAW_SEED)
    n = len(values)
    lots = [values[rng.integers(0, n, (_DRAWN_AT_ONCE, n))].mean(axis=1) for _ in range(_LOTS)]
    found: npt.NDArray[np.float64] = np.percentile(np.concatenate(lots), (2.5, 97.5), axis=0)
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ascending, not empty values lie, by nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean(values: Sequence[float]) -> float:
    """Return the mean of values that are not empty."""
    return math.fsum(values) / len(values)


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(max(gain, 0.0) / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))
