"""The one place that names implementations: plain constructor calls, top to bottom."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fastapi import FastAPI

from image_fetch.fetch import FetchLimits, PictureFetch
from index_store.types import CollectionSpec
from service.app.encoders import Encoders, Slot
from service.app.generations.serving import ModelChange
from service.app.health.prober import Prober
from service.app.image_fetch import PictureFetcher
from service.app.ingest import Ingester
from service.app.lifecycle import Lifecycle, OpenableIndex
from service.app.listing.filter_writes import FilterWrites
from service.app.listing.item_counts import ItemCounts
from service.app.listing.parts import ListingParts
from service.app.listing.scan_queue import ScanQueue
from service.app.monitoring.explanations import Explanations
from service.app.search import Searcher
from service.app.search_queue import SearchQueue
from service.app.seen.seen_items import SeenItems
from service.collections import Catalogue, read_collections
from service.embedding.catalog.preload import EarlyModels
from service.engine.index import index_of, search_threads, snapshots_of
from service.engine.storage import index_storage, maintenance_watch
from service.http.app import Application, ApplicationParts, DemoPicture, Lifespan
from service.http.auth import Keys, Role, TrustedProxies
from service.http.dependencies import Dependencies
from service.http.quotas import Quotas
from service.http.rate_limits import RateLimit
from service.http.wire.body_reader import BodyReader
from service.observing.audit_log import AuditLog
from service.observing.metrics import RATE_LIMITS, Metrics
from service.observing.request_log import RequestLog
from service.observing.tracing.tracer import Tracer, note_pass
from service.settings import Settings
from service.wiring_catalogue import serving_catalogue
from service.wiring_metrics import (
    add_collectors,
    audit_log_of,
    query_log,
    request_tracer,
    search_meter,
    seen_items,
    stdout_request_log,
)
from service.wiring_models import ModelLoader
from service.wiring_rebuild import HERE, JobPlace, RebuildParts, build_rebuild
from service.words.interpreter import Interpreter

log = logging.getLogger(__name__)

_YOUNG_OBJECTS = 20_000
_CONTRACT_PLACES = (Path(__file__).parents[1] / "openapi.yaml", Path(__file__).parent / "openapi.yaml")
"""In a checkout it stands at the root, in an installation in this package (setup.py)."""
_PAGE_ITEMS = 1000
"""Of one commit of a write by filter."""
_READERS = 4
_FETCHERS = 8


MakeIndex: TypeAlias = Callable[[Path, Sequence[CollectionSpec]], OpenableIndex]


BeforeServing: TypeAlias = Callable[[Ingester, Catalogue], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Service:
    """A built service. Nothing is open before `lifecycle.opened`. watches: run beside it while it is open."""

    application: Application
    parts: ApplicationParts
    ingester: Ingester
    catalogue: Catalogue
    lifecycle: Lifecycle
    watches: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    rebuild: RebuildParts


def build(
    settings: Settings,
    metrics_dir: Path | None = None,
    before_serving: BeforeServing | None = None,
    make_index: MakeIndex | None = None,
    models: EarlyModels | None = None,
    demo_picture: DemoPicture | None = None,
    place: JobPlace = HERE,
) -> Service:
    """Raises BadConfiguration. metrics_dir: where workers sum their metrics. before_serving: awaited before
    the first connection. models: being opened already. demo_picture: of a file name. place: of the jobs."""
    storage = index_storage(settings)
    served = serving_catalogue(settings, storage, read_collections(settings))
    index = _index(settings, served.catalogue, make_index)
    catalogue = replace(served.catalogue, generation_dims=index.dims_by_version)
    readers, writers, fetchers, sampling = executors = _executors(settings)
    metrics = Metrics(metrics_dir)
    encoders = Encoders({each.name: Slot(each.model, each.text_template) for each in catalogue.collections})
    search_queue = _search_queue(settings, index, metrics)
    seen = seen_items(settings, metrics, metrics_dir)
    searcher = _searcher(settings, catalogue, encoders, search_queue, index, readers, seen)
    pictures = PictureFetcher(_guarded(settings), fetchers)
    ingester = _ingester(settings, catalogue, encoders, pictures, index, writers, metrics)
    tracer = request_tracer(settings, metrics)
    observe_query = note_pass if tracer else None
    observe_pass, hybrid = metrics.stages.observe_pass, catalogue.is_hybrid_possible
    loader = ModelLoader(settings, models, observe_pass, observe_query, is_hybrid_possible=hybrid)
    meter, metering = search_meter(metrics, settings, index, sampling, metrics_dir)
    lifecycle = _lifecycle(settings, catalogue, index, encoders, loader, search_queue, executors)
    logs = request_log, audit_log, _ = stdout_request_log(), audit_log_of(settings, metrics), tracer
    watched = (encoders, searcher, index, readers, lifecycle)
    prober = _prober(settings, catalogue, *watched, metrics, served.changes, audit_log)
    recent, pools, log_of = metrics.take_recent_searches, [readers, writers], query_log(settings)
    rebuild = build_rebuild(
        settings, served, log_of, index, storage, encoders, loader, pictures, recent, pools, place
    )
    measuring = add_collectors(metrics, settings, catalogue, index, storage, loader, rebuild.rebuilds.jobs)
    watches = [*rebuild.watches, *measuring, *metering]
    before = partial(before_serving, ingester, catalogue) if before_serving else None
    running = [prober.watch, *watches]
    lifespan = _lifespan(lifecycle, running, *logs, waits=settings.workers > 1, before=before)
    bodies, quotas = _bodies(settings), _quotas(settings, metrics, metrics_dir)
    shared = Dependencies(settings, catalogue, _keys(settings), encoders, index, readers, bodies, quotas)
    parts = ApplicationParts(
        dependencies=shared,
        searcher=searcher,
        ingester=ingester,
        pictures=pictures,
        prober=prober,
        exposition=metrics.exposition,
        snapshots=snapshots_of(settings),
        rebuilds=rebuild.rebuilds,
        reports=rebuild.reports,
        promotions=rebuild.promotions,
        store_id=storage.store_id,
        metrics=metrics,
        meter=meter,
        explanations=Explanations(searcher, index.replay_source(), readers),
        request_log=request_log,
        audit_log=audit_log,
        tracer=tracer,
        opening=lifecycle,
        contract=next(path for path in _CONTRACT_PLACES if path.exists()).read_bytes(),
        listing=_listing(settings, index, ingester, readers),
        demo_picture=demo_picture,
        lifespan=lifespan,
    )
    return Service(Application(parts), parts, ingester, catalogue, lifecycle, watches, rebuild)


def _index(settings: Settings, catalogue: Catalogue, make_index: MakeIndex | None) -> OpenableIndex:
    specs = [each.spec for each in catalogue.collections]
    return index_of(settings, specs) if make_index is None else make_index(settings.data_dir, specs)


def _executors(settings: Settings) -> tuple[ThreadPoolExecutor, ...]:
    """Threads that read the index, write it, fetch pictures, and one that measures recall."""
    return (
        ThreadPoolExecutor(_READERS, thread_name_prefix="reader"),
        ThreadPoolExecutor(settings.write_threads, thread_name_prefix="writer"),
        ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetcher"),
        ThreadPoolExecutor(1, thread_name_prefix="recall"),
    )


def _searcher(
    settings: Settings,
    catalogue: Catalogue,
    encoders: Encoders,
    search_queue: SearchQueue,
    index: OpenableIndex,
    readers: ThreadPoolExecutor,
    seen: SeenItems | None,
) -> Searcher:
    synonyms = {each.name: each.synonyms for each in catalogue.collections if each.synonyms is not None}
    return Searcher(
        encoders,
        search_queue,
        index,
        readers,
        Interpreter(index.word_source(), synonyms),
        seen,
        deadline_ms=settings.search_deadline_ms,
        min_seq_wait_ms=settings.min_seq_wait_ms,
    )


def _prober(
    settings: Settings,
    catalogue: Catalogue,
    encoders: Encoders,
    searcher: Searcher,
    index: OpenableIndex,
    readers: ThreadPoolExecutor,
    lifecycle: Lifecycle,
    metrics: Metrics,
    changes: Mapping[str, ModelChange],
    audit_log: AuditLog,
) -> Prober:
    return Prober(
        catalogue,
        encoders,
        searcher,
        index,
        readers,
        lifecycle,
        maintenance_watch(settings),
        metrics,
        changes,
        lambda: audit_log.fault,
        probe_s=settings.probe_s,
    )


def _lifecycle(
    settings: Settings,
    catalogue: Catalogue,
    index: OpenableIndex,
    encoders: Encoders,
    loader: ModelLoader,
    search_queue: SearchQueue,
    executors: Sequence[ThreadPoolExecutor],
) -> Lifecycle:
    return Lifecycle(
        index,
        catalogue.collections,
        encoders,
        loader,
        search_queue,
        executors,
        has_fallback=settings.model_fallback == "placeholder",
    )


def _ingester(
    settings: Settings,
    catalogue: Catalogue,
    encoders: Encoders,
    pictures: PictureFetcher,
    index: OpenableIndex,
    writers: ThreadPoolExecutor,
    metrics: Metrics,
) -> Ingester:
    return Ingester(
        encoders,
        pictures,
        index,
        writers,
        metrics,
        writes_max=settings.queue_requests_max,
        content_kept_for=[each.name for each in catalogue.collections if each.keeps_content],
    )


def _guarded(settings: Settings) -> PictureFetch:
    bytes_max, s_max = settings.image_bytes_max, settings.image_url_ms_max / 1000
    return PictureFetch(FetchLimits(settings.image_url_hosts, "IMAGE_URL_HOSTS", bytes_max, s_max))


def _search_queue(settings: Settings, index: OpenableIndex, metrics: Metrics) -> SearchQueue:
    return SearchQueue(
        index,
        metrics,
        queue_requests_max=settings.queue_requests_max,
        queue_ms_max=settings.queue_ms_max,
        threads=search_threads(settings),
    )


def _listing(
    settings: Settings, index: OpenableIndex, ingester: Ingester, readers: ThreadPoolExecutor
) -> ListingParts:
    items = index.item_source()
    scans = ScanQueue(readers, queue_ms_max=settings.queue_ms_max, clock=time.monotonic)
    counts = ItemCounts(items, scans, deadline_ms=settings.search_deadline_ms, clock=time.monotonic)
    filter_writes = FilterWrites(
        counts,
        scans,
        ingester,
        index,
        brake_percent=settings.brake_percent,
        page_items=min(_PAGE_ITEMS, settings.upsert_items_max),
        deadline_ms=settings.upsert_deadline_ms,
        clock=time.monotonic,
    )
    return ListingParts(items, scans, counts, filter_writes)


def _keys(settings: Settings) -> Keys:
    return Keys(
        {
            Role.SEARCH: settings.search_api_key,
            Role.WRITE: settings.write_api_key,
            Role.ADMIN: settings.admin_api_key,
        },
        TrustedProxies(settings.trusted_proxies),
        is_open_to_loopback=settings.keyless_writes == "loopback",
    )


def _quotas(settings: Settings, metrics: Metrics, shared_dir: Path | None) -> Quotas:
    searches, writes = (
        RateLimit(name, units, settings.rate_limit_window_s, shared_dir) if units else None
        for name, units in zip(
            RATE_LIMITS, (settings.rate_limit_search, settings.rate_limit_write), strict=True
        )
    )
    return Quotas(searches, writes, metrics.rate_limited)


def _bodies(settings: Settings) -> BodyReader:
    largest = max(settings.search_bytes_max, settings.upsert_bytes_max, settings.image_bytes_max)
    return BodyReader(bytes_max=max(settings.bodies_bytes_max, largest), seconds_max=settings.body_read_s_max)


def _lifespan(
    lifecycle: Lifecycle,
    watches: Sequence[Callable[[], Coroutine[Any, Any, None]]],
    request_log: RequestLog,
    audit_log: AuditLog,
    tracer: Tracer | None,
    *,
    waits: bool,
    before: Callable[[], Awaitable[object]] | None,
) -> Lifespan:
    """waits: take no connection before everything is open. One of several workers that comes up while the
    others serve must not answer `starting`; a lone one answers at once, so that its health can be asked."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        request_log.start()
        try:
            async with lifecycle.opened():
                if waits or before is not None:
                    await lifecycle.wait()
                if before is not None:
                    await before()
                watching = [
                    asyncio.create_task(_resume_collector(lifecycle)),
                    *[asyncio.create_task(watch()) for watch in watches],
                ]
                yield
                for task in watching:
                    task.cancel()
        finally:
            request_log.close()
            audit_log.close()
            if tracer is not None:
                tracer.close()

    return lifespan


async def _resume_collector(lifecycle: Lifecycle) -> None:
    """Turn the garbage collector on, without the objects of the start and less often than by default.

    Requests leave no reference cycles, and looking for some took a tenth of a search's CPU.
    """
    try:
        await lifecycle.wait()
    finally:
        gc.enable()  # `made_application` turned it off
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 50)
