"""How long each stage of searches and writes takes, over all workers."""

from __future__ import annotations

import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.observing.histogram import add_histogram
from service.observing.shared_rows import SharedRows

STAGES: Final = (
    "head", "body", "admission", "embed_wait", "embed", "search_wait", "search", "encode", "commit",
)  # fmt: skip
HEAD, BODY, ADMISSION, EMBED_WAIT, EMBED, SEARCH_WAIT, SEARCH, ENCODE, COMMIT = range(len(STAGES))
BOUNDS: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Seconds, upper ends of the buckets."""
_SUM: Final = len(BOUNDS) + 1
"""Behind the buckets, of which the last has no upper end."""
_BOUNDS: Final = np.array(BOUNDS)
_FOUR: Final = struct.Struct("4d")
SEARCHES_MAX: Final = 256
"""So many searches wait at most to be counted, and for a second at most."""


class StageTiming(Collector):
    """`observe` from the event loop, `observe_pass` from the threads of models."""

    def __init__(self, shared_dir: Path | None = None) -> None:
        """shared_dir: where each worker keeps its file; a worker that has ended leaves it."""
        self._rows = SharedRows("stages", _SUM + 1, len(STAGES) + 1, shared_dir)
        self._values = self._rows.values
        self._numbers = np.asarray(self._values)
        self._noted = bytearray(SEARCHES_MAX * _FOUR.size)
        self._noted_bytes = 0
        self._places = [self._rows.row(stage) for stage in STAGES]
        self._lock = threading.Lock()

    def observe(self, stage: int, seconds: float) -> None:
        """Count one passage of a stage (0.3 us)."""
        values, first = self._values, self._places[stage]
        values[first + bisect_left(BOUNDS, seconds)] += 1
        values[first + _SUM] += seconds

    def note_search(self, admission_s: float, wait_s: float, search_s: float, encode_s: float) -> None:
        """Keep the stages of a search that was answered until `add_searches` counts them, all at once."""
        _FOUR.pack_into(self._noted, self._noted_bytes, admission_s, wait_s, search_s, encode_s)
        self._noted_bytes += _FOUR.size
        if self._noted_bytes == len(self._noted):
            self.add_searches()

    def add_searches(self) -> None:
        """Count what was noted. On the event loop."""
        if not self._noted_bytes:
            return
        rows = np.frombuffer(self._noted[: self._noted_bytes], np.float64).reshape(-1, 4)
        self._noted_bytes = 0
        for stage, seconds in zip((ADMISSION, SEARCH_WAIT, SEARCH, ENCODE), rows.T, strict=True):
            first = self._places[stage]
            buckets = np.bincount(np.searchsorted(_BOUNDS, seconds, "left"), minlength=_SUM)
            self._numbers[first : first + _SUM] += buckets
            self._numbers[first + _SUM] += seconds.sum()

    def observe_pass(self, waits_s: Sequence[float], took_s: float) -> None:
        """Count a pass of a model over queries. From any thread: no other method writes these two stages."""
        with self._lock:
            for wait_s in waits_s:
                self.observe(EMBED_WAIT, wait_s)
                self.observe(EMBED, took_s)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client. From any thread."""
        sums = self._rows.summed()
        family = HistogramMetricFamily(
            "uhok_stage_seconds", "Time of one request in one stage of its way.", labels=("stage",)
        )
        for stage in STAGES:
            add_histogram(family, (stage,), BOUNDS, sums[stage])
        yield family
