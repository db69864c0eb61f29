"""kill -9 at each step of a model change, under load: afterwards old or new, never between, nothing lost.

The steps are the ones that an operator sees: the generation begins, it is filled to some count, it is ready,
promotion, rollback, promotion. Each is taken, killed at once or a few milliseconds later, and looked at after
the restart. What a kill inside a commit leaves is proven in tests/simulation, step by step by name.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from benchmarks.model_change_load import Caller, Failure, Load, taken_step
from benchmarks.model_change_shop import Shop, Step

Target: TypeAlias = Literal["everything", "parent", "worker"]
TARGETS: Sequence[Target] = ("everything", "parent", "worker")
FILLED: Sequence[float] = (0.1, 0.5, 0.9)
_WAIT_S_MAX = 120.0
_UNANSWERED = (OSError, http.client.HTTPException)


class Killable(Protocol):
    """A service of several workers, as a process group of its own."""

    port: int

    @property
    def process_id(self) -> int: ...

    def worker_ids(self) -> list[int]: ...

    def restart(self) -> None:
        """kill -9 of what is left of the group; start, and wait until it is ready."""


@dataclass
class Campaign:
    """One model change, killed at each step. log: what was killed where, and what was found after it."""

    service: Killable
    folder: Path
    shop: Shop
    load: Load
    old: str
    new: str
    model: str
    say: Callable[[str], None] = print
    steps: list[Step] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    kills: int = 0
    answers: int = 0
    changes: int = 0

    def run(self, targets: Sequence[Target], delays_s: Sequence[float] = (0.0, 0.002)) -> None:
        """Kill each target in turn at the steps of a filling, then at each step between generations, so long
        after it was asked for."""
        turns = _in_turn(targets)
        with self.load.running():
            body = {"collection": "recipes", "model": self.model}
            job = self._asked("POST", "/v1/rebuild", body)["job"]["id"]
            self._until(lambda: self._job(job)["phase"] != "waiting" or self._awaiting() is not None)
            self._kill("begin", next(turns))
            for share in FILLED:
                self._until(partial(self._is_filled, share))
                self._kill(f"filled to {self._filled():.2f}", next(turns))
            self._until(lambda: self._job(job)["state"] not in ("queued", "running"))
            self._kill("ready", next(turns))
            if (state := self._job(job)["state"]) != "ready":
                self.problems.append(f"the job is {state}: {self._job(job)}")
        self._stop()
        for step, version in (("promote", self.new), ("rollback", self.old), ("rollback", self.new)):
            for delay_s in delays_s:
                with self.load.running():
                    self._killed_step(step, version, next(turns), delay_s)
                self._stop()

    def _killed_step(self, step: str, version: str, target: Target, delay_s: float) -> None:
        """Ask for the step, kill, see which generation serves, and take the step if it was not."""
        if self._current() == version:
            return  # the kill before came after the rename
        began = time.monotonic()
        asked = threading.Thread(target=self._try_step, args=(step,))
        asked.start()
        time.sleep(delay_s)
        self._kill(f"{step} after {delay_s * 1000:.0f} ms", target)
        asked.join()
        serving = self._current()
        if serving not in (self.old, self.new):
            self.problems.append(f"{step}: {serving} serves")
        if serving == version:
            self.steps.append(Step(version, began, time.monotonic()))
        elif delay_s:
            self._until(partial(self._has_taken, step))

    def _has_taken(self, step: str) -> bool:
        """A refusal says why, and what a kill has left behind may pass: an operator asks again."""
        self.steps.append(taken_step(self.service.port, step))
        return True

    def _try_step(self, step: str) -> None:
        try:
            taken_step(self.service.port, step)
        except (*_UNANSWERED, RuntimeError) as exc:
            self.say(f"    {step} was not acknowledged: {exc!r}"[:150])

    def _kill(self, where: str, target: Target) -> None:
        began = time.monotonic()
        if target == "worker":
            before = self.service.worker_ids()
            os.kill(before[self.kills % len(before)], signal.SIGKILL)
            self._until(lambda: _is_whole_again(self.service.worker_ids(), before))
            self._until(lambda: self._asked("GET", "/readyz")["status"] == "ready")
        else:
            if target == "parent":
                workers = self.service.worker_ids()
                os.kill(self.service.process_id, signal.SIGKILL)
                self._until(lambda: not any(map(_is_alive, workers)))
            self.service.restart()
        self.kills += 1
        self.outages.append((began, time.monotonic()))
        roles = {each["role"]: each["awaiting"] for each in self._generations()}
        self.say(f"  killed {target} at {where}: {time.monotonic() - began:.1f} s, items that wait: {roles}")

    def _stop(self) -> None:
        """All is acknowledged: judge what happened, compare every generation with the source."""
        happened = self.load.take()
        findings = self.shop.judge(happened.changes, happened.searches, self.steps)
        self.answers += findings.answers
        self.changes += len(happened.changes)
        self.problems += findings.problems()
        self.problems += [each.what for each in happened.failures if not self._was_out(each)]
        self._until(lambda: not any(each["awaiting"] for each in self._generations()))
        for each in self._generations():
            directory, version = self.folder / each["generation"], each["embedding_version"]
            self.problems += self.shop.differences(directory, version)

    def _was_out(self, failure: Failure) -> bool:
        return any(failure.began < last and failure.ended > first for first, last in self.outages)

    def _until(self, found: Callable[[], Any]) -> None:
        give_up = time.monotonic() + _WAIT_S_MAX
        while True:
            try:
                if found():
                    return
            except (*_UNANSWERED, RuntimeError) as exc:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"it never came: {exc}") from exc
            if time.monotonic() > give_up:
                raise TimeoutError(f"it never came: {self._generations()}")
            time.sleep(0.005)

    def _is_filled(self, share: float) -> bool:
        return self._filled() >= share

    def _filled(self) -> float:
        waits = self._awaiting()
        return 0.0 if waits is None else 1.0 - waits / len(self.shop.items)

    def _awaiting(self) -> int | None:
        return next((each["awaiting"] for each in self._generations() if each["role"] == "next"), None)

    def _current(self) -> str:
        return next(str(e["embedding_version"]) for e in self._generations() if e["role"] == "current")

    def _generations(self) -> list[dict[str, Any]]:
        return list(self._asked("GET", "/v1/collections/recipes/generations")["generations"])

    def _job(self, job_id: str) -> dict[str, Any]:
        return self._asked("GET", f"/v1/jobs/{job_id}")

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answer = Caller(self.service.port).ask(method, path, body)
        if status not in (200, 202):
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        return dict(json.loads(answer))


def _in_turn(targets: Sequence[Target]) -> Iterator[Target]:
    while True:
        yield from targets


def _is_whole_again(now: Sequence[int], before: Sequence[int]) -> bool:
    return len(now) == len(before) and set(now) != set(before)


def _is_alive(process_id: int) -> bool:
    """Whether it runs; one that has ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return False
