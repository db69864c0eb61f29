"""Queues before a model: order, bounds, deadlines, callers that leave, items that fail."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from service.embedding.port import Role
from service.embedding.serving.queue import ROLES, QueueLimits, WorkQueue
from service.errors import DeadlineExceeded, Overloaded, Starting
from tests.clock import Clock
from tests.waiting import PATIENCE_S


class Model:
    """Doubles numbers, one batch at a time when `gate` is open; -1 can't be doubled."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[tuple[str, list[int]]] = []
        self.before_answering: Callable[[], None] = lambda: None

    def run(self, items: Sequence[int], role: str) -> list[int]:
        self.batches.append((role, list(items)))
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        self.before_answering()
        if -1 in items:
            raise ValueError("not a number I know")
        return [2 * item for item in items]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def queue(model: Model, clock: Clock) -> Iterator[WorkQueue[int, int]]:
    limits = QueueLimits(1, queries_max=4, documents_max=6, batch_items_max=3, batch_weight_max=100)
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, limits, clock)
    queue.start()
    yield queue
    model.gate.set()
    queue.close()


def hold(queue: WorkQueue[int, int], model: Model, role: Role = "query") -> Future[int]:
    """Make the role's only thread busy, so that what follows has to queue."""
    (first,) = queue.submit(role, [0], [1], 60_000)
    assert model.entered.acquire(timeout=PATIENCE_S)
    return first


def submit(queue: WorkQueue[int, int], role: str, *items: int, weight: int = 1) -> list[Future[int]]:
    return queue.submit(role, items, [weight] * len(items), 60_000)  # type: ignore[arg-type]


def test_queries_do_not_wait_for_documents(queue: WorkQueue[int, int], model: Model) -> None:
    hold(queue, model, "document")
    documents = submit(queue, "document", 10, 11)
    queries = submit(queue, "query", 1, 2)
    assert model.entered.acquire(timeout=PATIENCE_S), "the queries waited for the documents"
    assert model.batches[1] == ("query", [1, 2])
    model.gate.set()
    assert [f.result(PATIENCE_S) for f in [*queries, *documents]] == [2, 4, 20, 22]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_documents_have_a_lower_priority_than_queries(clock: Clock) -> None:
    def priority(items: Sequence[int], _: Role) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id())] * len(items)

    queue: WorkQueue[int, int] = WorkQueue("test", priority, QueueLimits(streams=1), clock)
    queue.start()
    try:
        (query,), (document,) = submit(queue, "query", 1), submit(queue, "document", 1)
        assert document.result(PATIENCE_S) > query.result(PATIENCE_S) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        queue.close()


def test_streams_share_what_has_queued(model: Model, clock: Clock) -> None:
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, QueueLimits(streams=2), clock)
    queue.start()
    try:
        for _ in range(2):
            hold(queue, model)
        found = submit(queue, "query", *range(1, 8))
        model.gate.set()
        assert [f.result(PATIENCE_S) for f in found] == [2 * i for i in range(1, 8)]
        assert len(model.batches[2][1]) == 4, "one stream took more than its half"
    finally:
        model.gate.set()
        queue.close()


def three_answered(queue: WorkQueue[int, int], model: Model, clock: Clock, took_s: float) -> None:
    """Answer three queries by one pass that takes `took_s`."""

    def later() -> None:
        clock.now += took_s

    hold(queue, model)
    found = submit(queue, "query", 1, 2, 3)
    model.before_answering = later
    model.gate.set()
    assert [f.result(PATIENCE_S) for f in found] == [2, 4, 6]
    assert model.entered.acquire(timeout=PATIENCE_S)


