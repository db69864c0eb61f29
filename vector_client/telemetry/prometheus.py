"""Events as Prometheus metrics (extra `prometheus`)."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from vector_client.telemetry.events import Compared, Event, PathCalled, ShadowSkipped, Switched

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
DISTANCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)


class PrometheusObserver:
    """Pass it as `observe`; one for each registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        name = "vector_client_"
        self._seconds = Histogram(
            name + "seconds", "Time of one path's answer or failure", ["path", "role"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._asked = Counter(
            name + "calls", "Answers and failures", ["path", "role", "error"], registry=registry
        )
        self._state = Gauge(
            name + "path_open", "1: the breaker is open, or the path was left", ["path", "cause"],
            registry=registry,
        )  # fmt: skip
        self._switched = Counter(name + "switched", "Changes of state", ["path", "state"], registry=registry)
        self._overlap = Histogram(
            name + "shadow_overlap", "Share of the shown ids that the new path found", buckets=SHARES,
            registry=registry,
        )  # fmt: skip
        self._distance = Histogram(
            name + "shadow_distance", "Largest difference of a distance", buckets=DISTANCES, registry=registry
        )
        self._skipped = Counter(name + "shadow_skipped", "Comparisons left out", registry=registry)

    def __call__(self, event: Event) -> None:
        """Record one event."""
        if isinstance(event, PathCalled):
            self._seconds.labels(event.path, event.role).observe(event.seconds)
            self._asked.labels(event.path, event.role, event.error).inc()
        elif isinstance(event, Compared):
            self._overlap.observe(event.overlap)
            if event.distance_difference is not None:
                self._distance.observe(event.distance_difference)
        elif isinstance(event, Switched):
            self._switched.labels(event.path, event.state).inc()
            cause = "breaker" if event.state in ("open", "closed") else "step_back"
            self._state.labels(event.path, cause).set(event.state in ("open", "stepped_back"))
        elif isinstance(event, ShadowSkipped):
            self._skipped.inc()
