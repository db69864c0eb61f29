"""How a comparison leaves processor and databases to others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from feeder.sources.rows import IdCodec, directory_of
from feeder.throttle import IsWanted, Throttle, run_at_idle_priority, run_inline
from tests.waiting import PATIENCE_S


class FakeClock:
    """A clock that pauses move on, and that work moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.now_s += seconds


@pytest.mark.parametrize(("share", "pause"), [(0.1, 0.45), (0.5, 0.05), (1.0, None)])
def test_a_share_of_the_time_is_worked(share: float, pause: float | None) -> None:
    watch = FakeClock()
    throttle = Throttle(share, lambda: watch.now_s, watch.pause)
    watch.now_s += 1000  # what was done before does not count
    throttle.reset()
    for _ in range(3):
        watch.now_s += 0.05
        throttle.slow_down()
    assert watch.pauses == ([] if pause is None else [pause] * 3)


def test_pauses_have_a_limit_in_each_piece_of_work() -> None:
    watch = FakeClock()
    throttle = Throttle(0.1, lambda: watch.now_s, watch.pause, pauses_s_max=1.0)
    for _ in range(2):
        throttle.reset()
        for _ in range(5):
            watch.now_s += 0.05
            throttle.slow_down()
    assert watch.pauses == [0.45, 0.45, 0.1] * 2


def test_a_list_of_ids_is_read_with_pauses() -> None:
    """A million of them, read in one go by a driver in Python, would take seconds."""
    pauses: list[int] = []
    read = 0

    def rows() -> Iterator[tuple[int, bool]]:
        nonlocal read
        for read in range(1, 2_001):
            yield read, True

    directory = directory_of(IdCodec("int64", column_is_int=True), rows(), lambda: pauses.append(read))
    assert directory.count == 2_000
    assert pauses == [500, 1_000, 1_500, 2_000]


def test_idle_work_is_done_elsewhere_and_its_errors_come_back() -> None:
    here = threading.get_ident()
    assert run_inline(lambda _: threading.get_ident(), None) == here
    assert run_at_idle_priority(lambda _: threading.get_ident(), lambda: False) != here
    for meanwhile in (None, lambda: False):
        with pytest.raises(ZeroDivisionError):
            run_at_idle_priority(lambda _: 1 // 0, meanwhile)


def test_something_else_is_done_beside_idle_work() -> None:
    enough, done = threading.Event(), []

    def meanwhile() -> bool:
        done.append(threading.get_ident())
        if len(done) == 3:
            enough.set()
        return True

    assert run_at_idle_priority(lambda _: enough.wait(PATIENCE_S), meanwhile)
    assert set(done) == {threading.get_ident()}


def test_idle_work_that_nobody_waits_for_is_told() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(is_wanted: IsWanted) -> None:
        begun.set()
        while is_wanted():
            os.sched_yield()
        ended.set()

    def meanwhile() -> bool:
        assert begun.wait(PATIENCE_S)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_at_idle_priority(work, meanwhile)
    assert ended.wait(PATIENCE_S)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="this system knows no idle threads")
def test_idle_work_gives_way_and_nobody_else_does() -> None:
    assert run_at_idle_priority(lambda _: os.sched_getscheduler(0), lambda: False) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_work_that_changes_wait_for_gives_way_to_nobody() -> None:
    here = threading.get_ident(), os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None

    def work(_: IsWanted) -> tuple[int, int | None]:
        return threading.get_ident(), os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None

    assert run_at_idle_priority(work, None) == here