def test_callers_that_come_back_together_go_together(
    queue: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    three_answered(queue, model, clock, took_s=20.0)
    again = submit(queue, "query", 4)
    assert not model.entered.acquire(timeout=0.2), "the first of them went alone"
    again += [*submit(queue, "query", 5), *submit(queue, "query", 6)]
    assert [f.result(PATIENCE_S) for f in again] == [8, 10, 12]
    assert model.batches[-1] == ("query", [4, 5, 6])


def test_nobody_waits_long_for_callers_that_stay_away(
    queue: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    three_answered(queue, model, clock, took_s=0.5)
    (alone,) = submit(queue, "query", 4)
    clock.now += 1.0
    assert alone.result(PATIENCE_S) == 8


def test_a_lone_query_never_waits_for_more(queue: WorkQueue[int, int], model: Model, clock: Clock) -> None:
    def later() -> None:
        clock.now += 1000.0

    model.before_answering = later
    model.gate.set()
    for item in (1, 2):
        (found,) = queue.submit("query", [item], [1], 5_000_000)
        assert found.result(PATIENCE_S) == 2 * item


def test_what_queued_meanwhile_is_one_batch_up_to_the_bound(queue: WorkQueue[int, int], model: Model) -> None:
    hold(queue, model)
    found = submit(queue, "query", 1, 2, 3, 4)
    model.gate.set()
    assert [f.result(PATIENCE_S) for f in found] == [2, 4, 6, 8]
    assert [items for _, items in model.batches[1:]] == [[1, 2, 3], [4]]


def test_a_batch_is_bounded_by_its_longest_item(queue: WorkQueue[int, int], model: Model) -> None:
    hold(queue, model, "document")
    found = submit(queue, "document", 1, 2, 3, weight=49)
    found += submit(queue, "document", 4, weight=1000)  # heavier than any batch: goes alone, does not hang
    model.gate.set()
    assert [f.result(PATIENCE_S) for f in found] == [2, 4, 6, 8]
    assert [items for _, items in model.batches[1:]] == [[1, 2], [3], [4]]


def test_a_batch_of_queries_is_shorter_than_one_of_documents(model: Model, clock: Clock) -> None:
    limits = QueueLimits(streams=1, batch_weight_max=100, query_weight_max=40)
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, limits, clock)
    queue.start()
    try:
        for role in ROLES:
            hold(queue, model, role)
        found = [*submit(queue, "query", 1, 2, 3, weight=20), *submit(queue, "query", 4, weight=90)]
        found += submit(queue, "document", 5, 6, 7, weight=20)
        model.gate.set()
        assert [f.result(PATIENCE_S) for f in found] == [2, 4, 6, 8, 10, 12, 14]
        assert [items for role, items in model.batches if role == "query"] == [[0], [1, 2], [3], [4]]
        assert [items for role, items in model.batches if role == "document"] == [[0], [5, 6, 7]]
    finally:
        model.gate.set()
        queue.close()


def test_a_full_queue_refuses_and_takes_nothing(queue: WorkQueue[int, int], model: Model) -> None:
    hold(queue, model)
    submit(queue, "query", 1, 2, 3)
    with pytest.raises(Overloaded):
        submit(queue, "query", 4, 5)
    assert queue.waiting_items() == (3, 0)
    assert queue.counters.refused == 2
    hold(queue, model, "document")
    submit(queue, "document", 1)
    with pytest.raises(Overloaded):
        submit(queue, "document", *range(6))


def test_one_large_write_is_taken_when_nothing_waits(queue: WorkQueue[int, int], model: Model) -> None:
    model.gate.set()
    assert [f.result(PATIENCE_S) for f in submit(queue, "document", *range(20))] == [2 * i for i in range(20)]


def test_one_bad_item_fails_alone(queue: WorkQueue[int, int], model: Model) -> None:
    hold(queue, model)
    good, bad, other = submit(queue, "query", 1, -1, 2)
    model.gate.set()
    assert (good.result(PATIENCE_S), other.result(PATIENCE_S)) == (2, 4)
    with pytest.raises(ValueError, match="not a number"):
        bad.result(PATIENCE_S)
    assert queue.counters.failed == 1


def test_work_whose_caller_left_is_not_done(queue: WorkQueue[int, int], model: Model) -> None:
    first = hold(queue, model)
    gone, stays = submit(queue, "query", 1, 2)
    assert gone.cancel()
    model.gate.set()
    assert stays.result(PATIENCE_S) == 4
    assert model.batches[1:] == [("query", [2])]
    assert queue.counters.dropped == 1
    assert first.result(PATIENCE_S) == 0
    with pytest.raises(CancelledError):
        gone.result(PATIENCE_S)


def test_work_past_its_deadline_is_not_done(queue: WorkQueue[int, int], model: Model, clock: Clock) -> None:
    hold(queue, model)
    (late,) = queue.submit("query", [1], [1], 500)
    clock.now += 0.6
    model.gate.set()
    with pytest.raises(DeadlineExceeded):
        late.result(PATIENCE_S)
    assert len(model.batches) == 1
    assert queue.counters.late == 1


def test_closing_refuses_what_waits(model: Model, clock: Clock) -> None:
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, QueueLimits(streams=1), clock)
    with pytest.raises(Starting):
        submit(queue, "query", 1)
    queue.start()
    hold(queue, model)
    (waiting,) = submit(queue, "query", 1)
    (closing := threading.Thread(target=queue.close)).start()
    with pytest.raises(Starting):
        waiting.result(PATIENCE_S)
    model.gate.set()
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    with pytest.raises(Starting):
        submit(queue, "query", 1)


def test_documents_use_every_stream(model: Model, clock: Clock) -> None:
    queue: WorkQueue[int, int] = WorkQueue(
        "test", model.run, QueueLimits(streams=2, batch_items_max=1), clock
    )
    queue.start()
    try:
        documents = submit(queue, "document", 10, 11)
        assert model.entered.acquire(timeout=PATIENCE_S)
        assert model.entered.acquire(timeout=PATIENCE_S), "the second stream stayed idle"
        model.gate.set()
        assert [f.result(PATIENCE_S) for f in documents] == [20, 22]
    finally:
        model.gate.set()
        queue.close()


