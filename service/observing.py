"""What the service says about itself: JSON log lines and Prometheus metrics."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from log_lines.json_lines import JsonLines

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger(__name__)

_LOG_GATHER_S = 0.05
_LOG_CLOSE_S = 5.0
_SEARCH_ROUTE = "/v1/search"
_RECENT_SEARCHES = 1024
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


def configure_logging(level: str) -> None:
    """Send every log line of this process to stdout as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It tries builds for newer processors first and tells of each that is not there.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)


class RequestLine(NamedTuple):
    """What is logged of one answered request."""

    request_id: bytes
    method: str
    route: str
    status: int
    seconds: float
    peer: str | None
    code: str
    trace_id: str


class RequestLog:
    """One line per request, written past `logging` (its record and formatter cost five times as much) and
    past the event loop: a thread gathers lines for a moment and writes them at once.

    `write` from the event loop, after `start`. A reader that stops reading holds up nothing: beyond
    `lines_max` lines are dropped, and how many is said once it reads again.
    """

    def __init__(self, stream: BinaryIO | None, *, lines_max: int = 20_000) -> None:
        """stream: None keeps silent."""
        self._stream = stream
        self._lines_max = lines_max
        self._lines: deque[tuple[float, RequestLine]] = deque()
        self._dropped = 0
        self._has_lines = threading.Event()
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread that writes; without a stream nothing is written."""
        if self._stream is not None:
            self._thread = threading.Thread(target=self._run, args=(self._stream,), name="log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what is left, for `_LOG_CLOSE_S` at most."""
        self._is_closing.set()
        self._has_lines.set()
        if self._thread is not None:
            self._thread.join(timeout=_LOG_CLOSE_S)

    @property
    def is_silent(self) -> bool:
        """Whether lines are not written at all."""
        return self._stream is None

    def write(self, line: RequestLine) -> None:
        """Queue one line. Event loop only; never blocks."""
        if len(self._lines) >= self._lines_max:
            self._dropped += 1
            return
        self._lines.append((time.time(), line))
        if not self._has_lines.is_set():
            self._has_lines.set()

    def _run(self, stream: BinaryIO) -> None:
        clock = _WallClock()
        while True:
            self._has_lines.wait()
            self._is_closing.wait(_LOG_GATHER_S)
            self._has_lines.clear()
            is_last = self._is_closing.is_set()
            gathered = b"".join(_as_json(at, line, clock) for at, line in self._taken())
            try:
                stream.write(gathered)
                stream.flush()
            except (OSError, ValueError):
                return  # the reader has gone
            if is_last:
                return

    def _taken(self) -> Iterator[tuple[float, RequestLine]]:
        while self._lines:
            yield self._lines.popleft()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("request_lines_dropped", extra={"lines": dropped})


class _WallClock:
    """ISO times; the part up to the second is made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def stamp(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{int((at - second) * 1000):03d}+00:00"


def _as_json(at: float, line: RequestLine, clock: _WallClock) -> bytes:
    request_id, method, route, status, seconds, peer, code, trace_id = line
    fields: dict[str, Any] = {
        "time": clock.stamp(at),
        "level": "info",
        "event": "request",
        "request_id": request_id.decode(),
        "method": method,
        "route": route,
        "status": status,
        "took_ms": round(seconds * 1000, 3),
        "peer": peer,
    }
    if code:
        fields["code"] = code
    if trace_id:
        fields["trace_id"] = trace_id
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


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
