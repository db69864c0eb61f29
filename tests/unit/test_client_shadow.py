"""Comparisons of two paths: the old one answers, whatever the new one does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.rollout_stage import OLD, Stage, unavailable
from vector_client.recommend.port import Neighbours
from vector_client.rollout.path import Reporter
from vector_client.rollout.shadow import RUNNING_MAX, compared
from vector_client.telemetry.events import Compared, Event, PathCalled, ShadowSkipped


def test_shadow_compares_and_the_old_answers() -> None:
    async def run() -> None:
        stage = Stage(rollout=0, shadow=100)
        assert await stage.ask(session="the request's own") == OLD
        await stage.shadow.finish()
        assert stage.new.asked == [(None, "갈비탕", 3, [9])], "never the request's session"
        (event,) = [each for each in stage.events if isinstance(each, Compared)]
        assert event.overlap == pytest.approx(2 / 3)
        assert event.distance_difference == pytest.approx(0.0004)

    asyncio.run(run())


@pytest.mark.parametrize("trouble", ["fails", "hangs", "bug"])
def test_shadow_never_fails_or_holds_up_an_answer(trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        stage = Stage(rollout=0, shadow=100)
        stage.new.hangs = trouble == "hangs"
        stage.new.failure = {"fails": unavailable(), "bug": KeyError("x")}.get(trouble)
        for _ in range(RUNNING_MAX + 5):
            assert await stage.ask() == OLD
        skipped = sum(isinstance(each, ShadowSkipped) for each in stage.events)
        assert trouble != "hangs" or skipped == 5, "a new path that hangs gathers no endless tasks"
        await stage.moving.close()
        assert not [each for each in stage.events if isinstance(each, Compared)]

    with caplog.at_level(logging.INFO):
        asyncio.run(run())


def test_shadow_is_sampled() -> None:
    async def run() -> None:
        stage = Stage(rollout=0, shadow=25)
        for number in range(100):
            stage.chance = number / 100
            await stage.ask()
            await stage.shadow.finish()
        assert len(stage.new.asked) == 25

    asyncio.run(run())


def test_an_observer_that_fails_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(_: Event) -> None:
        raise RuntimeError("metrics are down")

    Reporter(breaks)(PathCalled("db", "first", 0.1))
    assert "observer_failed" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "overlap", "distance", "missing", "added"),
    [
        ([], [], 1.0, None, [], []),
        ([], [(1, 0.1)], 0.0, None, [], [1]),
        ([(1, 0.1)], [], 0.0, None, [1], []),
        ([(1, 0.1), (2, 0.2)], [(2, 0.25), (1, 0.1)], 1.0, 0.05, [], []),
    ],
)
def test_differences(
    old: Neighbours,
    new: Neighbours,
    overlap: float,
    distance: float | None,
    missing: list[int],
    added: list[int],
) -> None:
    found = compared(old, new)
    assert (found.overlap, found.missing, found.added) == (overlap, missing, added)
    assert found.distance == (None if distance is None else pytest.approx(distance))
