"""Traces sent as OTLP over HTTP, on a thread of its own (extra `tracing`).

Imported only where an endpoint is set. A receiver that is slow, away or refuses costs traces, and no request.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import urllib3
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.observing.tracing.tracer import RequestTrace

log = logging.getLogger(__name__)

TRACES_MAX: Final = 2048
"""Traces that wait at most; about 8 KiB each."""
_TRACES_AT_ONCE: Final = 256
_GATHER_S: Final = 1.0
_SLICE: Final = 8
_SLICE_PAUSE_S: Final = 0.0005
"""Building spans holds the interpreter; requests get their turn in between."""
_RETRY_S: Final = 1.0
_RETRY_S_MAX: Final = 30.0
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 10.0
_CLOSE_S: Final = 2.0
_SCOPE: Final = "uhok"
_TEMPORARY: Final = frozenset((408, 429, 502, 503, 504))


class OtlpSender:
    """Fits `service.observing.tracing.tracer.TraceSender`."""

    def __init__(
        self,
        endpoint: str,
        fields: Sequence[tuple[str, str]],
        service_name: str,
        count_dropped: Callable[[int], None],
    ) -> None:
        """endpoint: base address, as http://localhost:4318. fields: header fields that the receiver asks
        for. count_dropped: told how many traces were dropped; from any thread."""
        self._address = endpoint.rstrip("/") + "/v1/traces"
        self._fields = {**dict(fields), "content-type": "application/x-protobuf"}
        self._resource = [
            _attribute("service.name", service_name),
            _attribute("service.instance.id", f"{socket.gethostname()}:{os.getpid()}"),
        ]
        self._count_dropped = count_dropped
        self._traces: deque[RequestTrace] = deque(maxlen=TRACES_MAX)
        self._is_lost = False
        self._is_closing = threading.Event()
        self._thread: threading.Thread | None = None
        timeout = urllib3.Timeout(connect=_CONNECT_S, read=_ANSWER_S)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)

    def send_trace(self, trace: RequestTrace) -> None:
        """See TraceSender. The oldest goes where too many wait."""
        if len(self._traces) == TRACES_MAX:
            self._count_dropped(1)
        self._traces.append(trace)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """See TraceSender."""
        self._is_closing.set()
        if self._thread is not None:
            self._thread.join(timeout=_CLOSE_S)

    def _run(self) -> None:
        pause_s = _RETRY_S
        while True:
            is_last = self._is_closing.wait(_GATHER_S)
            while self._traces:
                taken = [self._traces.popleft() for _ in range(min(len(self._traces), _TRACES_AT_ONCE))]
                if self._is_sent(taken):
                    pause_s = _RETRY_S
                    continue
                if is_last:
                    return
                is_last = self._is_closing.wait(pause_s)
                pause_s = min(2 * pause_s, _RETRY_S_MAX)
            if is_last:
                return

    def _is_sent(self, traces: Sequence[RequestTrace]) -> bool:
        """Send traces; what can't be sent is dropped, since newer ones tell more of what is going on now.
        Return whether the receiver is there."""
        try:
            answer = self._pool.request(
                "POST", self._address, body=self._encoded(traces), headers=self._fields
            )
            if answer.status < 300:
                return True
            error = f"status {answer.status}"
            is_there = answer.status not in _TEMPORARY
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            error, is_there = f"{type(exc).__name__}: {exc}", False
        except Exception:
            log.exception("traces_not_made")
            error, is_there = "", True
        self._count_dropped(len(traces))
        log.warning(
            "traces_not_sent", extra={"traces": len(traces), "address": self._address, "error": error}
        )
        return is_there

    def _encoded(self, traces: Sequence[RequestTrace]) -> bytes:
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.extend(self._resource)
        scope = group.scope_spans.add()
        scope.scope.name = _SCOPE
        for number, trace in enumerate(traces):
            if number and number % _SLICE == 0:
                self._is_closing.wait(_SLICE_PAUSE_S)
            scope.spans.extend(_spans_of(trace))
        encoded: bytes = request.SerializeToString()
        return encoded


def _spans_of(trace: RequestTrace) -> list[Span]:
    """The request, and a child for each stage."""
    root = Span(
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_span_id=trace.parent_id,
        name=f"{trace.method} {trace.route}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=_nanoseconds(trace, trace.began_at),
        end_time_unix_nano=_nanoseconds(trace, trace.ended_at),
        attributes=[
            _attribute("http.request.method", trace.method),
            _attribute("http.route", trace.route),
            KeyValue(key="http.response.status_code", value=AnyValue(int_value=trace.status)),
            _attribute("uhok.request_id", trace.request_id),
        ],
    )
    if trace.code:
        root.attributes.append(_attribute("error.type", trace.code))
    if trace.status >= 500:
        root.status.code = Status.STATUS_CODE_ERROR
    return [
        root,
        *[
            Span(
                trace_id=trace.trace_id,
                span_id=os.urandom(8),
                parent_span_id=trace.span_id,
                name=each.stage,
                kind=Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=_nanoseconds(trace, each.began_at),
                end_time_unix_nano=_nanoseconds(trace, each.ended_at),
            )
            for each in trace.spans
        ],
    ]


def _nanoseconds(trace: RequestTrace, at: float) -> int:
    return trace.clock_ns + int(at * 1e9)


def _attribute(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
