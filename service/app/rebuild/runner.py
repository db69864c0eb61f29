"""Runs the jobs of a data directory, and fills every generation's gaps, in one worker at a time.

A lock elects the worker; the kernel lets go of it when that worker dies, and the next one goes on where the
stores say that something is missing. Where that worker is given a `JobProcess`, the jobs are done there
(`run_jobs`): searches do not wait for the interpreter's lock then. Steps of a job, each of which may be
repeated after a kill:

    waiting → loading   the new model is opened, its version compared with the job's
            → copying   the new generation begins: ids, activity, metadata and content, by one rename
            → embedding items that wait for a vector get one, while every write goes to both generations
            → sealing   maintenance builds the graphs, so that a promotion makes no search slower
            → report    the same queries to both generations, compared
            → done      the job is ready, to be promoted
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from index_store.errors import GenerationConflict, IndexStoreError, InvalidRequest
from index_store.types import CollectionStatus, GenerationStatus, Id, NewGeneration
from service.app.encoders import Slot, has_same_template
from service.app.generations.models import GenerationModels
from service.app.generations.origin import Origin
from service.app.generations.unopened import require_all_open
from service.app.rebuild.filler import Filler, Gap, RebuildIndex
from service.app.rebuild.job_process import JobProcess
from service.app.rebuild.jobs import Job, JobPhase, JobStore
from service.app.rebuild.sealing import Sealing
from service.app.rebuild.throttle import FillThrottle
from service.app.report.reports import Reports
from service.collections import NO_MODEL, Collection
from service.errors import ModelUnavailable, ServiceError, TryLater

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 1.0
_SAVE_S = 1.0
_FAILED_ITEMS_MAX = 100_000
_RETRY_FAILED_S = 600.0
_BEGUN: Sequence[JobPhase] = ("loading", "embedding", "sealing", "report")
"""Phases that a job comes to once its generation is there."""


class _Cancelled(Exception):
    """Somebody asked for the end of the job during its report."""


@dataclass(slots=True)
class _Progress:
    """Of one generation since this worker took it on. failed: ids that could not be embedded, and why."""

    began_at: float
    after: Id | None
    stored: int
    failed: dict[Id, str]
    failed_until: float
    saved_at: float = 0.0


class RebuildRunner:
    """`run` goes on in every worker while the service does; event loop only."""

    def __init__(
        self,
        collections: Sequence[Collection],
        jobs: JobStore,
        index: RebuildIndex,
        models: GenerationModels,
        filler: Filler,
        reports: Reports,
        pace: FillThrottle,
        readers: Executor,
        lock_file: Path,
        *,
        begin_pending: Callable[[], None] = lambda: None,
        is_maintained: bool = True,
        retire_after_s: float = 0.0,
        job_process: JobProcess | None = None,
        look_s: float = _LOOK_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """begin_pending: begins what the configuration asks for. is_maintained: somebody seals what is
        filled. retire_after_s: how long the former generation is kept after it became that; 0 for ever.
        job_process: where the jobs are done instead of here. look_s: between two looks. clock: seconds that
        only go forward. now: seconds since the epoch."""
        self._begin_pending = begin_pending
        self._is_maintained = is_maintained
        self._retire_after_s = retire_after_s
        self._job_process = job_process
        self._look_s = look_s
        self._now = now
        self._collections = {each.name: each for each in collections}
        self._jobs = jobs
        self._index = index
        self._models = models
        self._filler = filler
        self._reports = reports
        self._sealing = Sealing(index, clock)
        self._pace = pace
        self._readers = readers
        self._lock_file = lock_file
        self._clock = clock
        self._descriptor: int | None = None
        self._progress: dict[Gap, _Progress] = {}
        self._reported: set[str] = set()

    async def run(self) -> None:
        """Work while this worker is the elected one, for ever."""
        try:
            while True:
                try:
                    if self._is_elected():
                        await self._work()
                except Exception:
                    log.exception("rebuild_interrupted")
                await asyncio.sleep(self._look_s)
        finally:
            if self._job_process is not None:
                self._job_process.close()
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    async def run_jobs(self) -> None:
        """Work at the jobs until all are over: what a `JobProcess` does."""
        while True:
            try:
                if self._is_elected() and not await self._advance_jobs():
                    return
            except Exception:
                log.exception("rebuild_interrupted")
            await asyncio.sleep(self._look_s)

    def _is_elected(self) -> bool:
        """A lock of the process, not of a descriptor: no child that lives on keeps it."""
        if self._descriptor is not None:
            return True
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    async def _work(self) -> None:
        """One turn: each job a step further, then the gaps of all generations that no job fills: there nobody
        would tell how far it is, or look whether it is to end."""
        await self._run(self._begin_pending)
        filled_by_jobs = await self._advance_jobs()
        for name in self._collections:
            try:
                status = await self._retired_in_time(await self._status(name))
                for generation in status.generations:
                    gap = Gap(name, generation.embedding_version)
                    if gap not in filled_by_jobs:
                        await self._fill_gaps(gap, generation.awaiting)
            except TryLater as exc:
                log.info("gaps_wait", extra={"collection": name, "reason": str(exc)})
            except IndexStoreError:
                continue  # told by the health probe

    async def _advance_jobs(self) -> set[Gap]:
        """Each job that is not over a step further, here or in its process; return what they fill."""
        jobs = [job for job in reversed(await self._run(self._jobs.all)) if not job.is_over]
        problem = None
        if self._job_process is not None:
            problem = await self._run(partial(self._job_process.attend, is_wanted=bool(jobs)))
        for job in jobs:
            if self._job_process is None:
                await self._advance(job)
            elif problem is not None:
                await self._without_process(job, problem)
        return {Gap(job.collection, job.embedding_version) for job in jobs}

    async def _without_process(self, job: Job, problem: str) -> None:
        """Nobody else writes to the job now: tell why it stands still, or end it."""
        if await self._run(partial(self._jobs.is_cancelled, job.id)):
            await self._advance(job)
        else:
            await self._wait(job, problem, "it is started again; see the log for what it said, and dmesg")

    async def _retired_in_time(self, status: CollectionStatus) -> CollectionStatus:
        """Retire the former generation when its time is over; return what is there then."""
        former = status.in_role("former")
        if former is None or not self._retire_after_s:
            return status
        if self._now() < status.former_since + self._retire_after_s:
            return status
        name, version = status.spec.name, former.embedding_version
        log.info("former_generation_expired", extra={"collection": name, "embedding_version": version})
        return await self._run(partial(self._index.advance, name, "retire", version))

    async def _fill_gaps(self, gap: Gap, awaiting: int) -> None:
        """What a worker without the model, or without time for it, has left behind. What could not be
        embedded is tried again now and then."""
        progress = self._progress.get(gap)
        known_to_fail = progress is not None and awaiting <= len(progress.failed)
        if awaiting and not (progress and known_to_fail and self._clock() < progress.failed_until):
            await self._fill(gap, None)

    async def _advance(self, job: Job) -> None:
        try:
            if await self._run(partial(self._jobs.is_cancelled, job.id)):
                await self._cancel(job)
                return
            generation = await self._begun(job)
            if generation is not None:
                await self._follow(job, generation)
        except (GenerationConflict, InvalidRequest, ModelUnavailable) as exc:
            await self._fail(job, str(exc), exc.hint)
        except (ServiceError, IndexStoreError) as exc:
            await self._wait(job, str(exc), exc.hint)

    async def _begun(self, job: Job) -> GenerationStatus | None:
        """The job's generation; None while its model is still being loaded. Begins it where it is missing."""
        status = await self._status(job.collection)
        found = status.of_version(job.embedding_version)
        if found is not None and found.role != "next":
            raise GenerationConflict(
                f"{job.embedding_version!r} is the {found.role} generation by now: nothing is to be rebuilt"
            )
        if found is None:
            if job.phase in _BEGUN:  # somebody gave it up
                await self._save(replace(job, state="cancelled", reason="its generation was aborted"))
                return None
            self._progress.pop(Gap(job.collection, job.embedding_version), None)  # of one that was aborted
            job = await self._save(replace(job, state="running", phase="copying"))
            advance = partial(
                self._index.advance, job.collection, "begin", job.embedding_version, _begins(status, job)
            )
            found = require_all_open(await self._run(advance)).of_version(job.embedding_version)
        if job.model == NO_MODEL:
            return found  # others bring its vectors
        origin = Origin(job.model, job.text_template).serialized()
        await self._run(partial(self._index.record_origin, job.collection, job.embedding_version, origin))
        if self._models.slot_of_version(job.collection, job.embedding_version) is None:
            problem = self._models.problem(job.collection, job.embedding_version)
            if problem:
                await self._run(partial(self._index.advance, job.collection, "abort", job.embedding_version))
                raise ModelUnavailable(problem)
            if job.phase != "loading":
                await self._save(replace(job, state="running", phase="loading"))
            return None
        return found

    async def _follow(self, job: Job, generation: GenerationStatus) -> None:
        """Fill the job's generation until nothing waits, or somebody asks for the job's end."""
        gap = Gap(job.collection, job.embedding_version)
        phase: JobPhase = "sealing" if job.phase == "sealing" and not generation.awaiting else "embedding"
        running = replace(job, state="running", phase=phase, reason="", hint="")
        job = await self._save(_counted(running, generation))
        if phase == "embedding" and not await self._fill(gap, job):
            return
        status = await self._status(job.collection)
        found = status.of_version(job.embedding_version)
        progress = self._progress.get(gap)
        failed = progress.failed if progress else {}
        if found is None or status.current is None or found.awaiting > len(failed):
            return
        is_sealed = partial(self._sealing.is_done, job.collection, found.generation)
        if self._is_maintained and not await self._run(is_sealed):
            await self._save(replace(_counted(job, found), phase="sealing"))
            return
        if job.id not in self._reported:
            if await self._report(await self._save(replace(_counted(job, found), phase="report"))):
                self._reported.add(job.id)
                await self._follow(job, found)  # what has come to wait meanwhile
            return
        lost = await self._run(partial(self._index.find_lost, job.collection, job.embedding_version))
        reasons = list(failed.values())
        errors = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        ready = replace(
            _counted(job, found), state="ready", phase="done", missing=len(lost), errors=errors, eta_s=0.0
        )
        await self._save(ready)
        self._reported.discard(job.id)
        log.info("rebuild_ready", extra={"job": job.id, "collection": job.collection, "missing": len(lost)})

    async def _report(self, job: Job) -> bool:
        """Compare the job's generation with the current one; return whether nobody asked for an end."""

        async def go_on(_done: int, _total: int) -> None:
            if await self._run(partial(self._jobs.is_cancelled, job.id)):
                raise _Cancelled

        try:
            await self._reports.make_for_job(self._collections[job.collection], job.embedding_version, go_on)
        except _Cancelled:
            return False
        return True

    async def _fill(self, gap: Gap, job: Job | None) -> bool:
        """Go once through what waits; return whether its end was reached. job: whose progress this is."""
        slot = self._models.slot_of_version(gap.collection, gap.embedding_version)
        if slot is None:  # without a model nothing is embedded here, and nothing waits for it
            return job is not None and job.model == NO_MODEL
        progress = self._progress_of(gap)
        while True:
            if job is not None and await self._run(partial(self._jobs.is_cancelled, job.id)):
                return False
            worked_at = self._clock()
            after = await self._step(gap, slot, progress)
            if after is None:
                progress.failed_until = self._clock() + _RETRY_FAILED_S
                return True
            if job is not None and self._clock() >= progress.saved_at + _SAVE_S:
                job = await self._tell(job, progress)
                if job is None:
                    return False
            await self._pace.rest(self._clock() - worked_at)

    async def _step(self, gap: Gap, slot: Slot, progress: _Progress) -> Id | None:
        step = await self._filler.fill_next(gap, slot, progress.after)
        progress.after = step.after
        progress.stored += step.stored
        for item_id, reason in step.failed[: _FAILED_ITEMS_MAX - len(progress.failed)]:
            progress.failed[item_id] = reason
        return step.after

    def _progress_of(self, gap: Gap) -> _Progress:
        now = self._clock()
        progress = self._progress.get(gap)
        if progress is None:
            progress = self._progress[gap] = _Progress(now, None, 0, {}, now + _RETRY_FAILED_S)
        if progress.after is None:  # a new pass: what failed may have been written again, or be there now
            progress.failed.clear()
        return progress

    async def _tell(self, job: Job, progress: _Progress) -> Job | None:
        """Save how far the job is; None once its generation is gone."""
        progress.saved_at = self._clock()
        found = (await self._status(job.collection)).of_version(job.embedding_version)
        if found is None:
            return None
        elapsed = max(progress.saved_at - progress.began_at, 1e-9)
        rate = progress.stored / elapsed
        eta_s = round(found.awaiting / rate, 1) if rate else None
        return await self._save(replace(_counted(job, found), rate=round(rate, 2), eta_s=eta_s))

    async def _cancel(self, job: Job) -> None:
        status = await self._run(partial(self._index.status, job.collection))
        following = [each.embedding_version for each in status.named if each.role == "next"]
        if job.embedding_version in following:
            await self._run(partial(self._index.advance, job.collection, "abort", job.embedding_version))
        self._progress.pop(Gap(job.collection, job.embedding_version), None)
        await self._save(replace(job, state="cancelled", phase="done"))
        log.info("rebuild_cancelled", extra={"job": job.id})

    async def _wait(self, job: Job, reason: str, hint: str) -> None:
        """What stands in the way may pass: a start, a full disk, a busy model. The job tells it."""
        found = await self._run(partial(self._jobs.find_job, job.id)) or job
        if found.reason != reason and not found.is_over:
            log.warning("rebuild_waits", extra={"job": job.id, "reason": reason, "hint": hint})
            await self._save(replace(found, reason=reason, hint=hint))

    async def _fail(self, job: Job, reason: str, hint: str) -> None:
        log.error("rebuild_failed", extra={"job": job.id, "reason": reason, "hint": hint})
        await self._save(replace(job, state="failed", phase="done", reason=reason, hint=hint))

    async def _save(self, job: Job) -> Job:
        return await self._run(partial(self._jobs.save_job, job))

    async def _status(self, collection: str) -> CollectionStatus:
        """Raises StoreUnavailable where a generation can't be opened here: it is not gone."""
        return require_all_open(await self._run(partial(self._index.status, collection)))

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)


def _begins(status: CollectionStatus, job: Job) -> NewGeneration:
    """Texts that another template made are no content of the new generation: their sender makes them anew."""
    current = status.current
    is_alike = current is None or has_same_template(current.embedding_version, job.embedding_version)
    return NewGeneration(job.dim or None, with_contents=is_alike)


def _counted(job: Job, generation: GenerationStatus) -> Job:
    return replace(job, total=generation.contents, done=generation.contents - generation.awaiting)
