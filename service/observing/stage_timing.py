"""How long each stage of searches and writes takes, over all workers.

A search takes some hundred microseconds of this process, so a stage may cost a fraction of one: `observe`
adds to numbers in memory (0.3 us), which are a mapped file where several workers share a folder.
prometheus_client's own histogram takes nine times that with several workers (docs/decisions/0075).
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

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
_WIDTH: Final = _SUM + 1
_BYTES: Final = len(STAGES) * _WIDTH * 8
_FILE: Final = "stages-{}.bin"


class StageTiming(Collector):
    """`observe` from the event loop, `observe_pass` from the threads of models."""

    def __init__(self, shared_dir: Path | None = None) -> None:
        """shared_dir: where each worker keeps its file; a worker that has ended leaves it."""
        self._shared_dir = shared_dir
        self._values = memoryview(_memory(shared_dir)).cast("d")
        self._lock = threading.Lock()

    def observe(self, stage: int, seconds: float) -> None:
        """Count one passage of a stage."""
        values, first = self._values, stage * _WIDTH
        values[first + bisect_left(BOUNDS, seconds)] += 1
        values[first + _SUM] += seconds

    def observe_pass(self, waits_s: Sequence[float], took_s: float) -> None:
        """Count a pass of a model over queries. From any thread: no other method writes these two stages."""
        with self._lock:
            for wait_s in waits_s:
                self.observe(EMBED_WAIT, wait_s)
                self.observe(EMBED, took_s)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client. From any thread."""
        sums = self._summed()
        family = HistogramMetricFamily(
            "uhok_stage_seconds", "Time of one request in one stage of its way.", labels=("stage",)
        )
        for stage, row in zip(STAGES, sums.tolist(), strict=True):
            ends = [*map(str, BOUNDS), "+Inf"]
            family.add_metric((stage,), list(zip(ends, accumulate(row[:_SUM]), strict=True)), row[_SUM])
        yield family

    def _summed(self) -> npt.NDArray[np.float64]:
        """(stages, buckets and sum) over all workers."""
        if self._shared_dir is None:
            blocks = [bytes(self._values)]
        else:
            blocks = [file.read_bytes() for file in self._shared_dir.glob(_FILE.format("*"))]
        total = np.zeros((len(STAGES), _WIDTH))
        for block in blocks:
            if len(block) == _BYTES:
                total += np.frombuffer(block, np.float64).reshape(total.shape)
        return total


def _memory(shared_dir: Path | None) -> bytearray | mmap.mmap:
    if shared_dir is None:
        return bytearray(_BYTES)
    with (shared_dir / _FILE.format(os.getpid())).open("w+b") as file:
        file.truncate(_BYTES)
        return mmap.mmap(file.fileno(), _BYTES)
