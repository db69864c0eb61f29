"""A worker whose metrics and traces can be switched while it serves, for bench_observing.

    python -m benchmarks.observed_server PORT DATA_DIR METRICS_DIR ENDPOINT

METRICS_DIR: `-` keeps counts in memory, as a service of one worker does; else they stand in files there, as
with several. SIGUSR1 leads from one of `STATES` to the next: only what is switched differs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from service.http.transport.protocol import SearchProtocol
from service.observing.request_log import configure_logging
from service.settings import Settings
from service.wiring import Service, build

STATES = ("off", "metrics", "metrics and traces")


def _nothing(*_: Any) -> None:
    """Stands in for what counts; a call is left, of 0.05 us."""


class Switch:
    """Takes metrics and traces out of the way of a search, and puts them back."""

    def __init__(self, service: Service) -> None:
        metrics = service.parts.metrics
        self._middleware: Any = service.application.middleware
        self._tracer = self._middleware._tracer
        self._counting: list[tuple[Any, str, Callable[..., Any]]] = [
            (holder, name, getattr(holder, name))
            for holder, names in (
                (metrics, ("request_began", "request_ended", "searched", "refused")),
                (metrics.stages, ("observe", "note_search", "add_searches", "observe_pass")),
            )
            for name in names
        ]
        self._state = len(STATES) - 1

    def next_state(self, _: int, __: FrameType | None) -> None:
        """Handle the signal."""
        self._state = (self._state + 1) % len(STATES)
        for holder, name, counts in self._counting:
            setattr(holder, name, counts if self._state else _nothing)
        self._middleware._tracer = self._tracer if self._state == 2 else None


def main(port: str, data_dir: str, metrics_dir: str, endpoint: str) -> None:
    settings = Settings.from_environ(
        {
            "DATA_DIR": data_dir,
            "TEXT_MODEL": "builtin:hashed-ngrams",
            "IMAGE_MODEL": "none",
            "KEYLESS_WRITES": "loopback",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "TRACE_PERCENT": "10",
        }
    )
    configure_logging(settings.log_level)
    service = build(settings, None if metrics_dir == "-" else Path(metrics_dir))
    signal.signal(signal.SIGUSR1, Switch(service).next_state)
    uvicorn.run(
        service.application, host="127.0.0.1", port=int(port), loop="uvloop", http=SearchProtocol, ws="none",
        log_config=None, access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=75,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
