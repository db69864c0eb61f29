"""Histograms out of plain numbers: buckets side by side, the sum behind them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt
from prometheus_client.metrics_core import HistogramMetricFamily


def add_histogram(
    family: HistogramMetricFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    numbers: npt.NDArray[np.float64],
) -> None:
    """bounds: upper ends of the buckets. numbers: (bounds + 2), how many fell into each bucket, those above
    the last bound, the sum of all."""
    ends = [*map(str, bounds), "+Inf"]
    *counts, total = numbers.tolist()
    family.add_metric(labels, list(zip(ends, accumulate(counts), strict=True)), total)
