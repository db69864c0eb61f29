"""What every request counts: how many, how long, how many now; and every call of the index."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.observing.histogram import add_histogram
from service.observing.shared_rows import SharedRows

BOUNDS: Final = (
    *(0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0),
)
"""Seconds. Close where most searches are (p50 about 1 ms), wide where deadlines are."""
_SUM: Final = len(BOUNDS) + 1
_ROWS_MAX: Final = 512
"""Routes, methods and statuses that were seen together."""
_IN_FLIGHT: Final = "in flight"
_CALLS: Final = "calls"
_BATCHES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


class RequestCounters(Collector):
    """Event loop only, but for `collect`."""

    def __init__(self, shared_dir: Path | None = None) -> None:
        self._rows = SharedRows("requests", _SUM + 1, _ROWS_MAX, shared_dir)
        self._values = self._rows.values
        self._in_flight = self._rows.row(_IN_FLIGHT)
        self._places: dict[tuple[str, str, int], int] = {}

    def count_in(self) -> None:
        """Count a request that began."""
        self._values[self._in_flight] += 1

    def count_out(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that ended (0.4 us)."""
        values, key = self._values, (route, method, status)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._rows.row(f"{method} {status} {route}")
        values[self._in_flight] -= 1
        values[place + bisect_left(BOUNDS, seconds)] += 1
        values[place + _SUM] += seconds

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        counted = CounterMetricFamily(
            "uhok_http_requests_total", "Requests answered.", labels=("route", "method", "status")
        )
        took = HistogramMetricFamily(
            "uhok_http_request_seconds", "From the request's head to the answer's end.", labels=("route",)
        )
        now = GaugeMetricFamily("uhok_http_requests_in_flight", "Requests now.")
        by_route: dict[str, npt.NDArray[np.float64]] = {}
        for name, numbers in self._rows.summed().items():
            if name != _IN_FLIGHT:
                method, status, route = name.split(" ", 2) if " " in name else ("", "", name)
                counted.add_metric((route, method, status), float(numbers[:_SUM].sum()))
                by_route[route] = by_route.get(route, 0) + numbers
        for route, numbers in by_route.items():
            add_histogram(took, (route,), BOUNDS, numbers)
        now.add_metric((), float(self._rows.summed(running_only=True)[_IN_FLIGHT][0]))
        yield from (counted, took, now)


class BatchCounters(Collector):
    """How many searches each call of the index answers. `count_call` from one thread at a time."""

    def __init__(self, shared_dir: Path | None = None) -> None:
        self._rows = SharedRows("batches", len(_BATCHES) + 2, 2, shared_dir)
        self._values = self._rows.values
        self._place = self._rows.row(_CALLS)

    def count_call(self, requests: int) -> None:
        """Count one call of the index that answered `requests` searches."""
        self._values[self._place + bisect_left(_BATCHES, requests)] += 1
        self._values[self._place + len(_BATCHES) + 1] += requests

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client. From any thread."""
        family = HistogramMetricFamily("uhok_search_batch_requests", "Searches answered by one index call.")
        add_histogram(family, (), _BATCHES, self._rows.summed()[_CALLS])
        yield family
