"""How the share of filling follows what searches take, in a model of a machine."""

from __future__ import annotations

import random

import pytest

from service.app.rebuild.throttle import FillThrottle

SEED = 7_813
WORKED_S = 0.02
LIMIT_MS = 50


class Machine:
    """Searches come at a rate and take 5 to 10 ms at rest; slowdown: how many times that beside work."""

    def __init__(self, a_second: float, slowdown: float) -> None:
        self._chance = random.Random(SEED)
        self._a_second, self._slowdown = a_second, slowdown
        self._passed_s = 0.0
        self._throttle = FillThrottle(self._recent, LIMIT_MS)

    def _recent(self) -> list[float]:
        count = self._passed_s * self._a_second
        whole = int(count) + (self._chance.random() < count % 1)
        return [self._took_s() for _ in range(whole)]

    def _took_s(self) -> float:
        meets_work = self._chance.random() < self._throttle.share
        return self._chance.uniform(0.005, 0.01) * (self._slowdown if meets_work else 1)

    def filled_for(self, seconds: float) -> list[float]:
        """Fill for so long; return the shares of the second half."""
        at, shares = 0.0, []
        while at < seconds:
            rest_s = self._throttle.rest_after(WORKED_S)
            self._passed_s = WORKED_S + rest_s
            assert self._passed_s == pytest.approx(WORKED_S / self._throttle.share)
            at += self._passed_s
            if at > seconds / 2:
                shares.append(self._throttle.share)
        return shares


def test_without_searches_it_fills_without_rests() -> None:
    assert min(Machine(0, 10).filled_for(10)) == 1.0


@pytest.mark.parametrize("a_second", [2, 20, 500])
def test_searches_that_stay_quick_do_not_hold_it_up(a_second: float) -> None:
    assert min(Machine(a_second, 2).filled_for(10)) == 1.0


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
