"""Traces of requests: which are kept, and the stages of each, until another thread sends them.

A request that is not traced costs the look whether it is. One that is traced notes times that are measured
anyway; everything else happens on the sender's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from service.observing.search_timer import SearchTimer

CURRENT: ContextVar[RequestTrace | None] = ContextVar("current_trace", default=None)
"""The trace of the request that the running task answers, where it is traced."""
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class StageSpan:
    """One stage of a request. began_at, ended_at: on `time.perf_counter`."""

    stage: str
    began_at: float
    ended_at: float


class RequestTrace:
    """One request that is traced. Written on the event loop until it is handed to the sender.

    trace_id: 16 bytes. span_id, parent_id: 8 bytes, parent_id empty for a root. clock_ns: what has to be
    added to `time.perf_counter`, in nanoseconds, for the time since the epoch."""

    __slots__ = (
        "began_at", "clock_ns", "code", "ended_at", "method", "parent_id", "request_id", "route", "span_id",
        "spans", "status", "trace_id",
    )  # fmt: skip

    def __init__(self, trace_id: bytes, parent_id: bytes, began_at: float, clock_ns: int) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.span_id = os.urandom(8)
        self.began_at = self.ended_at = began_at
        self.clock_ns = clock_ns
        self.spans: list[StageSpan] = []
        self.method = self.route = self.code = self.request_id = ""
        self.status = 0

    def add_stage(self, stage: str, began_at: float, ended_at: float) -> None:
        """Note that a stage took from `began_at` to `ended_at`."""
        self.spans.append(StageSpan(stage, began_at, ended_at))

    def add_search(self, search: SearchTimer, began_at: float, answered_at: float, ended_at: float) -> None:
        """Note the stages of a search, times as `SearchMeter.search_ended` takes them; those of its
        embedding were noted by `note_pass`."""
        if not search.asked_at:
            return
        self.add_stage("admission", began_at, max(began_at, search.asked_at - search.embed_s))
        searched_at = search.asked_at + search.wait_s
        self.add_stage("search_wait", search.asked_at, searched_at)
        self.add_stage("search", searched_at, searched_at + search.search_s)
        if ended_at > answered_at:
            self.add_stage("encode", answered_at, ended_at)


class TraceSender(Protocol):
    """Takes ended traces, without ever waiting."""

    def send_trace(self, trace: RequestTrace) -> None:
        """Take one. Event loop only; the trace is not written any more."""

    def close(self) -> None:
        """Send what is left, for a moment."""


class Tracer:
    """Begins and ends the traces of requests. Event loop only."""

    def __init__(
        self,
        sender: TraceSender,
        random: Callable[[], float],
        *,
        percent: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """percent: of the requests that come without a trace of their own. random: in [0, 1). clock:
        nanoseconds since the epoch."""
        self._sender = sender
        self._random = random
        self._share = percent / 100
        self._clock = clock

    def begin_trace(self, trace_id: str, traceparent: bytes, began_at: float) -> RequestTrace | None:
        """Return the trace of a request if it is to be kept. trace_id: of a well-formed `traceparent`, whose
        caller has decided; empty without one."""
        if trace_id:
            if not int(traceparent[-2:], 16) & _SAMPLED:
                return None
            trace, parent = bytes.fromhex(trace_id), bytes.fromhex(traceparent[36:52].decode())
        elif self._random() < self._share:
            trace, parent = os.urandom(16), b""
        else:
            return None
        return RequestTrace(trace, parent, began_at, self._clock() - time.perf_counter_ns())

    def end_trace(self, trace: RequestTrace, method: str, route: str, status: int, code: str) -> None:
        """Hand the trace over: its request was answered."""
        trace.ended_at = time.perf_counter()
        trace.method, trace.route, trace.status, trace.code = method, route, status, code
        self._sender.send_trace(trace)

    def close(self) -> None:
        """Send what is left, for a moment."""
        self._sender.close()


def note_stage(stage: str, began_at: float, ended_at: float) -> None:
    """Note a stage of the request that the running task answers, if it is traced. Times on
    `time.perf_counter`."""
    trace = CURRENT.get()
    if trace is not None:
        trace.add_stage(stage, began_at, ended_at)


def note_pass(asked_at: float, began_at: float, ended_at: float) -> None:
    """Note how the running task's query waited for a model and was embedded. Times on `time.monotonic`."""
    trace = CURRENT.get()
    if trace is not None:
        offset = time.perf_counter() - time.monotonic()
        trace.add_stage("embed_wait", asked_at + offset, began_at + offset)
        trace.add_stage("embed", began_at + offset, ended_at + offset)
