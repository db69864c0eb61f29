"""Share, breaker, step back, shadow and fall-back over two searchers that obey."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from vector_client.errors import (
    BadRequest,
    CircuitOpen,
    NoAnswer,
    PathFailed,
    TimedOut,
    Unavailable,
    VectorClientError,
)
from vector_client.recommend.port import Neighbours
from vector_client.retries import Timing
from vector_client.rollout.breaker import Breaker
from vector_client.rollout.moving import MovingRecommender, Plan
from vector_client.rollout.path import GuardedPath, Question, Reporter
from vector_client.rollout.shadow import RUNNING_MAX, Shadow, compared
from vector_client.rollout.share import is_in_share
from vector_client.rollout.step_back import StepBackGuard
from vector_client.settings import BreakerLimits, StepBack
from vector_client.telemetry.events import Asked, Compared, Event, ShadowSkipped, Switched
from vector_client.types import Id


@dataclass(slots=True)
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Searcher:
    """Answers `found`; raises or waits first where told to. takes_s is what it costs on the clock.
    ends_after_s: how long a cancelled call goes on. ended: how many of them are over."""

    found: Neighbours
    clock: Clock
    failure: Exception | None = None
    hangs: bool = False
    ends_after_s: float = 0.0
    takes_s: float = 0.0
    ended: int = 0
    asked: list[tuple[Any, str, int, Sequence[Id] | None]] = field(default_factory=list)

    async def find_similar_ids(
        self, pg_db: Any, query: str, top_k: int, exclude_ids: Sequence[Id] | None = None
    ) -> Neighbours:
        self.asked.append((pg_db, query, top_k, exclude_ids))
        self.clock.now += self.takes_s
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(self.ends_after_s)  # as a driver that tells a silent server to cancel
                self.ended += 1
                raise
        if self.failure is not None:
            raise self.failure
        return list(self.found)


OLD: Neighbours = [(1, 0.1), (2, 0.2), (3, 0.3)]
NEW: Neighbours = [(1, 0.1), (3, 0.3004), (4, 0.4)]


class Stage:
    """A moving recommender and everything around it that a test looks at."""

    def __init__(
        self, *, rollout: float = 100, shadow: float = 0, deadline_s: float = 60, **limits: Any
    ) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.old = Searcher(OLD, self.clock)
        self.new = Searcher(NEW, self.clock)
        report = Reporter(self.events.append)
        breaker = BreakerLimits(limits.get("failures", 5), limits.get("rest_s", 5.0))
        paths = [
            GuardedPath(name, searcher, Breaker(name, breaker, self.clock), report, self.clock)
            for name, searcher in (("db", self.old), ("remote_store", self.new))
        ]
        guard = StepBackGuard(limits.get("step_back", StepBack()), self.clock)
        self.shadow = Shadow(paths[1], deadline_s, report, self.clock, None)
        self.chance = 0.0
        self.moving = MovingRecommender(
            paths[0], paths[1], Plan(rollout, shadow, deadline_s, str), guard, self.shadow, report,
            Timing(self.clock, lambda: self.chance),
        )  # fmt: skip

    async def ask(self, query: str = "갈비탕", session: Any = None) -> Neighbours:
        return await self.moving.find_similar_ids(session, query, 3, [9])

    def switches(self) -> list[tuple[str, str]]:
        return [(each.path, each.state) for each in self.events if isinstance(each, Switched)]


def unavailable() -> Unavailable:
    return Unavailable(503, "overloaded", "busy")


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 99, 100])
def test_the_share_is_kept_and_sticky(percent: float) -> None:
    keys = [f"user-{number}" for number in range(10_000)]
    chosen = {key for key in keys if is_in_share(key, percent)}
    assert abs(len(chosen) - percent * 100) <= 100, "within 1 % of all calls"
    assert chosen == {key for key in keys if is_in_share(key, percent)}
    assert chosen <= {key for key in keys if is_in_share(key, min(100, percent * 1.5 + 1))}, (
        "nobody goes back"
    )


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


def test_the_other_path_answers_within_the_deadline_when_one_hangs() -> None:
    async def run() -> None:
        stage = Stage(deadline_s=0.2)
        stage.new.hangs = True
        assert await stage.ask() == OLD
        stage.old.hangs = True
        with pytest.raises(TimedOut):
            await stage.ask()

    asyncio.run(run())


@pytest.mark.parametrize("rollout", [0, 100])
def test_a_path_that_is_slow_to_cancel_costs_no_answer(rollout: float) -> None:
    """asyncio.wait_for waits until the cancelled call has ended: the other path had no time left."""

    async def run() -> None:
        stage = Stage(rollout=rollout, deadline_s=0.5)
        first, other = (stage.new, OLD) if rollout else (stage.old, NEW)
        first.hangs, first.ends_after_s = True, 60
        began = asyncio.get_running_loop().time()
        assert await stage.ask() == other
        assert asyncio.get_running_loop().time() - began < 10

    asyncio.run(asyncio.wait_for(run(), 30))


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

    Reporter(breaks)(Asked("db", "first", 0.1))
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


def test_every_way_out_is_typed() -> None:
    """Whatever two paths raise, the caller sees one tree."""

    async def run(make: Callable[[], Exception]) -> None:
        stage = Stage()
        stage.new.failure, stage.old.failure = make(), make()
        with pytest.raises(VectorClientError):
            await stage.ask()

    for make in (unavailable, lambda: OSError("x"), lambda: ValueError("x"), lambda: TimeoutError("x")):
        asyncio.run(run(make))
