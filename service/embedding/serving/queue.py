"""Two bounded queues of work, for queries and for documents, each with threads of its own.

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
from typing import Generic, TypeAlias, TypeVar

from service.admission import Admission, FairQueue, Pace
from service.embedding.port import Role
from service.errors import DeadlineExceeded, Overloaded, Starting

log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
ROLES: tuple[Role, ...] = ("query", "document")
PassObserver: TypeAlias = Callable[[Sequence[float], float], None]
"""Is told of each pass over queries, on its thread: how long each waited, and how long it took."""
QueryObserver: TypeAlias = Callable[[float, float, float], None]
"""Is told of a query in the task that asked for it: when it was put in line, when its pass began and ended,
on `time.monotonic`."""
_DOCUMENTS_NICE = 10
"""A tenth of a query's weight: enough to give way at once, and documents never stop altogether."""
_SECONDS_A_WEIGHT = 0.0002
"""Assumed before anything was measured."""
_GATHER = 0.2
"""Of the time that the last pass took: what a stream may wait for the callers that it has just answered."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait and how much goes into one batch.

    streams: threads for queries, and as many for documents. wait_ms_max: expected wait beyond which a query
    is not admitted. queries_max, documents_max: items that may wait; one document request larger than
    documents_max is taken when nothing else waits. batch_items_max, batch_weight_max: bounds of a batch.
    query_weight_max: of a batch of queries, which all wait for its end; more at once gains next to nothing.
    long_ms: a caller whose queries hold all streams but one for longer waits for one of them, so that one
    stays for the others.
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
class QueueCounters:
    """What has happened since the start. dropped: callers that left. late: deadlines passed in the queue."""

    batches: int = 0
    items: int = 0
    dropped: int = 0
    late: int = 0
    refused: int = 0
    failed: int = 0


class QueuedResult(Future[Result]):
    """The result of one job. began_at, ended_at: of the pass that gave it, on the queue's clock."""

    began_at = 0.0
    ended_at = 0.0


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    weight: int
    caller: str
    deadline_ms: float
    expires_at: float
    future: QueuedResult[Result] = field(default_factory=QueuedResult)


class _Backlog(Generic[Item, Result]):
    """What waits and what is under way, of queries or of documents."""

    def __init__(self) -> None:
        self.queue: FairQueue[_Job[Item, Result]] = FairQueue()
        self.running = 0
        self.running_weight = 0
        self.passes: dict[int, tuple[float, list[str]]] = {}  # by thread: when it began, for whom
        self.pace = Pace(_SECONDS_A_WEIGHT)


