"""How many text queries found their vector at hand, over all workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.embedding.serving.encoders import CacheCounters
from service.observing.metrics import Metrics

_PAUSE_S = 1.0


class QueryCacheCollector(Collector):
    """Hands over what the caches of this process counted since the last time: by `hand_over`, or when metrics
    are read. Safe from any thread."""

    def __init__(self, caches: Callable[[], Iterable[tuple[str, CacheCounters]]], metrics: Metrics) -> None:
        """caches: of all text models that are open, with their embedding versions."""
        self._caches = caches
        self._metrics = metrics
        self._lock = threading.Lock()
        self._told: dict[int, tuple[CacheCounters, tuple[int, int, int]]] = {}

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client. The values themselves are in `Metrics`, whose collector comes later."""
        self.hand_over()
        return iter(())

    def hand_over(self) -> None:
        """Count what is new."""
        with self._lock:
            for version, counters in self._caches():
                _, before = self._told.get(id(counters), (counters, (0, 0, 0)))
                now = (counters.hits, counters.shared, counters.misses)
                self._told[id(counters)] = (counters, now)  # held, so that no other gets its id
                self._metrics.queried(version, *(a - b for a, b in zip(now, before, strict=True)))

    async def hand_over_regularly(self) -> None:
        """Hand over every second: another worker may be asked for the sums."""
        while True:
            await asyncio.sleep(_PAUSE_S)
            self.hand_over()
