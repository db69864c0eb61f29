"""What is measured when metrics are read: the state that workers share, processes, caches; logs, traces."""

from __future__ import annotations

import logging
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from index_store.port import IndexStorage, VectorIndex
from service.app.monitoring.query_cache import QueryCacheCollector
from service.app.monitoring.recall_sampler import RecallSampler
from service.app.monitoring.search_meter import SearchMeter
from service.app.monitoring.state_collector import StateCollector, StateIndex
from service.app.query_log.files import QueryLog
from service.app.query_log.recorder import QueryRecorder
from service.app.rebuild.jobs import JobStore
from service.app.seen.seen_collector import SeenCollector
from service.app.seen.seen_items import SeenItems, SeenLimits
from service.collections import Catalogue
from service.engine.storage import maintenance_watch
from service.errors import BadConfiguration
from service.observing.audit_log import AuditFiles, AuditLog
from service.observing.metrics import Metrics
from service.observing.process_metrics import ProcessCollector
from service.observing.request_log import RequestLog
from service.observing.slow_searches import SlowSearches
from service.observing.tracing.tracer import Tracer
from service.settings import Settings
from service.wiring_models import ModelLoader


def add_collectors(
    metrics: Metrics,
    settings: Settings,
    catalogue: Catalogue,
    index: StateIndex,
    storage: IndexStorage,
    loader: ModelLoader,
    jobs: JobStore,
) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
    """Let `metrics` show the state of the service; return what runs while it does."""
    state = StateCollector(
        [each.name for each in catalogue.collections],
        index,
        jobs.all,
        storage,
        maintenance_watch(settings),
        workers=settings.workers,
    )
    caches = QueryCacheCollector(loader.caches, metrics)
    root = os.getpid if settings.workers == 1 else os.getppid
    for collector in (state, ProcessCollector(root), caches):
        metrics.add_collector(collector)
    return [caches.hand_over_regularly]


def search_meter(
    metrics: Metrics,
    settings: Settings,
    index: VectorIndex,
    executor: Executor,
    metrics_dir: Path | None,
) -> tuple[SearchMeter, Sequence[Callable[[], Coroutine[Any, Any, None]]]]:
    """Return what measures searches and keeps some queries, and what runs beside it. executor: one thread.
    metrics_dir: where several workers show each other their slowest."""
    slow = SlowSearches(partial(datetime.now, UTC), time.monotonic, metrics_dir)
    sampler = RecallSampler(index, metrics, executor, settings.recall_sample_s)
    percent = settings.record_queries_percent
    recorder = QueryRecorder(query_log(settings), executor, random.random, percent=percent)
    meter = SearchMeter(metrics.stages, slow, sampler, recorder if percent else None)
    return meter, [meter.share_regularly, recorder.write_regularly]


def seen_items(settings: Settings, metrics: Metrics, shared_dir: Path | None) -> SeenItems | None:
    """Return what remembers what was shown; None where nothing may. shared_dir: of several workers."""
    if not settings.seen_keys_max:
        return None
    limits = SeenLimits(
        settings.seen_keys_max, settings.seen_ids_max, settings.seen_bytes_max, settings.seen_s
    )
    seen = SeenItems(shared_dir, limits)
    metrics.add_collector(SeenCollector(seen))
    return seen


def query_log(settings: Settings) -> QueryLog:
    """Return the recorded queries of the data directory."""
    return QueryLog(
        settings.data_dir / "queries",
        partial(datetime.now, UTC),
        rows_max=settings.recorded_queries_max,
        bytes_max=settings.recorded_queries_bytes_max,
        days=settings.recorded_queries_days,
    )


def request_tracer(settings: Settings, metrics: Metrics) -> Tracer | None:
    """Return what traces requests, None for nothing. Raises BadConfiguration without the extra."""
    if not settings.otel_exporter_otlp_endpoint:
        return None
    try:
        from service.observing.tracing.otlp import OtlpSender
    except ImportError as exc:
        mistake = "OTEL_EXPORTER_OTLP_ENDPOINT needs the extra `tracing`: pip install '.[tracing]'"
        raise BadConfiguration([mistake]) from exc
    sender = OtlpSender(
        settings.otel_exporter_otlp_endpoint,
        settings.otel_exporter_otlp_headers,
        settings.otel_service_name,
        metrics.traces_dropped,
    )
    return Tracer(sender, random.random, percent=settings.trace_percent)


def audit_log_of(settings: Settings, metrics: Metrics) -> AuditLog:
    """Return the audit log of the data directory."""
    files = None
    if settings.audit_files:
        files = AuditFiles(
            settings.data_dir / "audit", bytes_max=settings.audit_file_bytes_max, files=settings.audit_files
        )
    return AuditLog(files, metrics.audit_lost, partial(datetime.now, UTC))


def stdout_request_log() -> RequestLog:
    """Return what logs requests on standard output, where such lines are wanted."""
    return RequestLog(sys.stdout.buffer if logging.getLogger().isEnabledFor(logging.INFO) else None)
