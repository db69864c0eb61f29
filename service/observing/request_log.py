"""What the service logs: JSON lines, one for each request among them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, NamedTuple

import orjson

from log_lines.json_lines import JsonLines

log = logging.getLogger(__name__)

_LOG_GATHER_S = 0.05
_LOG_CLOSE_S = 5.0


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
        """stream: None keeps silent (`is_silent`): nothing is to be written."""
        self._stream = stream
        self.is_silent = stream is None
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
