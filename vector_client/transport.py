"""Keep-alive HTTP to one service over the standard library: a bounded pool, time limits, safe retries."""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

import orjson

from vector_client.errors import BadAnswer, NoAnswer, Refused, TimedOut, VectorClientError, refusal_class

log = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 256 * 1024 * 1024
CODES_THAT_LAST = frozenset({"model_unavailable", "read_only", "store_damaged"})
"""503 answers that a retry within seconds does not mend."""


@dataclass(frozen=True, slots=True)
class Limits:
    """timeout_s: of one attempt. retries: attempts after the first. backoff_s doubles, with full jitter,
    up to backoff_s_max. connections_max: kept open between calls."""

    timeout_s: float = 10.0
    retries: int = 2
    backoff_s: float = 0.25
    backoff_s_max: float = 10.0
    connections_max: int = 8


@dataclass(frozen=True, slots=True)
class Call:
    """One request. repeats_on_timeout: an attempt that timed out may be repeated; false for writes, since
    the first may still be applied after a later one. (A broken connection is safe to repeat for all routes:
    writes are idempotent, and what a dead connection carried is applied before it broke or never.)"""

    method: str
    path: str
    body: bytes | None = None
    key: str = ""
    repeats_on_timeout: bool = True


class Transport:
    """Sends calls to one service. Safe from any thread; each call has a connection to itself."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) address: {url!r}")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._limits = limits
        self._sleep = sleep
        self._jitter = jitter
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def send(self, call: Call) -> Any:
        """Return the parsed JSON of a 2xx answer. Raises VectorClientError after the last attempt."""
        for attempt in range(self._limits.retries + 1):
            try:
                return self._attempt(call)
            except VectorClientError as exc:
                wait_s = self._wait_before_repeat(call, exc, attempt)
                if wait_s is None:
                    raise
                log.info("call_repeated", extra={"path": call.path, "attempt": attempt + 1, "why": str(exc)})
                self._sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _wait_before_repeat(self, call: Call, exc: VectorClientError, attempt: int) -> float | None:
        if attempt >= self._limits.retries or not _may_repeat(call, exc):
            return None
        ceiling = min(self._limits.backoff_s * float(2**attempt), self._limits.backoff_s_max)
        asked = exc.retry_after_s if isinstance(exc, Refused) else None
        floor = min(asked or 0.0, self._limits.backoff_s_max)
        return max(floor, ceiling * self._jitter())

    def _attempt(self, call: Call) -> Any:
        connection, is_reused = self._take()
        try:
            response, data = self._exchange(connection, call)
        except (http.client.HTTPException, OSError) as exc:
            connection.close()
            if not is_reused or isinstance(exc, TimeoutError):
                raise self._translated(call, exc) from exc
            # The service closes idle connections; a second try on a new one costs no retry.
            connection = self._connection()
            try:
                response, data = self._exchange(connection, call)
            except (http.client.HTTPException, OSError) as again:
                connection.close()
                raise self._translated(call, again) from again
        self._put_back(connection, response)
        return _parsed(response.status, response.headers, data)

    def _exchange(
        self, connection: http.client.HTTPConnection, call: Call
    ) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {"Accept": "application/json"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.key:
            headers["Authorization"] = f"Bearer {call.key}"
        connection.request(call.method, self._prefix + call.path, body=call.body, headers=headers)
        response = connection.getresponse()
        data = response.read(ANSWER_BYTES_MAX + 1)
        if len(data) > ANSWER_BYTES_MAX:
            connection.close()
            raise BadAnswer(f"{call.path} answered more than {ANSWER_BYTES_MAX} bytes")
        return response, data

    def _translated(self, call: Call, exc: Exception) -> NoAnswer:
        where = f"{self._host}:{self._port}{self._prefix}{call.path}"
        if isinstance(exc, TimeoutError):
            return TimedOut(f"no answer from {where} within {self._limits.timeout_s} s")
        return NoAnswer(f"no answer from {where}: {exc or type(exc).__name__}")

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._limits.timeout_s)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._connection(), False

    def _put_back(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        with self._lock:
            if not response.will_close and len(self._idle) < self._limits.connections_max:
                self._idle.append(connection)
                return
        connection.close()


def _may_repeat(call: Call, exc: VectorClientError) -> bool:
    if isinstance(exc, TimedOut):
        return call.repeats_on_timeout
    if isinstance(exc, Refused):
        return exc.status in (429, 502, 503, 504) and exc.code not in CODES_THAT_LAST
    return isinstance(exc, NoAnswer)


def _parsed(status: int, headers: Message, data: bytes) -> Any:
    """Return a 2xx body, or raise what a problem body says."""
    try:
        body = orjson.loads(data) if data else None
    except orjson.JSONDecodeError as exc:
        if 200 <= status < 300:
            raise BadAnswer(f"status {status} with a body that is not JSON: {data[:80]!r}") from exc
        body = None
    if 200 <= status < 300:
        return body
    problem = body if isinstance(body, dict) else {}
    raise refusal_class(status)(
        status,
        str(problem.get("code") or f"http_{status}"),
        str(problem.get("detail") or problem.get("title") or data[:200].decode(errors="replace")),
        str(problem.get("request_id") or headers.get("X-Request-Id") or ""),
        problem.get("errors") or (),
        _seconds(headers.get("Retry-After")),
        str(problem.get("hint") or ""),
    )


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None  # an HTTP date: our service never sends one
