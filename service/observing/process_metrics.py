"""`process_*`: what the service's processes take together: workers, maintenance, decoders of pictures."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.observing.gauge_families import GaugeFamilies, GaugeTable
from service.observing.processes import footprint_of, process_tree

_PROCESS_METRICS: Final[GaugeTable] = {
    "process_cpu_seconds_total": ("CPU time of all processes of the service, ended ones included.", ()),
    "process_resident_memory_bytes": (
        "Memory of all processes of the service; pages of files that they share are counted once.",
        (),
    ),
    "process_open_fds": ("Open files of the process that holds the most.", ()),
    "process_max_fds": ("Files that a process may hold open.", ()),
    "process_start_time_seconds": ("When the service started, seconds since 1970.", ()),
    "uhok_processes": ("Processes of the service.", ()),
}


class ProcessCollector(Collector):
    """Reads /proc (1 ms); without it there are no values. Safe from any thread."""

    def __init__(self, root: Callable[[], int]) -> None:
        """root: the process that started all others."""
        self._root = root

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        found = GaugeFamilies(_PROCESS_METRICS)
        root = self._root()
        members = [each for each in map(footprint_of, process_tree(root)) if each is not None]
        if members:
            found.set_value("process_cpu_seconds_total", (), sum(each.cpu_s for each in members))
            memory = sum(each.own_bytes for each in members) + max(each.file_bytes for each in members)
            found.set_value("process_resident_memory_bytes", (), memory)
            found.set_value("process_open_fds", (), max(each.files for each in members))
            found.set_value("process_start_time_seconds", (), members[0].started_at)
            found.set_value("uhok_processes", (), len(members))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        found.set_value("process_max_fds", (), soft)
        yield from found
