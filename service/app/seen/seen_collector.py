"""What is remembered under callers' keys, as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.app.seen.seen_items import SeenItems
from service.observing.gauge_families import GaugeFamilies, GaugeTable

_GAUGES: Final[GaugeTable] = {
    "uhok_seen_keys": ("Values of seen_key whose items are remembered.", ()),
    "uhok_seen_bytes": ("What they take of SEEN_BYTES_MAX.", ()),
}


class SeenCollector(Collector):
    """Reads the one memory of all workers."""

    def __init__(self, seen: SeenItems) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        families = GaugeFamilies(_GAUGES)
        counts = self._seen.counts()
        families.set_value("uhok_seen_keys", (), counts.keys)
        families.set_value("uhok_seen_bytes", (), counts.bytes_count)
        yield from families
