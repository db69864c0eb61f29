"""Two bounded lanes of work, queries and documents, each with threads of its own.

A thread takes its share of whatever has queued while it was busy, up to a budget. A lone query never waits
for more to come; after a pass of several, the next waits a moment for as many. Documents use every core while
no query comes; their threads have a lower priority, so that a query that comes takes a core away from them at
once and costs what it costs on an idle machine. Work whose caller has gone, or whose deadline has passed, is
dropped before it costs anything. One failing item fails alone: its batch is done again item by item.

Queries are admitted by the seconds that they are expected to wait, measured by weight, and each caller has
its share of the streams (`service.admission`); documents by their number.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar

from service.admission import Admission, FairQueue, Pace
from service.errors import DeadlineExceeded, Overloaded, Starting

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
Lane: TypeAlias = Literal["query", "document"]
LANES: tuple[Lane, ...] = ("query", "document")
_DOCUMENTS_NICE = 10
"""A tenth of a query's weight: enough to give way at once, and documents never stop altogether."""
_SECONDS_A_WEIGHT = 0.0002
"""Assumed before anything was measured."""
_GATHER = 0.2
"""Of the time that the last pass took: what a stream may wait for the callers that it has just answered."""


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """How much may wait and how much goes into one batch.

    streams: threads of each lane. wait_ms_max: expected wait beyond which a query is not admitted.
    queries_max, documents_max: items that may wait; one document request larger than documents_max is taken
    when nothing else waits. batch_items_max, batch_weight_max: bounds of a batch. query_weight_max: of a
    batch of queries, which all wait for its end; more at once gains next to nothing. long_ms: a caller whose
    queries hold all streams but one for longer waits for one of them, so that one stays for the others.
    """

    streams: int = 2
    wait_ms_max: float = 400
    queries_max: int = 4096
    documents_max: int = 10_000
    batch_items_max: int = 32
    batch_weight_max: int = 1024
    query_weight_max: int = 400
    long_ms: float = math.inf


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
    caller: str
    deadline_ms: float
    expires_at: float
    future: Future[Result] = field(default_factory=Future)