def overloaded(queue: WorkQueue[int, int], weight: int = 1, caller: str = "") -> Overloaded | None:
    return queue.admission_error(weight, caller)


def measured(queue: WorkQueue[int, int], model: Model, clock: Clock, took_s: float, weight: int) -> None:
    """Let the role see, again and again, that a query of `weight` takes `took_s`."""

    def later() -> None:
        clock.now += took_s

    model.before_answering = later
    model.gate.set()
    for _ in range(60):
        (found,) = queue.submit("query", [1], [weight], 60_000)
        assert found.result(PATIENCE_S) == 2
        assert model.entered.acquire(timeout=PATIENCE_S)
    model.gate.clear()


@pytest.fixture
def patient(model: Model, clock: Clock) -> Iterator[WorkQueue[int, int]]:
    limits = QueueLimits(streams=1, wait_ms_max=400, batch_items_max=1)
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, limits, clock)
    queue.start()
    yield queue
    model.gate.set()
    queue.close()


def test_queries_are_admitted_by_the_seconds_they_would_wait(
    patient: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    measured(patient, model, clock, took_s=0.05, weight=50)
    hold(patient, model)
    for waiting in range(8):  # of 50 ms each: the next one would wait for more than 400 ms
        patient.admit(50, "")
        submit(patient, "query", waiting, weight=50)
    with pytest.raises(Overloaded) as caught:
        patient.admit(1, "")
    assert caught.value.retry_after_s == pytest.approx(0.4, rel=0.1)
    assert patient.counters.refused == 1


def test_long_queries_are_refused_where_as_many_short_ones_are_taken(
    patient: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    measured(patient, model, clock, took_s=0.05, weight=50)
    hold(patient, model)
    submit(patient, "query", *range(8), weight=1)
    assert overloaded(patient) is None
    submit(patient, "query", *range(8), weight=100)
    assert overloaded(patient) is not None


def test_one_caller_that_fills_its_share_leaves_the_others_theirs(
    patient: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    measured(patient, model, clock, took_s=0.05, weight=50)
    hold(patient, model)
    long = patient.submit("query", list(range(20)), [100] * 20, 60_000, "hog")
    assert overloaded(patient, caller="hog") is not None
    assert overloaded(patient, caller="other") is None
    (short,) = patient.submit("query", [7], [5], 60_000, "other")
    model.before_answering = lambda: None
    model.gate.set()
    assert short.result(PATIENCE_S) == 14
    assert [future.result(PATIENCE_S) for future in long] == [2 * item for item in range(20)]
    order = [items[0] for role, items in model.batches if role == "query"][-21:]
    assert order.index(7) <= 1, "the short one waited for the hog's"


def test_an_idle_model_takes_a_query_whatever_was_measured(
    patient: WorkQueue[int, int], model: Model, clock: Clock
) -> None:
    measured(patient, model, clock, took_s=100.0, weight=1)
    assert overloaded(patient) is None
    model.before_answering = lambda: None
    (found,) = patient.submit("query", [1], [1], 500)
    model.gate.set()
    assert found.result(PATIENCE_S) == 2, "the only way to measure again"


def test_what_cannot_be_done_in_time_is_dropped_when_it_is_taken(model: Model, clock: Clock) -> None:
    queue: WorkQueue[int, int] = WorkQueue(
        "test", model.run, QueueLimits(streams=1, batch_items_max=2), clock
    )
    queue.start()
    try:
        measured(queue, model, clock, took_s=1.0, weight=10)
        hold(queue, model)
        (hurried,) = queue.submit("query", [1], [10], 1500)
        (patient_one,) = queue.submit("query", [2], [10], 60_000)
        model.before_answering = lambda: None
        model.gate.set()
        assert patient_one.result(PATIENCE_S) == 4
        with pytest.raises(DeadlineExceeded):
            hurried.result(PATIENCE_S)
        assert queue.counters.late == 1
    finally:
        model.gate.set()
        queue.close()


def test_a_caller_whose_work_takes_long_leaves_one_stream_to_the_others(model: Model, clock: Clock) -> None:
    limits = QueueLimits(streams=2, batch_items_max=1, long_ms=500)
    queue: WorkQueue[int, int] = WorkQueue("test", model.run, limits, clock)
    queue.start()
    try:
        queue.submit("query", [1], [1], 60_000, "hog")
        assert model.entered.acquire(timeout=PATIENCE_S)
        clock.now += 0.6
        kept_back = queue.submit("query", [2], [1], 60_000, "hog")
        queue.submit("query", [3], [1], 60_000, "other")
        assert model.entered.acquire(timeout=PATIENCE_S)
        assert [items for _, items in model.batches] == [[1], [3]]
        model.gate.set()
        assert kept_back[0].result(PATIENCE_S) == 4
    finally:
        model.gate.set()
        queue.close()
