"""What the service counts, in Prometheus's form."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SEARCH_ROUTE = "/v1/search"
_RECENT_SEARCHES = 1024
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


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
        self._degraded = Gauge(
            "uhok_degraded",
            "1 while this is wrong, by collection (empty: all) and code, as /health tells it.",
            ("collection", "code"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._degraded_now: set[tuple[str, str]] = set()

    def record_probe(self, ready: Mapping[str, bool], degraded: Collection[tuple[str, str]]) -> None:
        """Show which collections are ready, and every (collection, code) that is wrong now."""
        for collection, is_ready in ready.items():
            self._ready.labels(collection).set(is_ready)
        for labels in self._degraded_now.difference(degraded):
            self._degraded.labels(*labels).set(0)
        for labels in degraded:
            self._degraded.labels(*labels).set(1)
        self._degraded_now = {*degraded}


class QuarantineGauges:
    """What retired generations take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._generations = Gauge(
            "uhok_set_aside_generations",
            "Generations that no role names, kept for a while.",
            ("collection",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._bytes = Gauge(
            "uhok_set_aside_bytes",
            "Bytes of those generations on disk.",
            ("collection",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )

    def record_sizes(self, collection: str, generations: int, size: int) -> None:
        """Show how many generations of `collection` are kept apart, and their bytes."""
        self._generations.labels(collection).set(generations)
        self._bytes.labels(collection).set(size)


class Metrics:
    """Counts of this process; `exposition` sums over all workers when `shared_dir` is given.

    shared_dir: PROMETHEUS_MULTIPROC_DIR, which prometheus_client wants set before its first import.
    """

    def __init__(self, shared_dir: Path | None = None) -> None:
        self._shared_dir = shared_dir
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "uhok_http_requests_total",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "uhok_http_request_seconds",
            "From the request's head to the answer's end.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._problems = Counter(
            "uhok_problems_total",
            "Requests refused or failed, by problem code.",
            ("code",),
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "uhok_http_requests_in_flight",
            "Requests now.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._search_batch = Histogram(
            "uhok_search_batch_requests",
            "Searches answered by one index call.",
            buckets=_BATCH,
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
        self._maintenance_up = Gauge(
            "uhok_maintenance_up",
            "1 while the process that seals and merges segments runs.",
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._maintenance_restarts = Gauge(
            "uhok_maintenance_restarts",
            "How often it was started again.",
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._quarantine = QuarantineGauges(self._registry)
        self._health = HealthGauges(self._registry)
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._recent_searches: deque[float] = deque(maxlen=_RECENT_SEARCHES)

    def request_began(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_ended(self, route: str, method: str, status: int, seconds: float, code: str) -> None:
        """route: the path's template, so that ids never become labels. code: empty without a problem."""
        self._in_flight.dec()
        key = (route, method, status)
        pair = self._by_request.get(key)
        if pair is None:
            pair = (self._requests.labels(route, method, str(status)), self._seconds.labels(route))
            self._by_request[key] = pair
        pair[0].inc()
        pair[1].observe(seconds)
        if route == _SEARCH_ROUTE:
            self._recent_searches.append(seconds)
        if code:
            self._problems.labels(code).inc()

    def take_recent_searches(self) -> list[float]:
        """Return the seconds of this process' searches since the last call, the newest 1,024 of them."""
        recent = list(self._recent_searches)
        self._recent_searches.clear()
        return recent

    def searched(self, requests: int) -> None:
        """Count one call of the index that answered `requests` searches."""
        self._search_batch.observe(requests)

    def written(self, collection: str, upserted: int, deleted: int, rejected: int) -> None:
        """Count the items of one acknowledged write."""
        for kind, count in (("upserted", upserted), ("deleted", deleted), ("rejected", rejected)):
            if count:
                self._written.labels(collection, kind).inc(count)

    def unexpected(self, place: str) -> None:
        """Count an error that is no refusal. place: which part of the service met it."""
        self._errors.labels(place).inc()

    def maintained(self, *, is_up: bool, restarts: int) -> None:
        """Show whether the maintenance process runs, and how often it was started again."""
        self._maintenance_up.set(is_up)
        self._maintenance_restarts.set(restarts)

    def quarantined(self, collection: str, generations: int, size: int) -> None:
        """Show what generations without a role take on the disk."""
        self._quarantine.record_sizes(collection, generations, size)

    def probed(self, ready: Mapping[str, bool], degraded: Collection[tuple[str, str]]) -> None:
        """degraded: (collection, code) of all that is wrong now."""
        self._health.record_probe(ready, degraded)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format. Reads files where there are several workers."""
        if self._shared_dir is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._shared_dir))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self, process_id: int) -> None:
        """Take this process's gauges out of the sum; its counts stay."""
        if self._shared_dir is not None:
            mark_process_dead(process_id, path=str(self._shared_dir))  # type: ignore[no-untyped-call]
