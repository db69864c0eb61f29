"""What the service says about itself: JSON log lines and Prometheus metrics."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
_PLAIN_FIELDS = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update({key: value for key, value in record.__dict__.items() if key not in _PLAIN_FIELDS})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line, default=str).decode()


def configure_logging(level: str) -> None:
    """Send every log line of this process to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class RequestLog:
    """One line per request, written past `logging`: its record and formatter cost five times as much."""

    def __init__(self, stream: BinaryIO | None) -> None:
        """stream: None keeps silent."""
        self._stream = stream

    def write(self, fields: Mapping[str, Any]) -> None:
        if self._stream is None:
            return
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": "info", "event": "request", **fields}
        self._stream.write(orjson.dumps(line, default=str) + b"\n")
        self._stream.flush()


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
            "uhok_unexpected_errors_total", "Errors nobody foresaw.", ("place",), registry=self._registry
        )
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def request_began(self) -> None:
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
        if code:
            self._problems.labels(code).inc()

    def searched(self, requests: int) -> None:
        self._search_batch.observe(requests)

    def written(self, collection: str, upserted: int, deleted: int, rejected: int) -> None:
        for kind, count in (("upserted", upserted), ("deleted", deleted), ("rejected", rejected)):
            if count:
                self._written.labels(collection, kind).inc(count)

    def unexpected(self, place: str) -> None:
        self._errors.labels(place).inc()

    def exposition(self) -> bytes:
        if self._shared_dir is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self._shared_dir))  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self, process_id: int) -> None:
        """Take this process's gauges out of the sum; its counts stay."""
        if self._shared_dir is not None:
            mark_process_dead(process_id, path=str(self._shared_dir))  # type: ignore[no-untyped-call]
