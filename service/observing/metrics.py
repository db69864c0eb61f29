"""What the service counts, in Prometheus's form."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    mmap_dict,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from index_store.processes import is_running
from service.observing.reading.text import text_of
from service.observing.request_counters import BatchCounters, RequestCounters
from service.observing.stage_timing import StageTiming

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REFUSAL_REASONS = (
    *("search", "text-model", "picture-model", "picture-decoder"),
    *("write", "snapshot", "report", "map", "body", "scan", "explain"),
)
RATE_LIMITS = ("search", "write")
ERROR_PLACES = ("request", "connection", "search", "probe", "recall")
_SEARCH_ROUTE = "/v1/search"
_RECENT_SEARCHES = 1024
_FILE_BYTES = 1 << 20
"""Of each file of a worker: room for some 6,000 sets of labels, more than collections, problems and versions
make. By itself a file has 64 KiB and is made longer by a hole; see `_reserve_room`."""


class HealthGauges:
    """What the last probe found."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ready = Gauge(
            "uhok_collection_ready",
            "1 while the collection's main kind of query is answered.",
            ("collection",),
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._model_available = Gauge(
            "uhok_model_available",
            "1 while the collection's model embeds in every worker.",
            ("collection",),
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._degraded = Gauge(
            "uhok_degraded",
            "1 while this is wrong, by collection (empty: all) and code, as /health tells it.",
            ("collection", "code"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._degraded_now: set[tuple[str, str]] = set()

    def record_probe(
        self,
        ready: Mapping[str, bool],
        models: Mapping[str, bool],
        degraded: Collection[tuple[str, str]],
    ) -> None:
        """Show which collections are ready, which have a model, every (collection, code) that is wrong."""
        for collection, is_ready in ready.items():
            self._ready.labels(collection).set(is_ready)
        for collection, is_available in models.items():
            self._model_available.labels(collection).set(is_available)
        for labels in self._degraded_now.difference(degraded):
            self._degraded.labels(*labels).set(0)
        for labels in degraded:
            self._degraded.labels(*labels).set(1)
        self._degraded_now = {*degraded}


class Metrics:
    """Counts of this process; `exposition` sums over all workers when `shared_dir` is given. Event loop only,
    but for `exposition`, `unexpected` and `recalled`; `searched` by who searches.

    shared_dir: PROMETHEUS_MULTIPROC_DIR, which prometheus_client wants set before its first import.
    """

    def __init__(self, shared_dir: Path | None = None) -> None:
        self._shared_dir = shared_dir
        if shared_dir is not None:
            mmap_dict._INITIAL_MMAP_SIZE = _FILE_BYTES  # before its first file is made
        self._registry = CollectorRegistry()
        self.stages = StageTiming(shared_dir)
        self._counts = RequestCounters(shared_dir)
        self.request_began: Callable[[], None] = self._counts.count_in  # one call less for each
        batches = BatchCounters(shared_dir)
        self.searched: Callable[[int], None] = batches.count_call
        self._at_reading: list[Collector] = [self._counts, batches, self.stages]
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter
        self._problems = Counter(
            "uhok_problems_total",
            "Requests refused or failed, by problem code.",
            ("code",),
            registry=self._registry,
        )
        self._written = Counter(
            "uhok_items_written_total",
            "Items of acknowledged writes.",
            ("collection", "kind"),
            registry=self._registry,
        )
        self._errors = Counter(
            "uhok_unexpected_errors_total", "Internal errors.", ("place",), registry=self._registry
        )
        self._refusals = Counter(
            "uhok_refusals_total",
            "Requests turned away because they would have waited too long, by what is busy.",
            ("reason",),
            registry=self._registry,
        )
        self._query_cache = Counter(
            "uhok_query_cache_requests_total",
            "Text queries by result: hit, shared (an equal one was being embedded), miss.",
            ("embedding_version", "result"),
            registry=self._registry,
        )
        self._health = HealthGauges(self._registry)
        self._recent_searches: deque[float] = deque(maxlen=_RECENT_SEARCHES)
        for reason in REFUSAL_REASONS:  # from 0 on: an increase from nothing is none to Prometheus
            self._refusals.labels(reason)
        for place in ERROR_PLACES:
            self._errors.labels(place)
        self._count_worker()
        self._add_recall()
        self._add_audit()
        self._add_rate_limits()
        self._add_tracing()
        if shared_dir is not None:
            _reserve_room(shared_dir)

    def _add_recall(self) -> None:
        self._recall_expected = Counter(
            "uhok_recall_expected_total",
            "Nearest items, by exact search, of the searches that were sampled for recall.",
            ("collection",),
            registry=self._registry,
        )
        self._recall_found = Counter(
            "uhok_recall_found_total",
            "Those of them that the search found.",
            ("collection",),
            registry=self._registry,
        )

    def _add_audit(self) -> None:
        self._audit_lost = Counter(
            "uhok_audit_lost_total",
            "Entries of the audit log that were lost, since the disk took none for too long.",
            registry=self._registry,
        )

    def _add_rate_limits(self) -> None:
        self._rate_limited = Counter(
            "uhok_rate_limited_total",
            "Requests refused because their caller had used up its quota (429), by limit.",
            ("limit",),
            registry=self._registry,
        )
        for limit in RATE_LIMITS:
            self._rate_limited.labels(limit)

    def rate_limited(self, limit: str) -> None:
        """Count a request beyond its caller's quota. limit: of RATE_LIMITS."""
        self._rate_limited.labels(limit).inc()

    def _add_tracing(self) -> None:
        self._traces_dropped = Counter(
            "uhok_traces_dropped_total",
            "Traces of requests that the receiver did not take.",
            registry=self._registry,
        )

    def traces_dropped(self, traces: int) -> None:
        """Count traces that were not sent. Safe from any thread."""
        self._traces_dropped.inc(traces)

    def audit_lost(self) -> None:
        """Count an entry of the audit log that is lost."""
        self._audit_lost.inc()

    def _count_worker(self) -> None:
        started = Counter(
            "uhok_worker_starts_total",
            "Serving processes that were started, the first ones included.",
            registry=self._registry,
        )
        running = Gauge(
            "uhok_workers",
            "Serving processes that run.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        started.inc()
        running.set(1)

    def request_ended(self, route: str, method: str, status: int, seconds: float, code: str) -> None:
        """route: the path's template, so that ids never become labels. code: empty without a problem."""
        self._counts.count_out(route, method, status, seconds)
        if route == _SEARCH_ROUTE:
            self._recent_searches.append(seconds)
        if code:
            self._problems.labels(code).inc()

    def take_recent_searches(self) -> list[float]:
        """Return the seconds of this process' searches since the last call, the newest 1,024 of them."""
        recent = list(self._recent_searches)
        self._recent_searches.clear()
        return recent

    def written(self, collection: str, upserted: int, deleted: int, rejected: int) -> None:
        """Count the items of one acknowledged write."""
        for kind, count in (("upserted", upserted), ("deleted", deleted), ("rejected", rejected)):
            if count:
                self._written.labels(collection, kind).inc(count)

    def refused(self, reason: str) -> None:
        """Count a request that was turned away. reason: what is busy, as `Overloaded.reason`."""
        self._refusals.labels(reason).inc()

    def recalled(self, collection: str, found: int, expected: int) -> None:
        """Count one search that was compared with exact search. Safe from any thread."""
        self._recall_found.labels(collection).inc(found)
        self._recall_expected.labels(collection).inc(expected)

    def queried(self, embedding_version: str, hits: int, shared: int, misses: int) -> None:
        """Count text queries by whether the cache of query vectors knew them. Safe from any thread."""
        for result, count in (("hit", hits), ("shared", shared), ("miss", misses)):
            self._query_cache.labels(embedding_version, result).inc(count)

    def unexpected(self, place: str) -> None:
        """Count an error that is no refusal. place: which part of the service met it."""
        self._errors.labels(place).inc()

    def probed(
        self,
        ready: Mapping[str, bool],
        models: Mapping[str, bool],
        degraded: Collection[tuple[str, str]],
    ) -> None:
        """models: of collections that have one, whether it embeds. degraded: (collection, code) of all that
        is wrong now."""
        self._health.record_probe(ready, models, degraded)

    def add_collector(self, collector: Collector) -> None:
        """Let `collector` be asked at each reading, on the thread that reads."""
        self._at_reading.append(collector)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format. Reads files where there are several workers, and
        whatever the collectors read."""
        registry = CollectorRegistry()
        for collector in self._at_reading:
            registry.register(collector)
        if self._shared_dir is None:
            registry.register(self._registry)
        else:
            _reserve_room(self._shared_dir)  # of a file that has grown all the same
            _forget_ended_workers(self._shared_dir)
            MultiProcessCollector(registry, path=str(self._shared_dir))  # type: ignore[no-untyped-call]
        return text_of(registry.collect())


def _reserve_room(shared_dir: Path) -> None:
    """Give this process's files their room on disk now. They have holes, and a first write into one while the
    disk is full ends the process (SIGBUS). Raises OSError."""
    for path in shared_dir.glob(f"*_{os.getpid()}.db"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _forget_ended_workers(shared_dir: Path) -> None:
    """Take the gauges of workers that have ended out of the sums; what they counted stays."""
    for file in shared_dir.glob("gauge_live*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        if not is_running(process_id):
            mark_process_dead(process_id, path=str(shared_dir))  # type: ignore[no-untyped-call]
