"""What a model change is made of: the models of all generations, the jobs, who runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from index_store.port import IndexStorage
from index_store.types import Content
from service.app.encoders import Encoders
from service.app.generations.loading import Loader
from service.app.generations.models import GenerationModels
from service.app.generations.workers import WorkerModels
from service.app.ingest import PictureSource
from service.app.lifecycle import OpenableIndex
from service.app.query_log.files import QueryLog
from service.app.rebuild.estimate import Trial
from service.app.rebuild.filler import Filler
from service.app.rebuild.job_process import JobProcess
from service.app.rebuild.jobs import JobStore
from service.app.rebuild.model_change_rebuilds import ModelChangeRebuilds
from service.app.rebuild.promotions import Promotions
from service.app.rebuild.rebuilds import Rebuilds
from service.app.rebuild.runner import RebuildRunner
from service.app.rebuild.throttle import FillThrottle
from service.app.report.replay import Replayer
from service.app.report.reports import Reports
from service.app.report.store import ReportStore
from service.collections import Collection
from service.embedding.catalog.loader import dim_of, load_embedder
from service.embedding.catalog.references import NoModel, directory_and_hint, parse_reference
from service.settings import Settings
from service.wiring_catalogue import ServingCatalogue

_PIXELS = 224


@dataclass(frozen=True, slots=True)
class RebuildParts:
    """rebuilds, models, reports, promotions: for the routes. watches: run while the service does. runner: one
    of them."""

    rebuilds: Rebuilds
    models: GenerationModels
    reports: Reports
    promotions: Promotions
    watches: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    runner: RebuildRunner


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where jobs are done. command: of a process that a worker starts for them; without one they are done
    here. worker_searches: in that process, what it is told of the worker's searches."""

    command: Sequence[str] = ()
    worker_searches: Callable[[], Sequence[float]] | None = None


HERE = JobPlace()


def build_rebuild(
    settings: Settings,
    served: ServingCatalogue,
    recorded: QueryLog,
    index: OpenableIndex,
    storage: IndexStorage,
    encoders: Encoders,
    loader: Loader,
    pictures: PictureSource,
    recent_searches: Callable[[], Sequence[float]],
    executors: Sequence[ThreadPoolExecutor],
    place: JobPlace,
) -> RebuildParts:
    """executors: threads that read the index, threads that write it."""
    readers, writers = executors
    collections = served.catalogue.collections
    # A step waits for the models of workers; who does jobs answers no search.
    is_worker = place.worker_searches is None
    workers = WorkerModels(settings.data_dir / ("workers" if is_worker else "jobs/process"))
    recent_searches = place.worker_searches or recent_searches
    models = GenerationModels(collections, encoders, index, loader, readers, workers)
    now = partial(datetime.now, UTC)
    jobs = JobStore(settings.data_dir / "jobs", now)
    pace = FillThrottle(recent_searches, settings.rebuild_search_ms_max)
    source = index.replay_source()
    reports = Reports(
        index,
        source,
        models,
        Replayer(source, readers, pace),
        ReportStore(settings.data_dir / "reports"),
        recorded.recorded_lines,
        readers,
        now,
        queries_max=settings.report_queries_max,
    )
    rebuilds = _rebuilds(
        settings, served, index, storage, encoders, jobs, processes=settings.workers + bool(place.command)
    )
    pending = ModelChangeRebuilds(
        rebuilds,
        index,
        served.catalogue,
        served.changes,
        settings.data_dir / "jobs" / "begun.json",
        is_on=settings.on_model_change == "rebuild",
    )
    runner = RebuildRunner(
        collections,
        jobs,
        index,
        models,
        Filler(index, pictures, readers, writers),
        reports,
        pace,
        readers,
        settings.data_dir / "jobs" / ("runner.lock" if is_worker else "process.lock"),
        begin_pending=pending.begin_pending,
        is_maintained=settings.maintenance == "on",
        retire_after_s=settings.retire_after_h * 3600,
        job_process=JobProcess(place.command, recent_searches) if place.command else None,
    )
    promotions = Promotions(index, reports, models, readers)
    return RebuildParts(rebuilds, models, reports, promotions, [models.run, runner.run], runner)


def _rebuilds(
    settings: Settings,
    served: ServingCatalogue,
    index: OpenableIndex,
    storage: IndexStorage,
    encoders: Encoders,
    jobs: JobStore,
    *,
    processes: int,
) -> Rebuilds:
    """processes: that hold the rows of the new generation that are not sealed yet."""
    try_model = partial(tried_model, settings.models_dir, settings.model_threads, settings.model_runtime)
    return Rebuilds(jobs, index, encoders, served.changes.get, try_model, storage, workers=processes)


def tried_model(
    models_dir: Path,
    threads: int,
    runtime: str,
    collection: Collection,
    reference: str,
    sample: Sequence[Content],
) -> Trial:
    """Return what the model of `reference` gives for `collection`, and how long an item of `sample` takes; a
    picture without fetching and decoding it. Raises ModelUnavailable."""
    dim = dim_of(reference, models_dir) or collection.dim
    if collection.modality == "text":
        contents: list[Any] = [each.data.decode() for each in sample if each.kind == "text"]
    else:
        contents = [np.zeros((_PIXELS, _PIXELS, 3), np.uint8)] * len(sample)
    embedder = load_embedder(
        reference,
        collection.modality,
        models_dir=models_dir,
        dim=dim,
        threads=threads,
        runtime=runtime,
    )
    try:
        began_at = time.perf_counter()
        if contents:
            embedder.embed(contents, "document")
        took_s = time.perf_counter() - began_at
        seconds = took_s / len(contents) if contents else None
        return Trial(
            embedder.info.embedding_version, embedder.info.dim, seconds, _files_bytes(reference, models_dir)
        )
    finally:
        embedder.close()


def _files_bytes(reference: str, models_dir: Path) -> int:
    if isinstance(parse_reference(reference), NoModel):
        return 0
    directory, _ = directory_and_hint(reference, models_dir)
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
