"""Events as OpenTelemetry metrics (extra `opentelemetry`)."""

from __future__ import annotations

from opentelemetry.metrics import Meter, get_meter

from vector_client.telemetry.events import Compared, Event, PathCalled, ShadowSkipped, Switched


class OpenTelemetryObserver:
    """Pass it as `observe`. meter: the application's; without one, of the global provider."""

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or get_meter("vector_client")
        self._seconds = meter.create_histogram("vector_client.duration", "s", "Time of one path's answer")
        self._switched = meter.create_counter("vector_client.switched", "1", "Changes of state")
        self._overlap = meter.create_histogram("vector_client.shadow.overlap", "1", "Shared ids")
        self._distance = meter.create_histogram("vector_client.shadow.distance", "1", "Largest difference")
        self._skipped = meter.create_counter("vector_client.shadow.skipped", "1", "Comparisons left out")

    def __call__(self, event: Event) -> None:
        """Record one event."""
        if isinstance(event, PathCalled):
            attributes = {"path": event.path, "role": event.role, "error": event.error}
            self._seconds.record(event.seconds, attributes)
        elif isinstance(event, Compared):
            self._overlap.record(event.overlap)
            if event.distance_difference is not None:
                self._distance.record(event.distance_difference)
        elif isinstance(event, Switched):
            self._switched.add(1, {"path": event.path, "state": event.state})
        elif isinstance(event, ShadowSkipped):
            self._skipped.add(1)