class WorkQueue(Generic[Item, Result]):
    """Queues and threads around one function. Safe from any thread; `run` must be too if streams > 1."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item], Role], Sequence[Result]],
        limits: QueueLimits,
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._run = run
        self._limits = limits
        self._clock = clock
        self._backlogs: dict[Role, _Backlog[Item, Result]] = {role: _Backlog() for role in ROLES}
        self._admission = Admission(limits.wait_ms_max / 1000, clock)
        self._lock = threading.Lock()
        self._wake = {role: threading.Condition(self._lock) for role in ROLES}
        self._expected = 0  # queries that may follow those just answered
        self._expected_until = 0.0
        self._is_open = False
        self._threads: list[threading.Thread] = []
        self.counters = QueueCounters()
        self.observer: PassObserver | None = None

    def start(self) -> None:
        """Start the threads of every queue."""
        self._is_open = True
        for role in ROLES:
            for number in range(self._limits.streams):
                name = f"{self._name}-{role}-{number}"
                thread = threading.Thread(target=self._work, args=(role,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        """Finish the running batches and refuse what still waits."""
        with self._lock:
            self._is_open = False
            waiting = [job for backlog in self._backlogs.values() for job in backlog.queue.drain()]
            for wake in self._wake.values():
                wake.notify_all()
        for job in waiting:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Starting("The service is shutting down."))
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def waiting_items(self) -> tuple[int, int]:
        """Return how many queries and documents wait."""
        return len(self._backlogs["query"].queue), len(self._backlogs["document"].queue)

    def admission_error(self, weight: int, caller: str) -> Overloaded | None:
        """Return why a query of `weight` may not queue now, or None."""
        with self._lock:
            wait_s = self._wait_s(weight, caller)
            if self._is_admitted(wait_s, weight, caller):
                return None
        return Overloaded(
            f"Work of {wait_s:.1f} s waits for {self._name}, more than may.", wait_s, reason=self._name
        )

    def admit(self, weight: int, caller: str) -> None:
        """Take a query of `weight` into account before it is queued by `submit`. Raises Overloaded."""
        refusal = self.admission_error(weight, caller)
        if refusal is not None:
            self.counters.refused += 1
            raise refusal
        with self._lock:
            backlog = self._backlogs["query"]
            if not backlog.queue.is_below_others(weight, caller):
                work_s = backlog.pace.seconds(weight) / self._limits.streams
                self._admission.charge(self._wait_s(weight, caller), work_s)

    def _wait_s(self, weight: int, caller: str) -> float:
        """What waits before it, and half of what is under way."""
        backlog = self._backlogs["query"]
        before = backlog.queue.units_before(weight, caller) + backlog.running_weight / 2
        return backlog.pace.seconds(before) / self._limits.streams

    def _is_admitted(self, wait_s: float, weight: int, caller: str) -> bool:
        """An idle stream takes what comes, whatever was measured: else a wrong pace would never be put
        right."""
        queue = self._backlogs["query"].queue
        return len(queue) < self._limits.streams or self._admission.admits(
            wait_s, is_free=queue.is_below_others(weight, caller)
        )

    def submit(
        self,
        role: Role,
        items: Sequence[Item],
        weights: Sequence[int],
        deadline_ms: float,
        caller: str = "",
    ) -> list[QueuedResult[Result]]:
        """Queue all of `items` or none. Cancel a future to leave. caller: whose share of the streams this
        takes.

        Raises Overloaded (by the number that waits; queries pass `admit` before), Starting.
        """
        expires_at = self._clock() + deadline_ms / 1000
        jobs: list[_Job[Item, Result]] = [
            _Job(item, weight, caller, deadline_ms, expires_at)
            for item, weight in zip(items, weights, strict=True)
        ]
        queue = self._backlogs[role].queue
        most = self._limits.queries_max if role == "query" else self._limits.documents_max
        with self._lock:
            if not self._is_open:
                raise Starting(f"{self._name} is not running.")
            if len(queue) + len(jobs) > most and (queue or role == "query"):
                self.counters.refused += len(jobs)
                raise Overloaded(
                    f"{len(queue)} {role} items are waiting for {self._name}, {most} may.", reason=self._name
                )
            was_empty = not queue
            for job in jobs:
                queue.push(job, job.weight, job.caller)
            if was_empty or len(queue) >= self._expected:
                self._wake[role].notify(len(jobs))
        return [job.future for job in jobs]

    def _work(self, role: Role) -> None:
        if role == "document":
            _lower_priority()
        while jobs := self._next_batch(role):
            began = self._clock()
            done = self._do(role, jobs)
            took_s = self._clock() - began
            self._note_done(role, jobs, done, took_s)
            if self.observer is not None and role == "query":
                self.observer([began - job.expires_at + job.deadline_ms / 1000 for job in jobs], took_s)

    def _next_batch(self, role: Role) -> list[_Job[Item, Result]]:
        """Wait for work and return it; nothing when closed."""
        backlog = self._backlogs[role]
        with self._lock:
            while self._is_open:
                pause_s = self._pause_s(role)
                if backlog.queue and pause_s <= 0 and (jobs := self._take(backlog)):
                    backlog.running += len(jobs)
                    backlog.running_weight += sum(job.weight for job in jobs)
                    backlog.passes[threading.get_ident()] = (self._clock(), [job.caller for job in jobs])
                    if backlog.queue:
                        self._wake[role].notify()
                    return jobs
                self._wake[role].wait(pause_s if backlog.queue and pause_s > 0 else None)
        return []

    def _note_done(self, role: Role, jobs: list[_Job[Item, Result]], done: int, took_s: float) -> None:
        """done: the weight that was worked on."""
        backlog = self._backlogs[role]
        with self._lock:
            backlog.running -= len(jobs)
            backlog.running_weight -= sum(job.weight for job in jobs)
            if done:
                backlog.pace.note(done, took_s, is_all_busy=len(backlog.passes) == self._limits.streams)
            backlog.passes.pop(threading.get_ident(), None)
            if backlog.queue:  # whoever was kept back for what has just ended
                self._wake[role].notify()
            if role == "query":
                self._expected = len(jobs)
                self._expected_until = self._clock() + (_GATHER * took_s if len(jobs) > 1 else 0.0)

    def _pause_s(self, role: Role) -> float:
        """How long it is worth to wait for more than has queued. Callers that were answered together mostly
        ask again together, a moment later: without it the first of them goes alone."""
        if role == "document" or len(self._backlogs["query"].queue) >= self._expected:
            return 0.0
        return self._expected_until - self._clock()

    def _take(self, backlog: _Backlog[Item, Result]) -> list[_Job[Item, Result]]:
        """Take a stream's share from the front while the longest times the count stays within the budget; one
        at least, unless all that wait are kept back."""
        limits = self._limits
        most = min(limits.batch_items_max, -(-(len(backlog.queue) + backlog.running) // limits.streams))
        kept_back = self._kept_back(backlog)
        is_query = backlog is self._backlogs["query"]
        weight_max = limits.query_weight_max if is_query else limits.batch_weight_max
        jobs: list[_Job[Item, Result]] = []
        returned = []
        longest = 0
        while backlog.queue and len(jobs) < most:
            place = backlog.queue.pop()
            if place.caller in kept_back:
                returned.append(place)
                continue
            longest = max(longest, place.entry.weight)
            if jobs and longest * (len(jobs) + 1) > weight_max:
                returned.append(place)
                break
            jobs.append(place.entry)
        for place in returned:
            backlog.queue.put_back(place)
        return jobs

    def _kept_back(self, backlog: _Backlog[Item, Result]) -> set[str]:
        """Callers who have held all streams but one for longer than `long_ms`."""
        began_before = self._clock() - self._limits.long_ms / 1000
        holding = Counter(
            caller
            for began, callers in backlog.passes.values()
            if began < began_before
            for caller in set(callers)
        )
        most = max(1, self._limits.streams - 1)
        return {caller for caller, count in holding.items() if caller and count >= most}

    def _do(self, role: Role, jobs: list[_Job[Item, Result]]) -> int:
        """Return the weight of what was worked on."""
        live: list[_Job[Item, Result]] = []
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                live.append(job)
            else:
                self.counters.dropped += 1
        live = self._in_time(role, live)
        if live:
            self._run_batch(role, live)
        return sum(job.weight for job in live)

    def _in_time(self, role: Role, jobs: list[_Job[Item, Result]]) -> list[_Job[Item, Result]]:
        """Drop what is late, or would be at the end of a pass. One that is not late yet is tried whatever was
        measured, so that a wrong pace is put right."""
        now = self._clock()
        done_at = now + self._backlogs[role].pace.seconds(sum(job.weight for job in jobs))
        tried = max(jobs, key=lambda job: job.expires_at, default=None)
        kept: list[_Job[Item, Result]] = []
        for job in jobs:
            if job.expires_at > done_at or (job is tried and job.expires_at > now):
                kept.append(job)
                continue
            self.counters.late += 1
            job.future.set_exception(DeadlineExceeded(_late(job.deadline_ms)))
        return kept

    def _run_batch(self, role: Role, jobs: list[_Job[Item, Result]]) -> None:
        self.counters.batches += 1
        self.counters.items += len(jobs)
        began_at = self._clock()
        try:
            results = self._run([job.item for job in jobs], role)
        except Exception as exc:
            if len(jobs) == 1:
                self.counters.failed += 1
                if not isinstance(exc, Starting | DeadlineExceeded):
                    log.exception("embedding_failed", extra={"queue": self._name, "role": role})
                jobs[0].future.set_exception(exc)
                return
            for job in jobs:
                self._run_batch(role, [job])
            return
        ended_at = self._clock()
        for job, result in zip(jobs, results, strict=True):
            job.future.began_at, job.future.ended_at = began_at, ended_at
            job.future.set_result(result)


def _late(deadline_ms: float) -> str:
    return f"The model did not get to it within {deadline_ms:.0f} ms."


def _lower_priority() -> None:
    """Lower this thread's priority. Where a thread has none of its own, it shares the cores evenly."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        lowest = 19
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(lowest, now + _DOCUMENTS_NICE))
