"""Two bounded lanes of work before a few threads: queries go first, documents fill what is left.

A thread takes whatever has queued while it was busy, up to a budget, and never waits for more to come. Work
whose caller has gone, or whose deadline has passed, is dropped before it costs anything. One failing item
fails alone: its batch is done again item by item.
"""

from __future__ import annotations

import logging
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


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much may wait and how much goes into one batch.

    streams: threads that run batches. queries_max, documents_max: items that may wait; one document request
    larger than documents_max is taken when nothing else waits. batch_items_max, batch_weight_max: bounds of a
    batch of queries; a batch of documents has at most document_weight_max, kept small because a query may
    have to wait for it. quiet_s: after so long without a query, documents may use every stream.
    """

    streams: int = 2
    queries_max: int = 256
    documents_max: int = 10_000
    batch_items_max: int = 32
    batch_weight_max: int = 4096
    document_weight_max: int = 1024
    quiet_s: float = 1.0


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
        self._wake = threading.Condition()
        self._is_open = False
        self._document_streams = 0
        self._query_seen_at = -limits.quiet_s
        self._threads: list[threading.Thread] = []
        self.counters = LaneCounters()

    def start(self) -> None:
        self._is_open = True
        for number in range(self._limits.streams):
            thread = threading.Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Finish the running batches and refuse what still waits."""
        with self._wake:
            self._is_open = False
            waiting = [*self._queries, *self._documents]
            self._queries.clear()
            self._documents.clear()
            self._wake.notify_all()
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
        with self._wake:
            if not self._is_open:
                raise Starting(f"{self._name} is not running.")
            if len(queue) + len(jobs) > most and (queue or lane == "query"):
                self.counters.refused += len(jobs)
                raise Overloaded(f"{len(queue)} {lane} items are waiting for {self._name}, {most} may.")
            queue.extend(jobs)
            if lane == "query":
                self._query_seen_at = self._clock()
            self._wake.notify(len(jobs))
        return [job.future for job in jobs]

    def _work(self) -> None:
        while True:
            taken = self._next_batch()
            if taken is None:
                return
            lane, jobs = taken
            try:
                self._do(lane, jobs)
            finally:
                if lane == "document":
                    with self._wake:
                        self._document_streams -= 1
                        self._wake.notify()

    def _next_batch(self) -> tuple[Lane, list[_Job[Item, Result]]] | None:
        """Wait for work and return it; None when closed."""
        limits = self._limits
        with self._wake:
            while self._is_open:
                if self._queries:
                    return "query", self._take(self._queries, limits.batch_weight_max)
                if self._documents:
                    wait_s = self._until_documents()
                    if wait_s <= 0:
                        self._document_streams += 1
                        return "document", self._take(self._documents, limits.document_weight_max)
                    self._wake.wait(wait_s)
                else:
                    self._wake.wait()
        return None

    def _until_documents(self) -> float:
        """Return for how long this stream must stay free for queries; 0 or less: it may take documents."""
        if self._document_streams < max(1, self._limits.streams - 1):
            return 0.0
        return self._query_seen_at + self._limits.quiet_s - self._clock()

    def _take(self, queue: deque[_Job[Item, Result]], weight_max: int) -> list[_Job[Item, Result]]:
        """Take from the front while the longest times the count stays within weight_max; one at least."""
        jobs: list[_Job[Item, Result]] = []
        longest = 0
        while queue and len(jobs) < self._limits.batch_items_max:
            longest = max(longest, queue[0].weight)
            if jobs and longest * (len(jobs) + 1) > weight_max:
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
