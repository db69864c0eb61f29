"""How the share of filling follows what searches take, in a model of a machine."""

from __future__ import annotations

import random

import pytest

from service.app.rebuild.throttle import SLOWDOWN_MAX, FillThrottle

SEED = 7_813
LIMIT_MS = 50


class Machine:
    """Searches come at a rate and take 5 to 10 ms at rest, or so many times that; slowdown: how many times as
    long beside work. batch_s: how long the work between two looks takes. heard_every_s: how late it is heard
    of searches."""

    def __init__(
        self,
        a_second: float,
        slowdown: float,
        batch_s: float = 0.02,
        heard_every_s: float = 0.0,
        rest: float = 1.0,
    ) -> None:
        self._rest = rest
        self._is_at_rest = False
        self._chance = random.Random(SEED)
        self._a_second, self._slowdown = a_second, slowdown
        self._batch_s, self._heard_every_s = batch_s, heard_every_s
        self._at = self._passed_s = self._heard_at = 0.0
        self._unheard: list[float] = []
        self._throttle = FillThrottle(self._recent, LIMIT_MS, clock=lambda: self._at)

    def _recent(self) -> list[float]:
        count = self._passed_s * self._a_second
        whole = int(count) + (self._chance.random() < count % 1)
        self._unheard += [self._took_s() for _ in range(whole)]
        self._passed_s = 0.0
        if self._at < self._heard_at + self._heard_every_s:
            return []
        self._heard_at = self._at
        heard, self._unheard = self._unheard, []
        return heard

    def _took_s(self) -> float:
        meets_work = not self._is_at_rest and self._chance.random() < self._throttle.share
        return self._rest * self._chance.uniform(0.005, 0.01) * (self._slowdown if meets_work else 1)

    def filled_for(self, seconds: float) -> list[float]:
        """Fill for so long; return the shares of the second half."""
        began_at, shares = self._at, []
        while self._at < began_at + seconds:
            worked_s = self._batch_s
            while (rest_s := self._throttle.rest_after(worked_s)) or worked_s:
                self._is_at_rest = rest_s > self._batch_s / self._throttle.share
                self._passed_s = worked_s + rest_s
                self._at += self._passed_s
                worked_s = 0.0
            self._is_at_rest = False
            if self._at > began_at + seconds / 2:
                shares.append(self._throttle.share)
        return shares


def test_without_searches_it_fills_without_rests() -> None:
    assert min(Machine(0, 10).filled_for(10)) == 1.0


@pytest.mark.parametrize("a_second", [2, 20, 500])
def test_searches_that_stay_quick_do_not_hold_it_up(a_second: float) -> None:
    assert min(Machine(a_second, 1.4).filled_for(100)) == 1.0


@pytest.mark.parametrize("rest", [0.2, 1, 4])
def test_once_it_knows_what_searches_take_at_rest_it_holds_to_a_multiple(rest: float) -> None:
    """Below the limit of the setting, and where searches at rest are above it already."""
    assert min(Machine(80, SLOWDOWN_MAX * 0.9, rest=rest).filled_for(100)) == 1.0
    shares = Machine(80, SLOWDOWN_MAX * 2, rest=rest).filled_for(200)
    assert min(shares) == pytest.approx(0.1) and max(shares) < 0.2


@pytest.mark.parametrize("a_second", [2, 20, 500])
def test_it_gives_way_to_searches_that_it_slows_and_goes_on(a_second: float) -> None:
    shares = Machine(a_second, 20).filled_for(200)
    assert min(shares) >= 0.02 and max(shares[len(shares) // 2 :]) < 0.5


@pytest.mark.parametrize("a_second", [2, 15])
def test_few_searches_do_not_keep_it_slow_for_ever(a_second: float) -> None:
    """Fewer than say anything come between two looks; together they do."""
    machine = Machine(a_second, 20)
    machine.filled_for(200)
    machine._slowdown = 1
    assert machine.filled_for(600)[-1] == 1.0


@pytest.mark.parametrize("a_second", [2, 10, 80])
@pytest.mark.parametrize("batch_s", [0.005, 0.1])
@pytest.mark.parametrize("heard_every_s", [0.0, 1.0])
def test_looks_that_hear_of_no_search_do_not_undo_what_others_saw(
    a_second: float, batch_s: float, heard_every_s: float
) -> None:
    """Batches are shorter than the time between two searches: most looks hear of none."""
    machine = Machine(a_second, 7, batch_s, heard_every_s)
    shares = machine.filled_for(300)
    worked_s = len(shares) * batch_s
    is_rest_known = a_second > 10
    assert worked_s / sum(batch_s / share for share in shares) < (0.13 if is_rest_known else 0.06)


def test_when_nobody_searches_any_more_it_fills_at_full_speed_again() -> None:
    machine = Machine(20, 20)
    machine.filled_for(200)
    machine._a_second = 0
    assert machine.filled_for(60)[-1] == 1.0