class _Line(Generic[Item, Result]):
    """What waits and what is under way in one lane."""

    def __init__(self) -> None:
        self.queue: FairQueue[_Job[Item, Result]] = FairQueue()
        self.running = 0
        self.running_weight = 0
        self.passes: dict[int, tuple[float, list[str]]] = {}  # by thread: when it began, for whom
        self.pace = Pace(_SECONDS_A_WEIGHT)


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
        self._lines: dict[Lane, _Line[Item, Result]] = {lane: _Line() for lane in LANES}
        self._admission = Admission(limits.wait_ms_max / 1000, clock)
        self._lock = threading.Lock()
        self._wake = {lane: threading.Condition(self._lock) for lane in LANES}
        self._expected = 0  # queries that may follow those just answered
        self._expected_until = 0.0
        self._is_open = False
        self._threads: list[threading.Thread] = []
        self.counters = LaneCounters()

    def start(self) -> None:
        """Start the threads of every queue."""
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
            waiting = [job for line in self._lines.values() for job in line.queue.drain()]
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
        return len(self._lines["query"].queue), len(self._lines["document"].queue)

    def refusal(self, weight: int, caller: str) -> Overloaded | None:
        """Return why a query of `weight` may not queue now, or None."""
        with self._lock:
            wait_s = self._wait_s(weight, caller)
            if self._is_admitted(wait_s, weight, caller):
                return None
        return Overloaded(
            f"Work of {wait_s:.1f} s waits for {self._name}, more than may.", retry_after_s=wait_s
        )

    def admit(self, weight: int, caller: str) -> None:
        """Take a query of `weight` into account before it is queued by `submit`. Raises Overloaded."""
        refusal = self.refusal(weight, caller)
        if refusal is not None:
            self.counters.refused += 1
            raise refusal
        with self._lock:
            line = self._lines["query"]
            if not line.queue.is_below_others(weight, caller):
                work_s = line.pace.seconds(weight) / self._limits.streams
                self._admission.charge(self._wait_s(weight, caller), work_s)

    def _wait_s(self, weight: int, caller: str) -> float:
        """What waits before it, and half of what is under way."""
        line = self._lines["query"]
        before = line.queue.units_before(weight, caller) + line.running_weight / 2
        return line.pace.seconds(before) / self._limits.streams

    def _is_admitted(self, wait_s: float, weight: int, caller: str) -> bool:
        """An idle stream takes what comes, whatever was measured: else a wrong pace would never be put
        right."""
        queue = self._lines["query"].queue
        return len(queue) < self._limits.streams or self._admission.admits(
            wait_s, is_free=queue.is_below_others(weight, caller)
        )

    def submit(
        self,
        lane: Lane,
        items: Sequence[Item],
        weights: Sequence[int],
        deadline_ms: float,
        caller: str = "",
    ) -> list[Future[Result]]:
        """Queue all of `items` or none. Cancel a future to leave. caller: whose share of the streams this
        takes.

        Raises Overloaded (by the number that waits; queries pass `admit` before), Starting.
        """
        expires_at = self._clock() + deadline_ms / 1000
        jobs: list[_Job[Item, Result]] = [
            _Job(item, weight, caller, deadline_ms, expires_at)
            for item, weight in zip(items, weights, strict=True)
        ]
        queue = self._lines[lane].queue
        most = self._limits.queries_max if lane == "query" else self._limits.documents_max
        with self._lock:
            if not self._is_open:
                raise Starting(f"{self._name} is not running.")
            if len(queue) + len(jobs) > most and (queue or lane == "query"):
                self.counters.refused += len(jobs)
                raise Overloaded(f"{len(queue)} {lane} items are waiting for {self._name}, {most} may.")
            was_empty = not queue
            for job in jobs:
                queue.push(job, job.weight, job.caller)
            if was_empty or len(queue) >= self._expected:
                self._wake[lane].notify(len(jobs))
        return [job.future for job in jobs]

    def _work(self, lane: Lane) -> None:
        if lane == "document":
            _step_back()
        while jobs := self._next_batch(lane):
            began = self._clock()
            done = self._do(lane, jobs)
            self._note_done(lane, jobs, done, self._clock() - began)

    def _next_batch(self, lane: Lane) -> list[_Job[Item, Result]]:
        """Wait for work and return it; nothing when closed."""
        line = self._lines[lane]
        with self._lock:
            while self._is_open:
                pause_s = self._pause_s(lane)
                if line.queue and pause_s <= 0 and (jobs := self._take(line)):
                    line.running += len(jobs)
                    line.running_weight += sum(job.weight for job in jobs)
                    line.passes[threading.get_ident()] = (self._clock(), [job.caller for job in jobs])
                    if line.queue:
                        self._wake[lane].notify()
                    return jobs
                self._wake[lane].wait(pause_s if line.queue and pause_s > 0 else None)
        return []

    def _note_done(self, lane: Lane, jobs: list[_Job[Item, Result]], done: int, took_s: float) -> None:
        """done: the weight that was worked on."""
        line = self._lines[lane]
        with self._lock:
            line.running -= len(jobs)
            line.running_weight -= sum(job.weight for job in jobs)
            if done:
                line.pace.note(done, took_s, is_all_busy=len(line.passes) == self._limits.streams)
            line.passes.pop(threading.get_ident(), None)
            if line.queue:  # whoever was kept back for what has just ended
                self._wake[lane].notify()
            if lane == "query":
                self._expected = len(jobs)
                self._expected_until = self._clock() + (_GATHER * took_s if len(jobs) > 1 else 0.0)

    def _pause_s(self, lane: Lane) -> float:
        """How long it is worth to wait for more than has queued. Callers that were answered together mostly
        ask again together, a moment later: without it the first of them goes alone."""
        if lane == "document" or len(self._lines["query"].queue) >= self._expected:
            return 0.0
        return self._expected_until - self._clock()

    def _take(self, line: _Line[Item, Result]) -> list[_Job[Item, Result]]:
        """Take a stream's share from the front while the longest times the count stays within the budget; one
        at least, unless all that wait are kept back."""
        limits = self._limits
        most = min(limits.batch_items_max, -(-(len(line.queue) + line.running) // limits.streams))
        kept_back = self._kept_back(line)
        is_query = line is self._lines["query"]
        weight_max = limits.query_weight_max if is_query else limits.batch_weight_max
        jobs: list[_Job[Item, Result]] = []
        returned = []
        longest = 0
        while line.queue and len(jobs) < most:
            place = line.queue.pop()
            if place.caller in kept_back:
                returned.append(place)
                continue
            longest = max(longest, place.entry.weight)
            if jobs and longest * (len(jobs) + 1) > weight_max:
                returned.append(place)
                break
            jobs.append(place.entry)
        for place in returned:
            line.queue.put_back(place)
        return jobs

    def _kept_back(self, line: _Line[Item, Result]) -> set[str]:
        """Callers who have held all streams but one for longer than `long_ms`."""
        began_before = self._clock() - self._limits.long_ms / 1000
        holding = Counter(
            caller
            for began, callers in line.passes.values()
            if began < began_before
            for caller in set(callers)
        )
        most = max(1, self._limits.streams - 1)
        return {caller for caller, count in holding.items() if caller and count >= most}

    def _do(self, lane: Lane, jobs: list[_Job[Item, Result]]) -> int:
        """Return the weight of what was worked on."""
        live: list[_Job[Item, Result]] = []
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                live.append(job)
            else:
                self.counters.dropped += 1
        live = self._in_time(lane, live)
        if live:
            self._run_batch(lane, live)
        return sum(job.weight for job in live)

    def _in_time(self, lane: Lane, jobs: list[_Job[Item, Result]]) -> list[_Job[Item, Result]]:
        """Drop what is late, or would be at the end of a pass. One that is not late yet is tried whatever was
        measured, so that a wrong pace is put right."""
        now = self._clock()
        done_at = now + self._lines[lane].pace.seconds(sum(job.weight for job in jobs))
        tried = max(jobs, key=lambda job: job.expires_at, default=None)
        kept: list[_Job[Item, Result]] = []
        for job in jobs:
            if job.expires_at > done_at or (job is tried and job.expires_at > now):
                kept.append(job)
                continue
            self.counters.late += 1
            job.future.set_exception(DeadlineExceeded(_late(job.deadline_ms)))
        return kept

    def _run_batch(self, lane: Lane, jobs: list[_Job[Item, Result]]) -> None:
        self.counters.batches += 1
        self.counters.items += len(jobs)
        try:
            results = self._run([job.item for job in jobs], lane)
        except Exception as exc:
            if len(jobs) == 1:
                self.counters.failed += 1
                if not isinstance(exc, Starting | DeadlineExceeded):
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
