"""What an operator watches: how far behind, what the source keeps for us, what is quarantined, the brake."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from feeder.sources.change_feed import Backlog, Side

LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 1800)


def process_registry() -> CollectorRegistry:
    """Return the registry of one feeder process, with `process_*` in it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Metrics:
    """One registry a process. Safe from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        one, two = ("collection",), ("collection", "side")
        self._lag = Histogram(
            "feeder_lag_seconds",
            "From a commit in the source to its acknowledgement by the service.",
            two, buckets=LAG_BUCKETS, registry=registry,
        )  # fmt: skip
        self._retained = Gauge(
            "feeder_retained_wal_bytes", "Log that the source keeps for the slot.", two, registry=registry
        )
        self._rows = Gauge("feeder_dirty_rows", "Rows waiting in the dirty set.", two, registry=registry)
        self._oldest = Gauge(
            "feeder_dirty_age_seconds", "Age of the oldest waiting row.", two, registry=registry
        )
        self._written = Counter(
            "feeder_items_total",
            "Items written, by kind.",
            ("collection", "what"),
            registry=registry,
        )
        self._quarantined = Gauge(
            "feeder_quarantined_items",
            "Items that can't be stored: broken, out of reach, refused.",
            one,
            registry=registry,
        )
        self._vanished = Gauge(
            "feeder_vanished_items",
            "Items that vanished from search within FEEDER_BRAKE_WINDOW_S, net of those that came back.",
            one,
            registry=registry,
        )
        self._brake = Gauge("feeder_brake", "1 while the mass-delete brake holds.", one, registry=registry)
        self._equal = Gauge(
            "feeder_equal", "1 if the last full comparison found no difference.", one, registry=registry
        )
        self._compared_at = Gauge(
            "feeder_compared_at_seconds",
            "When its source was read.",
            one,
            registry=registry,
        )
        self._failures = Counter(
            "feeder_failures_total",
            "Errors, by kind.",
            ("collection", "kind"),
            registry=registry,
        )
        self._following = Gauge(
            "feeder_following", "1 while changes are followed, 0 while something keeps from it.", one,
            registry=registry,
        )  # fmt: skip
        self._partial = Gauge(
            "feeder_activity_only", "1 while the served model is not the source's: vectors are not followed.",
            one, registry=registry,
        )  # fmt: skip
        self._tier = Info("feeder_tier", "How changes are noticed.", two, registry=registry)

    def set_tier(self, collection: str, side: Side, tier: str) -> None:
        """How changes of a side are noticed."""
        self._tier.labels(collection, side).info({"tier": tier})

    def observe_lag(self, collection: str, side: Side, seconds: float) -> None:
        """Seconds from a commit in the source to its acknowledgement by the service."""
        self._lag.labels(collection, side).observe(max(0.0, seconds))

    def set_backlog(self, collection: str, side: Side, backlog: Backlog) -> None:
        """What the source keeps for this feeder."""
        self._retained.labels(collection, side).set(backlog.retained_bytes)
        self._rows.labels(collection, side).set(backlog.rows)
        self._oldest.labels(collection, side).set(backlog.oldest_s)

    def count_written(self, collection: str, upserted: int, deleted: int, stale: int) -> None:
        """Add what one write did."""
        for what, count in (("upserted", upserted), ("deleted", deleted), ("stale_ignored", stale)):
            self._written.labels(collection, what).inc(count)

    def set_quarantined(self, collection: str, count: int) -> None:
        """How many items can't be stored."""
        self._quarantined.labels(collection).set(count)

    def set_vanished(self, collection: str, count: int) -> None:
        """How many items vanished within the brake's window."""
        self._vanished.labels(collection).set(count)

    def set_brake(self, collection: str, is_on: bool) -> None:
        """Whether the brake holds."""
        self._brake.labels(collection).set(is_on)

    def set_compared(self, collection: str, is_equal: bool, at_s: float) -> None:
        """The outcome of the last full comparison. at_s: when its source was read, seconds since 1970."""
        self._equal.labels(collection).set(is_equal)
        self._compared_at.labels(collection).set(at_s)

    def set_following(self, collection: str, is_so: bool) -> None:
        """Whether changes are followed now."""
        self._following.labels(collection).set(is_so)

    def set_activity_only(self, collection: str, is_so: bool) -> None:
        """Whether only activity and deletes are followed."""
        self._partial.labels(collection).set(is_so)

    def count_failure(self, collection: str, kind: str) -> None:
        """Add one interruption. kind: the class of the error."""
        self._failures.labels(collection, kind).inc()
