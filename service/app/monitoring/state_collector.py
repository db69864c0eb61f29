"""The state that all workers share, found when metrics are read: collections, sync, jobs, disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, get_args

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from index_store.errors import Unavailable
from index_store.footprint import Footprint
from index_store.port import FootprintSource, IndexStorage, VectorIndex
from index_store.types import CollectionStatus
from service.app.health.maintenance_status import MaintenanceStatus
from service.app.rebuild.jobs import Job, JobState
from service.app.sync_report import is_braked, sync_report
from service.observing.gauge_families import GaugeFamilies, GaugeTable

log = logging.getLogger(__name__)

_ONE: Final = ("collection",)
_BY_ROLE: Final = ("collection", "role")
STATE_METRICS: Final[GaugeTable] = {
    "uhok_collection_items": ("Known items, live or not, by role of the generation.", _BY_ROLE),
    "uhok_collection_live_items": ("Items that a search can return.", _BY_ROLE),
    "uhok_collection_awaiting_items": ("Items with content and without a vector yet.", _BY_ROLE),
    "uhok_collection_seq": ("Number of the newest commit.", _BY_ROLE),
    "uhok_collection_delta_rows": ("Rows that are not sealed into a segment yet.", _BY_ROLE),
    "uhok_collection_segments": ("Sealed segments.", _BY_ROLE),
    "uhok_collection_sealed_rows": ("Rows of segments.", _BY_ROLE),
    "uhok_collection_hidden_rows": ("Rows of segments that no search returns any more.", _BY_ROLE),
    "uhok_collection_tombstones": ("Deleted ids that are kept; counted once a minute.", _BY_ROLE),
    "uhok_collection_store_bytes": ("Bytes of the store of record and its log.", _BY_ROLE),
    "uhok_collection_mapped_bytes": ("Bytes of the files of segments, mapped by every worker.", _BY_ROLE),
    "uhok_generation_info": (
        "1: which generation and embedding version has the role.",
        (*_BY_ROLE, "generation", "embedding_version"),
    ),
    "uhok_sync_lag_seconds": ("Of the last change: from commit in the source to sent.", _ONE),
    "uhok_sync_in_sync": ("1 if the feeder's last comparison found source and index equal.", _ONE),
    "uhok_sync_compared_timestamp_seconds": ("When that comparison read its source.", _ONE),
    "uhok_sync_quarantined_items": ("Items that the feeder can't have stored.", _ONE),
    "uhok_sync_brake": ("1 while the feeder's brake holds deletes back.", _ONE),
    "uhok_set_aside_generations": ("Generations that no role names, kept for a while.", _ONE),
    "uhok_set_aside_bytes": ("Bytes of those generations on disk.", _ONE),
    "uhok_jobs": ("Jobs that are kept, by state.", ("state",)),
    "uhok_maintenance_up": ("1 while the process that seals and merges segments runs.", ()),
    "uhok_maintenance_restarts_total": ("How often that process was started again.", ()),
    "uhok_disk_free_bytes": ("Room that is left on the disk of DATA_DIR.", ()),
    "uhok_disk_reserve_bytes": ("Writes are refused while less than this is free.", ()),
    "uhok_workers_configured": ("Serving processes as configured.", ()),
}


class StateIndex(VectorIndex, FootprintSource, Protocol):
    """What is asked of an index."""


class StateCollector(Collector):
    """Reads stores and folders (some ms); from any thread. What can't be read has no value."""

    def __init__(
        self,
        collections: Sequence[str],
        index: StateIndex,
        jobs: Callable[[], Sequence[Job]],
        storage: IndexStorage,
        maintenance: Callable[[], MaintenanceStatus],
        *,
        workers: int,
    ) -> None:
        self._collections = collections
        self._index = index
        self._jobs = jobs
        self._storage = storage
        self._maintenance = maintenance
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        found = GaugeFamilies(STATE_METRICS)
        for name in self._collections:
            self._add_collection(found, name)
        for name, sizes in self._storage.quarantined_bytes().items():
            found.set_value("uhok_set_aside_generations", (name,), len(sizes))
            found.set_value("uhok_set_aside_bytes", (name,), sum(sizes))
        states = Counter(job.state for job in self._jobs())
        for state in get_args(JobState):
            found.set_value("uhok_jobs", (state,), states[state])
        status = self._maintenance()
        found.set_value("uhok_maintenance_up", (), status.word == "up")
        found.set_value("uhok_maintenance_restarts_total", (), status.restarts)
        room = self._storage.disk_space()
        found.set_value("uhok_disk_free_bytes", (), room.free_bytes)
        found.set_value("uhok_disk_reserve_bytes", (), room.reserve_bytes)
        found.set_value("uhok_workers_configured", (), self._workers)
        yield from found

    def _add_collection(self, found: GaugeFamilies, name: str) -> None:
        try:
            status = self._index.status(name)
            footprints = {each.generation: each for each in self._index.footprints(name)}
        except Unavailable:
            return  # uhok_collection_ready and uhok_degraded tell it
        except Exception:  # the other metrics are needed most when something is wrong
            log.exception("state_not_read", extra={"collection": name})
            return
        for each in status.generations:
            labels = (name, each.role)
            found.set_value("uhok_collection_items", labels, each.items)
            found.set_value("uhok_collection_live_items", labels, each.live)
            found.set_value("uhok_collection_awaiting_items", labels, each.awaiting)
            found.set_value("uhok_collection_seq", labels, each.seq)
            info = (*labels, each.generation, each.embedding_version)
            found.set_value("uhok_generation_info", info, 1)
            if each.generation in footprints:
                _add_footprint(found, labels, footprints[each.generation])
        _add_sync(found, name, status)


def _add_footprint(found: GaugeFamilies, labels: tuple[str, str], footprint: Footprint) -> None:
    found.set_value("uhok_collection_delta_rows", labels, footprint.delta_rows)
    found.set_value("uhok_collection_segments", labels, footprint.segments)
    found.set_value("uhok_collection_sealed_rows", labels, footprint.sealed_rows)
    found.set_value("uhok_collection_hidden_rows", labels, footprint.hidden_rows)
    found.set_value("uhok_collection_tombstones", labels, footprint.tombstones)
    found.set_value("uhok_collection_store_bytes", labels, footprint.store_bytes)
    found.set_value("uhok_collection_mapped_bytes", labels, footprint.mapped_bytes)


def _add_sync(found: GaugeFamilies, name: str, status: CollectionStatus) -> None:
    """What the feeder has told; no value where there is none."""
    cursors = status.current.cursors if status.current else {}
    report = sync_report(cursors)
    if report.in_sync is None:
        return
    found.set_value("uhok_sync_in_sync", (name,), report.in_sync)
    found.set_value("uhok_sync_lag_seconds", (name,), _seconds(report.lag_ms))
    found.set_value("uhok_sync_compared_timestamp_seconds", (name,), _seconds(report.as_of_ms))
    found.set_value("uhok_sync_quarantined_items", (name,), report.quarantined)
    found.set_value("uhok_sync_brake", (name,), is_braked(cursors))


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
