"""A parent asks its workers whether they live, and waits for none of them."""

from __future__ import annotations

from multiprocessing import Pipe

from service.server.workers import HealthCheck
from tests.clock import Clock


def test_a_worker_that_answers_lives_and_is_asked_again() -> None:
    clock = Clock()
    check = HealthCheck(60, clock)
    parent, worker = Pipe()
    for _ in range(3):
        assert check.answers(parent)
        assert worker.recv() == b"ping"
        worker.send(True)
        clock.now += 50


def test_one_that_is_silent_for_long_does_not_and_is_asked_once() -> None:
    clock = Clock()
    check = HealthCheck(60, clock)
    parent, worker = Pipe()
    assert check.answers(parent)
    clock.now += 60
    assert check.answers(parent), "it is slow"
    clock.now += 1
    assert not check.answers(parent)
    assert worker.recv() == b"ping" and not worker.poll()
    worker.send(True)
    assert check.answers(parent), "it was slow after all"


def test_one_whose_pipe_is_closed_does_not() -> None:
    check = HealthCheck(60, Clock())
    parent, worker = Pipe()
    worker.close()
    assert not check.answers(parent)
