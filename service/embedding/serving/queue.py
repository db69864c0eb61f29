"""Two bounded lanes of work, queries and documents, each with threads of its own.

A thread takes its share of whatever has queued while it was busy, up to a budget. A lone query never waits
for more to come; after a pass of several, the next waits a moment for as many. Documents use every core while
no query comes; their threads have a lower priority, so that a query that comes takes a core away from them at
once and costs what it costs on an idle machine. Work whose caller has gone, or whose deadline has passed, is
dropped before it costs anything. One failing item fails alone: its batch is done again item by item.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar

from service.errors import DeadlineExceeded, Overloaded, Starting

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
Lane: TypeAlias = Literal["query", "document"]
LANES: tuple[Lane, ...] = ("query", "document")
_DOCUMENTS_NICE = 10
"""A tenth of a query's weight: enough to give way at once, and documents never stop altogether."""
_GATHER = 0.2
"""Of the time that the last pass took: what a stream may wait for the callers that it has just answered."""


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much may wait and how much goes into one batch.

    streams: threads of each lane. queries_max, documents_max: items that may wait; one document request
    larger than documents_max is taken when nothing else waits. batch_items_max, batch_weight_max: bounds of
    a batch.
    """

    streams: int = 2
    queries_max: int = 256
    documents_max: int = 10_000
    batch_items_max: int = 32
    batch_weight_max: int = 4096


@dataclass(slots=True)
class LaneCounters:
    """What has happened since the start. dropped: callers that left. late: deadlines passed in the queue."""

    batches: int = 0
    items: int = 0
    dropped: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    weight: int
    deadline_ms: float
    expires_at: float
    future: Future[Result] = field(default_factory=Future)


class Lanes(Generic[Item, Result]):
    """Queues and threads around one function. Safe from any thread; `run` must be too if streams > 1."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item], Lane], Sequence[Result]],
        limits: LaneLimits,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._run = run
        self._limits = limits
        self._clock = clock
        self._queries: deque[_Job[Item, Result]] = deque()
        self._documents: deque[_Job[Item, Result]] = deque()
        self._lock = threading.Lock()
        self._wake = {lane: threading.Condition(self._lock) for lane in LANES}
        self._running = dict.fromkeys(LANES, 0)  # items under way
        self._expected = 0  # queries that may follow those just answered
        self._expected_until = 0.0
        self._is_open = False
        self._threads: list[threading.Thread] = []
        self.counters = LaneCounters()

    def start(self) -> None:
        self._is_open = True
        for lane in LANES:
            for number in range(self._limits.streams):
                name = f"{self._name}-{lane}-{number}"
                thread = threading.Thread(target=self._work, args=(lane,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        """Finish the running batches and refuse what still waits."""
        with self._lock:
            self._is_open = False
            waiting = [*self._queries, *self._documents]
            self._queries.clear()
            self._documents.clear()
            for wake in self._wake.values():
                wake.notify_all()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Starting("The service is shutting down."))
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait."""
        return len(self._queries), len(self._documents)

    def submit(
        self, lane: Lane, items: Sequence[Item], weights: Sequence[int], deadline_ms: float
    ) -> list[Future[Result]]:
        """Queue all of `items` or none. Cancel a future to leave. Raises Overloaded, Starting."""
        expires_at = self._clock() + deadline_ms / 1000
        jobs: list[_Job[Item, Result]] = [
            _Job(item, weight, deadline_ms, expires_at) for item, weight in zip(items, weights, strict=True)
        ]
        queue, most = (
            (self._queries, self._limits.queries_max)
            if lane == "query"
            else (self._documents, self._limits.documents_max)
        )
        with self._lock:
            if not self._is_open:
                raise Starting(f"{self._name} is not running.")
            if len(queue) + len(jobs) > most and (queue or lane == "query"):
                self.counters.refused += len(jobs)
                raise Overloaded(f"{len(queue)} {lane} items are waiting for {self._name}, {most} may.")
            was_empty = not queue
            queue.extend(jobs)
            if was_empty or len(queue) >= self._expected:
                self._wake[lane].notify(len(jobs))
        return [job.future for job in jobs]

    def _work(self, lane: Lane) -> None:
        if lane == "document":
            _step_back()
        while jobs := self._next_batch(lane):
            began = self._clock()
            self._do(lane, jobs)
            self._note_done(lane, len(jobs), self._clock() - began)

    def _next_batch(self, lane: Lane) -> list[_Job[Item, Result]]:
        """Wait for work and return it; nothing when closed."""
        queue = self._queries if lane == "query" else self._documents
        with self._lock:
            while self._is_open:
                pause_s = self._pause_s(lane)
                if queue and pause_s <= 0:
                    jobs = self._take(queue, self._running[lane])
                    self._running[lane] += len(jobs)
                    if queue:
                        self._wake[lane].notify()
                    return jobs
                self._wake[lane].wait(pause_s if queue else None)
        return []

    def _note_done(self, lane: Lane, count: int, took_s: float) -> None:
        with self._lock:
            self._running[lane] -= count
            if lane == "query":
                self._expected = count
                self._expected_until = self._clock() + (_GATHER * took_s if count > 1 else 0.0)

    def _pause_s(self, lane: Lane) -> float:
        """How long it is worth to wait for more than has queued. Callers that were answered together mostly
        ask again together, a moment later: without it the first of them goes alone."""
        if lane == "document" or len(self._queries) >= self._expected:
            return 0.0
        return self._expected_until - self._clock()

    def _take(self, queue: deque[_Job[Item, Result]], running: int) -> list[_Job[Item, Result]]:
        """Take a stream's share from the front while the longest times the count stays within the budget; one
        at least. running: items that other streams have."""
        limits = self._limits
        most = min(limits.batch_items_max, -(-(len(queue) + running) // limits.streams))
        jobs: list[_Job[Item, Result]] = []
        longest = 0
        while queue and len(jobs) < most:
            longest = max(longest, queue[0].weight)
            if jobs and longest * (len(jobs) + 1) > limits.batch_weight_max:
                break
            jobs.append(queue.popleft())
        return jobs

    def _do(self, lane: Lane, jobs: list[_Job[Item, Result]]) -> None:
        now = self._clock()
        live: list[_Job[Item, Result]] = []
        for job in jobs:
            if not job.future.set_running_or_notify_cancel():
                self.counters.dropped += 1
            elif job.expires_at <= now:
                self.counters.late += 1
                job.future.set_exception(DeadlineExceeded(_late(job.deadline_ms)))
            else:
                live.append(job)
        if live:
            self._run_batch(lane, live)

    def _run_batch(self, lane: Lane, jobs: list[_Job[Item, Result]]) -> None:
        self.counters.batches += 1
        self.counters.items += len(jobs)
        try:
            results = self._run([job.item for job in jobs], lane)
        except Exception as exc:
            if len(jobs) == 1:
                self.counters.failed += 1
                log.exception("embedding_failed", extra={"lanes": self._name, "lane": lane})
                jobs[0].future.set_exception(exc)
                return
            for job in jobs:
                self._run_batch(lane, [job])
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)


def _late(deadline_ms: float) -> str:
    return f"The model did not get to it within {deadline_ms:.0f} ms."


def _step_back() -> None:
    """Lower this thread's priority. Where a thread has none of its own, it shares the cores evenly."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        lowest = 19
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(lowest, now + _DOCUMENTS_NICE))
