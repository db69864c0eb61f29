"""Who may queue: measured pace, standing waits and bursts, shares of callers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Admission, FairQueue, Pace
from tests.clock import Clock


@pytest.mark.long
def test_a_pace_follows_what_is_measured() -> None:
    pace = Pace(1.0)
    for _ in range(100):
        pace.note(10, 0.5, is_all_busy=True)
    assert pace.seconds(20) == pytest.approx(1.0, rel=1e-3)
    for _ in range(100):
        pace.note(10, 5.0, is_all_busy=True)
    assert pace.seconds(20) == pytest.approx(10.0, rel=1e-3)


def test_what_was_measured_with_cores_to_spare_counts_less() -> None:
    pace = Pace(1.0)
    for _ in range(100):
        pace.note(10, 1.0, is_all_busy=True)
    for _ in range(10):
        pace.note(10, 0.5, is_all_busy=False)
    assert pace.seconds(10) > 0.9
    for _ in range(1000):
        pace.note(10, 0.5, is_all_busy=False)
    assert pace.seconds(10) == pytest.approx(0.5, rel=1e-2)


def test_a_standing_wait_of_a_quarter_is_always_admitted_and_none_beyond_the_whole() -> None:
    admission = Admission(0.4, Clock())
    for _ in range(1000):
        assert admission.admits(0.1, is_free=False)
        admission.charge(0.1, 0.1)
    assert not admission.admits(0.41, is_free=False)


def test_a_burst_is_taken_once_and_earned_again_by_quiet() -> None:
    clock = Clock()
    admission = Admission(0.4, clock)

    def burst() -> float:
        wait_s = 0.0
        while admission.admits(wait_s, is_free=False):
            admission.charge(wait_s, 0.01)
            wait_s += 0.01
        return wait_s

    assert burst() == pytest.approx(0.4, abs=0.03)
    assert burst() == pytest.approx(0.1, abs=0.03)
    clock.now += 3.0
    assert burst() == pytest.approx(0.4, abs=0.03)


def test_who_waits_less_than_the_others_needs_no_credit() -> None:
    admission = Admission(0.4, Clock())
    admission.charge(0.2, 1.0)
    assert not admission.admits(0.2, is_free=False)
    assert admission.admits(0.2, is_free=True)
    assert not admission.admits(0.41, is_free=True)
    queue: FairQueue[int] = FairQueue()
    assert not queue.is_below_others(1, "alone")
    queue.push(0, 10, "hog")
    assert queue.is_below_others(9, "other")
    assert not queue.is_below_others(10, "other")
    assert not queue.is_below_others(1, "hog")
    queue.push(0, 2, "third")
    assert queue.is_below_others(5, "other")
    assert not queue.is_below_others(6, "other")


def test_one_caller_is_served_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(20):
        queue.push(number, random.Random(number).random(), "a")
    assert list(queue.drain()) == list(range(20))


def test_callers_take_turns_by_work_not_by_count() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(10):
        queue.push("long", 10, "hog")
    for _ in range(10):
        queue.push("short", 1, "other")
    first = [queue.pop().entry for _ in range(11)]
    assert first.count("short") == 10, "ten short ones are as much work as one long one"


def test_an_entry_that_was_put_back_stays_before_what_comes_later() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("first", 10, "a")
    queue.push("second", 10, "a")
    queue.pop()
    queue.put_back(queue.pop())  # the queue was empty for a moment
    queue.push("third", 10, "a")
    queue.push("other", 10, "b")
    assert next(queue.drain()) == "second"


def test_what_waits_before_a_new_one_counts_each_other_caller_up_to_its_own() -> None:
    queue: FairQueue[int] = FairQueue()
    for _ in range(50):
        queue.push(0, 10, "hog")
    assert queue.units_before(10, "hog") == 500
    assert queue.units_before(2, "other") == 2
    queue.push(0, 2, "other")
    assert queue.units_before(2, "other") == 2 + 4


@pytest.mark.long
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9)), min_size=1, max_size=80),
    st.lists(st.booleans(), min_size=80, max_size=80),
)
def test_nothing_is_lost_or_doubled_and_no_caller_waits_for_more_than_its_share(
    entries: list[tuple[str, int]], takes: list[bool]
) -> None:
    queue: FairQueue[int] = FairQueue()
    found = []
    for number, ((caller, units), is_taken) in enumerate(zip(entries, takes, strict=False)):
        queue.push(number, units, caller)
        if is_taken:
            place = queue.pop()
            queue.put_back(place)
            found.append(queue.pop().entry)
    found.extend(queue.drain())
    assert sorted(found) == list(range(len(entries)))
    assert len(queue) == 0
    assert queue.units_before(1, "a") == 0
    for caller in "abcd":
        own = [number for number in found if entries[number][0] == caller]
        assert own == sorted(own)
