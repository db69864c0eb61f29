"""The outermost layer: one spelling of each path, a request id, one log line, one count, no bare 500."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app.lifecycle import Opening
from service.http.audit import RequestAudit, Work
from service.http.auth import Role, TrustedProxies
from service.http.compression import PackedAnswer
from service.http.cross_origin import CrossOrigin, Fields
from service.http.wire.body import Headers
from service.http.wire.codings.accepted import accepts_gzip
from service.http.wire.problems import PROBLEM_JSON, Problem, problem_of
from service.observing.metrics import Metrics
from service.observing.request_log import RequestLine, RequestLog
from service.observing.tracing.tracer import CURRENT, RequestTrace, Tracer

log = logging.getLogger(__name__)

EXCHANGE = "uhok.exchange"
HEAD_S = "uhok.head_s"
"""Where the server puts the seconds that a head took which came in pieces."""
JSON = b"application/json"
PROBLEM = PROBLEM_JSON.encode()
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_ALIAS = "/api/v1/"
_UNKNOWN_ROUTE = "(unknown)"
_UNREAD = "(unread)"
_PREFLIGHT = "(preflight)"
_UNEXPECTED = problem_of(Exception())
_STARTING = Problem(503, "starting", "The service is starting.", headers={"retry-after": "1"})
_STOPPING = Problem(
    503,
    "stopping",
    "The service stops before this was done; whether a write was stored is not known, repeating it is safe.",
    headers={"retry-after": "1", "connection": "close"},
)
_OPEN_WHILE_STARTING = frozenset(
    ("/health", "/livez", "/readyz", "/metrics", "/openapi.yaml", "/", "/console", "/docs")
)
_CONSOLE_FILES = "/console/"


class Exchange:
    """One request and what is known of its answer so far; lives in the ASGI scope."""

    __slots__ = (
        "busy", "caller", "code", "extra_fields", "headers", "is_started", "rate_limit", "request_id", "role",
        "route", "send", "status", "trace", "trace_id", "traceparent", "work",
    )  # fmt: skip

    def __init__(self, headers: Headers, request_id: bytes, send: Send) -> None:
        """send: the server's own."""
        self.headers = headers
        self.send = send
        self.request_id = request_id
        self.traceparent = headers.get(b"traceparent", b"")
        trace = _TRACEPARENT.fullmatch(self.traceparent) if self.traceparent else None
        self.trace_id = trace[1].decode() if trace else ""
        self.route = ""
        self.status = 500
        self.code = ""
        self.busy = ""
        self.caller = ""  # as `Keys.check` told
        self.trace: RequestTrace | None = None
        self.rate_limit = b""  # the value of that header field
        self.role: Role | None = None  # that a route other than a search needs
        self.work: Work | None = None
        self.is_started = False
        self.extra_fields: Fields = ()  # of every answer to it

    def note_work(self, collection: str | None = None, **details: str | bool) -> None:
        """Note for the audit log what the request is to do. details: short words, nothing of an item."""
        self.work = Work(collection, details)

    def note_counts(self, **counts: int) -> None:
        """Note how many items were asked for, and what became of them."""
        self.work = self.work or Work()
        self.work.counts = {**self.work.counts, **counts}

    async def marked(self, message: Message) -> None:
        """Send `message`; a start is noted and gets our headers."""
        if message["type"] == "http.response.start":
            self.status, self.is_started = message["status"], True
            message["headers"] = [*message.get("headers", ()), *self._own_headers()]
        await self.send(message)

    async def answer(
        self, status: int, body: bytes, content_type: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send a whole answer."""
        self.status, self.is_started = status, True
        fixed = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            *headers,
            *self._own_headers(),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": fixed})
        await self.send({"type": "http.response.body", "body": body})

    def _own_headers(self) -> Sequence[tuple[bytes, bytes]]:
        own = [(b"x-request-id", self.request_id)]
        if self.trace_id:
            own.append((b"traceparent", self.traceparent))
        if self.rate_limit:
            own.append((b"ratelimit", self.rate_limit))
        own.extend(self.extra_fields)
        return own

    async def send_problem(self, path: str, problem: Problem) -> None:
        """Send `problem` as the answer."""
        body = self.problem_body(path, problem)
        await self.answer(problem.status, body, PROBLEM, fields_of(problem))

    def problem_body(self, path: str, problem: Problem) -> bytes:
        """Note `problem`; return the body that tells it."""
        self.note_problem(problem)
        return problem.to_json(path, self.request_id.decode())

    def note_problem(self, problem: Problem) -> None:
        """Note what the answer is to tell, for log and metrics."""
        self.code, self.busy = problem.code, problem.busy

    def fields(self, status: int) -> bytes:
        """Note that an answer starts; return our headers as they go over the wire."""
        self.status, self.is_started = status, True
        lines = b"x-request-id: %s\r\n" % self.request_id
        if self.trace_id:
            lines += b"traceparent: %s\r\n" % self.traceparent
        if self.rate_limit:
            lines += b"ratelimit: %s\r\n" % self.rate_limit
        for field in self.extra_fields:
            lines += b"%s: %s\r\n" % field
        return lines


def fields_of(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a problem as ASGI has them, names in small letters."""
    headers = {name.lower(): value for name, value in problem.headers.items()}
    if problem.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not wanted
    return [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


class RequestMiddleware:
    """Wraps the whole application. Until it is open, only health routes are not answered 503 `starting`."""

    def __init__(
        self,
        inner: ASGIApp,
        metrics: Metrics,
        request_log: RequestLog,
        proxies: TrustedProxies,
        opening: Opening,
        audit: RequestAudit,
        *,
        tracer: Tracer | None = None,
        cross_origin: CrossOrigin | None = None,
        gzip_bytes_min: int = 0,
    ) -> None:
        """tracer: None traces nothing. cross_origin: None answers no page of another origin. gzip_bytes_min:
        from this size on answers are packed for who takes it; 0: none."""
        self._inner = inner
        self._tracer = tracer
        self._cross_origin = cross_origin
        self._gzip_bytes_min = gzip_bytes_min
        self._audit = audit
        self._metrics = metrics
        self.stages = metrics.stages
        self._request_log = request_log
        self._proxies = proxies
        self._opening = opening
        # Random once a process and counted on: asking the system for randomness costs more than a search.
        self._id_prefix = os.urandom(6).hex().encode()
        self._id_count = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan, as ASGI asks. Never raises but for a cancelled request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inner(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"]
        if method == "HEAD":  # answered as GET is, without the body
            scope = {**scope, "method": "GET"}
            send = _without_body(send)
        headers = dict(scope["headers"])
        if self._gzip_bytes_min and accepts_gzip(headers):
            send = PackedAnswer(send, self._gzip_bytes_min).send
        exchange = self.begin_request(headers, send)
        path = canonical_path(scope["path"], scope.get("raw_path") or b"")
        scope["path"] = path
        scope[EXCHANGE] = exchange
        if exchange.trace is not None:
            self._note_head(exchange.trace, scope)
        try:
            if method == "OPTIONS" and await self._answered_preflight(exchange):
                return
            if self._opening.is_open or path in _OPEN_WHILE_STARTING or path.startswith(_CONSOLE_FILES):
                await self._inner(scope, receive, exchange.marked)
            else:
                await exchange.send_problem(path, _STARTING)
        except asyncio.CancelledError:  # a stop that does not wait any longer
            if exchange.is_started:
                raise
            await exchange.send_problem(path, _STOPPING)
        except Exception as exc:
            await self._fail(exc, path, exchange)
        finally:
            route = exchange.route or getattr(scope.get("route"), "path", _UNKNOWN_ROUTE)
            self.end_request(exchange, method, route, scope.get("client"), started)
            if exchange.trace is not None:
                CURRENT.set(None)
            # The server's `send` holds the scope: left in there, every request would leave a ring of objects
            # for the collector to find.
            del scope[EXCHANGE]

    def begin_request(self, headers: Headers, send: Send) -> Exchange:
        """Count a request in; each is to `end`."""
        self._metrics.request_began()
        request_id = headers.get(b"x-request-id")
        if not request_id or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%s-%x" % (self._id_prefix, next(self._id_count))
        exchange = Exchange(headers, request_id, send)
        if self._cross_origin is not None:
            exchange.extra_fields = self._cross_origin.answer_fields(headers)
        if self._tracer is not None:
            began_at = time.perf_counter()
            exchange.trace = self._tracer.begin_trace(exchange.trace_id, exchange.traceparent, began_at)
        return exchange

    async def _answered_preflight(self, exchange: Exchange) -> bool:
        """A browser asks without a key whether a page may send a request: that request brings its own."""
        fields = None if self._cross_origin is None else self._cross_origin.preflight(exchange.headers)
        if fields is None:
            return False
        exchange.route = _PREFLIGHT
        await exchange.marked({"type": "http.response.start", "status": 204, "headers": list(fields)})
        await exchange.send({"type": "http.response.body", "body": b""})
        return True

    @staticmethod
    def _note_head(trace: RequestTrace, scope: Scope) -> None:
        """Make the trace the task's, and note how long the head took where it came in pieces."""
        CURRENT.set(trace)
        head_s = scope.get(HEAD_S, 0.0)
        if head_s:
            trace.add_stage("head", trace.began_at - head_s, trace.began_at)
            trace.began_at -= head_s

    def packs(self, headers: Headers, size: int) -> bool:
        """Return whether an answer of so many bytes to this request is packed."""
        return 0 < self._gzip_bytes_min <= size and accepts_gzip(headers)

    def internal_error(self, error: Exception, exchange: Exchange) -> None:
        """Log and count what is no refusal."""
        log.error("request_failed", exc_info=error, extra={"request_id": exchange.request_id.decode()})
        self._metrics.unexpected("request")
        exchange.code = "internal_error"

    def internal_error_unread(self, error: BaseException) -> Problem:
        """Log and count an error of ours in reading a request; return what tells it."""
        log.error("request_not_read", exc_info=error)
        self._metrics.unexpected("connection")
        return _UNEXPECTED

    def refuse_unread(self, problem: Problem, client: Sequence[Any] | None) -> tuple[bytes, bytes]:
        """Count and log a refusal of what could not be read as a request. Return our header lines and the
        body."""
        started = time.perf_counter()
        exchange = self.begin_request({}, _nowhere)
        body = exchange.problem_body("", problem)
        fields = exchange.fields(problem.status)
        self.end_request(exchange, _UNREAD, _UNKNOWN_ROUTE, client, started)
        return fields, body

    async def _fail(self, error: Exception, path: str, exchange: Exchange) -> None:
        self.internal_error(error, exchange)
        if not exchange.is_started:
            await exchange.send_problem(path, problem_of(error))

    def end_request(
        self, exchange: Exchange, method: str, route: str, client: Sequence[Any] | None, started: float
    ) -> None:
        """Count and log. client: (address, port). started: on `time.perf_counter`."""
        seconds = time.perf_counter() - started
        self._metrics.request_ended(route, method, exchange.status, seconds, exchange.code)
        if exchange.busy:
            self._metrics.refused(exchange.busy)
        if exchange.trace is not None and self._tracer is not None:
            exchange.trace.request_id = exchange.request_id.decode()
            self._tracer.end_trace(exchange.trace, method, route, exchange.status, exchange.code)
        if exchange.role is None and self._request_log.is_silent:
            return
        line = RequestLine(
            exchange.request_id,
            method,
            route,
            exchange.status,
            seconds,
            self._proxies.caller(exchange.headers, client[0] if client else None),
            exchange.code,
            exchange.trace_id or (exchange.trace.trace_id.hex() if exchange.trace else ""),
        )
        if exchange.role is not None:
            self._audit.record_request(line, exchange.caller, exchange.role, exchange.work or Work())
        if not self._request_log.is_silent:
            self._request_log.write(line)


def _without_body(send: Send) -> Send:
    async def head_only(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return head_only


async def _nowhere(_: Message) -> None:
    raise AssertionError("there is no ASGI channel")


def canonical_path(path: str, raw_path: bytes) -> str:
    """Return the one spelling that routes know: no trailing slash, /v1 for /api/v1. Nothing redirects.

    An id may end with an encoded slash, hence the look at the raw path.
    """
    if len(path) > 1 and path[-1] == "/" and (not raw_path or raw_path.partition(b"?")[0][-1:] == b"/"):
        path = path[:-1]
    return path[4:] if path.startswith(_ALIAS) else path
