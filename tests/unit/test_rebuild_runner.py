"""Who fills a generation: its job, which tells how far it is and can be ended; gaps of others without one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.types import Content, Id, ItemWrite, WriteBatch
from service.app.encoders import Slot
from service.app.rebuild.filler import Filler, Gap, GapStep
from service.app.rebuild.job_process import JobProcess
from service.app.rebuild.jobs import JobPhase, JobStore
from service.app.rebuild.runner import RebuildRunner
from service.app.rebuild.throttle import FillThrottle
from service.collections import Collection
from service.embedding.port import Encoding

COLLECTION = Collection("recipes", dim=4)
ITEMS = 40
WAIT_S_MAX = 60
UNUSED: Any = None


class Ones:
    """An encoder whose every vector is the same."""

    async def embed_documents(self, contents: Sequence[str]) -> Sequence[Encoding]:
        return [Encoding(np.ones(4, np.float32) / 2, False)] * len(contents)


class ModelsOnTheWay:
    """The model of a new generation is there when it is asked for the second time, as after some loading."""

    def __init__(self) -> None:
        self._asked = 0

    def slot_of_version(self, collection: str, embedding_version: str) -> Slot | None:
        del collection, embedding_version
        self._asked += 1
        return Slot("model", text=Ones()) if self._asked > 1 else None  # type: ignore[arg-type]

    def problem(self, collection: str, embedding_version: str) -> str:
        del collection, embedding_version
        return ""


class NoReports:
    """Makes none."""

    async def make_for_job(self, *_: object) -> None:
        return


class TimedFiller(Filler):
    """Takes two seconds of a clock for each step, and notes the rates that `job` told."""

    def __init__(self, jobs: JobStore, *parts: Any) -> None:
        super().__init__(*parts)
        self._jobs = jobs
        self.now = 0.0
        self.job = ""
        self.rates: list[float | None] = []

    async def fill_next(self, gap: Gap, slot: Slot, after: Id | None) -> GapStep:
        job = self._jobs.find_job(self.job)
        self.rates += [job.rate] if job else []
        self.now += 2
        return await super().fill_next(gap, slot, after)


class WatchedFiller(Filler):
    """Notes the phase that the job told at each step."""

    def __init__(self, jobs: JobStore, *parts: Any) -> None:
        super().__init__(*parts)
        self._jobs = jobs
        self.phases: list[str] = []

    async def fill_next(self, gap: Gap, slot: Slot, after: Id | None) -> GapStep:
        self.phases += [job.phase for job in self._jobs.all()]
        return await super().fill_next(gap, slot, after)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, [COLLECTION.spec])
    index.open()
    index.advance("recipes", "begin", "v1")
    items = [_made(number) for number in range(ITEMS)]
    index.write("recipes", WriteBatch(items, embedding_version="v1"))
    yield index
    index.close()


def _made(number: int) -> ItemWrite:
    data = f"국 {number}".encode()
    vector = np.full(4, number + 1, np.float32)
    return ItemWrite(
        number, vector, True, content_hash=hashlib.sha256(data).digest(), content=Content("text", data)
    )


def runner_of(
    jobs: JobStore,
    index: EmbeddedIndex,
    filler: Filler,
    threads: ThreadPoolExecutor,
    directory: Path,
    process: JobProcess | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RebuildRunner:
    models: Any = ModelsOnTheWay()
    reports: Any = NoReports()
    pace, lock = FillThrottle(list, 50), directory / "runner.lock"
    pace.share = (
        1.0  # as after a while without searches: the seconds of a test's clock are no seconds to rest
    )
    return RebuildRunner(
        [COLLECTION],
        jobs,
        index,
        models,
        filler,
        reports,
        pace,
        threads,
        lock,
        job_process=process,
        look_s=0.01,
        clock=clock,
    )


async def until_over(runner: RebuildRunner, jobs: JobStore) -> None:
    running = asyncio.create_task(runner.run())
    async with asyncio.timeout(WAIT_S_MAX):
        while not all(job.is_over for job in jobs.all()):
            await asyncio.sleep(0.01)
    running.cancel()


@pytest.mark.parametrize("phase", ["loading", "embedding", "sealing", "report"])
def test_a_job_whose_generation_was_aborted_does_not_begin_it_again(
    index: EmbeddedIndex, tmp_path: Path, phase: JobPhase
) -> None:
    jobs = JobStore(tmp_path / "jobs", lambda: datetime.now(UTC))
    job = jobs.create_job("recipes", "model", "", "v2", 4)
    jobs.save_job(replace(job, state="running", phase=phase))
    with ThreadPoolExecutor(2) as threads:
        asyncio.run(
            until_over(
                runner_of(jobs, index, Filler(index, UNUSED, threads, threads), threads, tmp_path), jobs
            )
        )
    assert [each.state for each in jobs.all()] == ["cancelled"]
    assert index.status("recipes").others == []


def test_a_job_fills_its_generation_itself(index: EmbeddedIndex, tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs", lambda: datetime.now(UTC))
    job = jobs.create_job("recipes", "model", "", "v2", 4)
    with ThreadPoolExecutor(2) as threads:
        filler = WatchedFiller(jobs, index, None, threads, threads)
        asyncio.run(until_over(runner_of(jobs, index, filler, threads, tmp_path), jobs))
    ended = jobs.find_job(job.id)
    assert ended is not None and (ended.state, ended.done, ended.total) == ("ready", ITEMS, ITEMS)
    assert set(filler.phases) == {"embedding"}


def test_a_rate_is_that_of_this_job_and_not_of_one_whose_generation_was_aborted(
    index: EmbeddedIndex, tmp_path: Path
) -> None:
    jobs = JobStore(tmp_path / "jobs", lambda: datetime.now(UTC))

    async def scene(runner: RebuildRunner, filler: TimedFiller) -> None:
        jobs.create_job("recipes", "model", "", "v2", 4)
        await until_over(runner, jobs)
        index.advance("recipes", "abort", "v2")
        filler.now += 1000
        filler.job = jobs.create_job("recipes", "model", "", "v2", 4).id
        await until_over(runner, jobs)

    with ThreadPoolExecutor(2) as threads:
        filler = TimedFiller(jobs, index, None, threads, threads)
        runner = runner_of(jobs, index, filler, threads, tmp_path, clock=lambda: filler.now)
        asyncio.run(scene(runner, filler))
    assert [job.state for job in jobs.all()] == ["ready", "ready"]
    told = [rate for rate in filler.rates if rate is not None]
    assert told and min(told) > 1, "40 items in six seconds"


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_job_whose_process_cannot_run_tells_why_and_can_be_ended(
    index: EmbeddedIndex, tmp_path: Path, is_cancelled: bool
) -> None:
    jobs = JobStore(tmp_path / "jobs", lambda: datetime.now(UTC))
    job = jobs.create_job("recipes", "model", "", "v2", 4)

    async def attended(runner: RebuildRunner) -> None:
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(WAIT_S_MAX):
            while not jobs.all()[0].reason:
                await asyncio.sleep(0.01)
            if is_cancelled:
                jobs.request_end(job.id)
                while not jobs.all()[0].is_over:
                    await asyncio.sleep(0.01)
        running.cancel()

    with ThreadPoolExecutor(2) as threads:
        filler = Filler(index, UNUSED, threads, threads)
        runner = runner_of(jobs, index, filler, threads, tmp_path, JobProcess(["/nowhere/python"], list))
        asyncio.run(attended(runner))
    (found,) = jobs.all()
    assert "/nowhere/python" in found.reason
    assert found.state == ("cancelled" if is_cancelled else "queued")
    assert index.status("recipes").others == []


def test_a_process_that_does_jobs_leaves_when_all_are_over(index: EmbeddedIndex, tmp_path: Path) -> None:
    jobs = JobStore(tmp_path / "jobs", lambda: datetime.now(UTC))
    jobs.create_job("recipes", "model", "", "v2", 4)
    with ThreadPoolExecutor(2) as threads:
        filler = Filler(index, UNUSED, threads, threads)
        runner = runner_of(jobs, index, filler, threads, tmp_path)
        asyncio.run(asyncio.wait_for(runner.run_jobs(), WAIT_S_MAX))
    assert [each.state for each in jobs.all()] == ["ready"]
