"""Share, breaker, step back and fall-back over two searchers that obey."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.rollout_stage import NEW, OLD, Clock, Stage, unavailable
from vector_client.errors import (
    BadRequest,
    CircuitOpen,
    NoAnswer,
    PathFailed,
    TimedOut,
    Unavailable,
    VectorClientError,
)
from vector_client.rollout.breaker import Breaker
from vector_client.rollout.moving import Plan
from vector_client.rollout.path import Question
from vector_client.rollout.share import is_in_share
from vector_client.rollout.step_back import StepBackGuard
from vector_client.settings import BreakerLimits, StepBack


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_the_share_is_kept_and_sticky(percent: float) -> None:
    keys = [f"user-{number}" for number in range(10_000)]
    chosen = {key for key in keys if is_in_share(key, percent)}
    assert abs(len(chosen) - percent * 100) <= 100, "within 1 % of all calls"
    assert chosen == {key for key in keys if is_in_share(key, percent)}
    assert chosen <= {key for key in keys if is_in_share(key, min(100, percent * 1.5 + 1))}, (
        "nobody goes back"
    )


@pytest.mark.long
def test_a_user_is_always_on_one_side() -> None:
    async def run() -> None:
        stage = Stage(rollout=50)
        for number in range(10_000):
            await stage.ask(f"user-{number % 1000}")
        new = {query for _, query, _, _ in stage.new.asked}
        old = {query for _, query, _, _ in stage.old.asked}
        assert not new & old
        assert abs(len(new) - 500) <= 50

    asyncio.run(run())


def test_both_sides_get_the_whole_question() -> None:
    async def run() -> None:
        for rollout, searcher in ((0, "old"), (100, "new")):
            stage = Stage(rollout=rollout)
            session = object()
            assert await stage.ask(session=session) == (NEW if rollout else OLD)
            assert getattr(stage, searcher).asked == [(session, "갈비탕", 3, [9])]

    asyncio.run(run())


@pytest.mark.parametrize("key", [None, "", 7, "seven"])
def test_a_key_may_be_a_number_or_missing(key: Any) -> None:
    """Without a user the query decides: all of them on one side would be no share."""

    async def run() -> None:
        stage = Stage(rollout=50)
        stage.moving._plan = Plan(50, 0, 60, lambda _: key)
        for number in range(200):
            await stage.ask(f"query {number}")
        asked_new = len(stage.new.asked)
        assert asked_new in (0, 200) if key else 60 < asked_new < 140

    asyncio.run(run())


def test_a_key_that_fails_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(_: str) -> str:
        raise LookupError("no request here")

    async def run() -> None:
        stage = Stage(rollout=50)
        stage.moving._plan = Plan(50, 0, 60, breaks)
        assert await stage.ask() in (OLD, NEW)

    asyncio.run(run())
    assert "key_of_failed" in caplog.text


@pytest.mark.parametrize("rollout", [0, 100])
@pytest.mark.parametrize(
    "failure",
    [NoAnswer("gone"), TimedOut("late"), unavailable(), BadRequest(422, "invalid_request", "x"),
     RuntimeError("a driver's own"), KeyError("bug")],
    ids=lambda failure: type(failure).__name__,
)  # fmt: skip
def test_the_other_path_answers_whatever_fails(rollout: float, failure: Exception) -> None:
    async def run() -> None:
        stage = Stage(rollout=rollout)
        first, other = (stage.new, OLD) if rollout else (stage.old, NEW)
        first.failure = failure
        for _ in range(100):
            assert await stage.ask() == other

    asyncio.run(run())


@pytest.mark.long
def test_the_other_path_answers_within_the_deadline_when_one_hangs() -> None:
    async def run() -> None:
        stage = Stage(deadline_s=0.2)
        stage.new.hangs = True
        assert await stage.ask() == OLD
        stage.old.hangs = True
        with pytest.raises(TimedOut):
            await stage.ask()

    asyncio.run(run())


@pytest.mark.long
@pytest.mark.parametrize("rollout", [0, 100])
def test_a_path_that_is_slow_to_cancel_costs_no_answer(rollout: float) -> None:
    """asyncio.wait_for waits until the cancelled call has ended: the other path had no time left."""

    async def run() -> None:
        stage = Stage(rollout=rollout, deadline_s=1.0)
        first, other = (stage.new, OLD) if rollout else (stage.old, NEW)
        first.hangs, first.ends_after_s = True, 60
        began = asyncio.get_running_loop().time()
        assert await stage.ask() == other
        assert asyncio.get_running_loop().time() - began < 10

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.long
def test_the_answer_comes_when_the_session_is_free_again() -> None:
    async def run() -> None:
        stage = Stage()
        stage.new.hangs, stage.new.ends_after_s = True, 0.3
        path = stage.moving._new
        question = Question("갈비탕", 3, None)
        with pytest.raises(TimedOut):
            await path.ask(None, question, 0.1, "first")
        assert stage.new.ended == 0
        await question.wait_for_cancelled(20)
        assert stage.new.ended == 1

    asyncio.run(run())


def test_a_path_that_cancels_itself_is_one_typed_error() -> None:
    async def run() -> None:
        stage = Stage()
        stage.new.failure = asyncio.CancelledError()  # type: ignore[assignment]
        assert await stage.ask() == OLD
        stage.old.failure = asyncio.CancelledError()  # type: ignore[assignment]
        with pytest.raises(PathFailed, match="remote_store cancelled itself"):
            await stage.ask()

    asyncio.run(run())


def test_when_both_fail_the_first_failure_is_told() -> None:
    async def run() -> None:
        stage = Stage()
        stage.new.failure, stage.old.failure = unavailable(), NoAnswer("database gone")
        with pytest.raises(Unavailable) as failure:
            await stage.ask()
        assert isinstance(failure.value.__cause__, NoAnswer)
        stage = Stage()
        stage.new.failure, stage.old.failure = RuntimeError("driver"), RuntimeError("driver")
        with pytest.raises(PathFailed, match="RuntimeError: driver"):
            await stage.ask()

    asyncio.run(run())


def test_an_open_breaker_is_passed_over_but_never_the_last_way() -> None:
    async def run() -> None:
        stage = Stage(failures=3)
        stage.new.failure = unavailable()
        for _ in range(10):
            assert await stage.ask() == OLD
        assert len(stage.new.asked) == 3, "then it is not asked"
        stage.new.failure, stage.old.failure = None, NoAnswer("gone")
        stage.moving._plan = Plan(0, 0, 60, str)
        assert await stage.ask() == NEW, "the old path failed: the open breaker does not stand between"

    asyncio.run(run())


def test_the_breaker_opens_and_closes_as_configured() -> None:
    clock = Clock()
    breaker = Breaker("remote_store", BreakerLimits(3, 5.0), clock)
    for _ in range(2):
        breaker.enter()
        assert not breaker.failed()
    breaker.enter()
    assert not breaker.succeeded(), "an answer between failures starts the count again"
    for opened in (False, False, True):
        breaker.enter()
        assert breaker.failed() is opened
    assert breaker.state == "open"
    clock.now += 4.9
    with pytest.raises(CircuitOpen, match="remote_store failed 3 times"):
        breaker.enter()
    clock.now += 0.1
    assert breaker.state == "half_open"
    breaker.enter()
    with pytest.raises(CircuitOpen):
        breaker.enter()  # one call tries, no more
    breaker.failed()
    assert breaker.state == "open", "the trial failed: it rests again"
    clock.now += 5
    breaker.enter()
    breaker.abandoned()
    breaker.enter()  # a cancelled trial says nothing: the next call tries
    assert breaker.succeeded()
    assert breaker.state == "closed"
    breaker.enter()


def test_a_refused_question_opens_nothing_but_a_proxys_refusal_does() -> None:
    async def run(failure: Exception) -> list[tuple[str, str]]:
        stage = Stage(failures=3)
        stage.new.failure = failure
        for _ in range(5):
            await stage.ask()
        return stage.switches()

    assert asyncio.run(run(BadRequest(422, "invalid_request", "top_k"))) == []
    assert asyncio.run(run(BadRequest(431, "http_431", "header too large"))) == [("remote_store", "open")]


def test_a_cancelled_call_is_neither_failure_nor_answer() -> None:
    async def run() -> None:
        stage = Stage(failures=1)
        stage.new.hangs = True
        call = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert stage.old.asked == []
        stage.new.hangs = False
        assert await stage.ask() == NEW
        assert stage.switches() == []

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["errors", "slow"])
def test_the_new_path_is_left_by_itself_and_tried_again(kind: str) -> None:
    limits = StepBack(errors_percent=10, latency_ms_p95=200, calls=50, window_s=60, rest_s=300)

    async def run() -> None:
        stage = Stage(step_back=limits, failures=1000)
        for _ in range(50):
            assert await stage.ask() == NEW
        if kind == "errors":
            stage.new.failure = unavailable()
        else:
            stage.new.takes_s = 0.3
        before = len(stage.new.asked)
        for _ in range(50):
            await stage.ask()
        needed = 6 if kind == "errors" else 3  # more than 10 % failed; more than 5 % of the last 50 are slow
        assert len(stage.new.asked) - before == needed
        assert stage.switches() == [("remote_store", "stepped_back")]
        stage.new.failure, stage.new.takes_s = None, 0.0
        stage.clock.now += 299
        assert await stage.ask() == OLD
        stage.clock.now += 1
        assert await stage.ask() == NEW
        assert stage.switches()[-1] == ("remote_store", "tried_again")
        for _ in range(100):
            assert await stage.ask() == NEW

    asyncio.run(run())


def test_few_and_old_calls_do_not_lead_back() -> None:
    clock = Clock()
    guard = StepBackGuard(StepBack(errors_percent=10, calls=50, window_s=60), clock)
    for _ in range(49):
        assert guard.note(0.01, failed=True) == "", "49 calls are too few to judge by"
    clock.now += 61
    for _ in range(50):
        assert guard.note(0.01, failed=False) == "", "the failures are older than the window"


def test_every_way_out_is_typed() -> None:
    """Whatever two paths raise, the caller sees one tree."""

    async def run(make: Callable[[], Exception]) -> None:
        stage = Stage()
        stage.new.failure, stage.old.failure = make(), make()
        with pytest.raises(VectorClientError):
            await stage.ask()

    for make in (unavailable, lambda: OSError("x"), lambda: ValueError("x"), lambda: TimeoutError("x")):
        asyncio.run(run(make))
