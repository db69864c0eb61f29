"""Names the implementations: plain constructor calls, top to bottom."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from feeder.changes import Changes
from feeder.compare.reconciler import Reconciler, Report
from feeder.errors import BrakeOn, ServiceDown, SettingsWrong
from feeder.facts import SourceReader
from feeder.follow.activity_only import ActivityFollower
from feeder.follow.dependencies import FollowerDependencies, Pace, TimedChecks
from feeder.follow.follower import CLOCK_CURSOR, Follower
from feeder.follow.tiers import TierLog
from feeder.follow.versions import SourceVersions, content_version, vector_version
from feeder.load.importer import ImportDependencies, Importer
from feeder.load.space_probe import ProbeRules, SpaceProbe
from feeder.read.content_reader import ContentReader, ContentRules, ContentScanSources
from feeder.read.image_fetch import PictureFetcher
from feeder.read.pages import PAGES_AHEAD
from feeder.read.vector_reader import VectorReader, VectorScanSources
from feeder.settings import Settings
from feeder.sink.brake import (
    BRAKE_CURSOR,
    WINDOW_CURSOR,
    Brake,
    BrakedStore,
    BrakeWindow,
    Store,
    brake_cursor,
)
from feeder.sink.writer import Writer, service_errors
from feeder.sources.mariadb.items import MariaDBItems
from feeder.sources.port import ItemSource, VectorSource
from feeder.sources.postgres.items import PostgresItems
from feeder.sources.postgres.vectors import PgVectorSource
from feeder.sources.session import RetryPolicy, maria_session, postgres_session
from feeder.state.content_cache import ContentCache
from feeder.state.key_map import IN_MEMORY, KeyMap
from feeder.state.state_file import FOLLOWER_CURSOR, follower_of, forget, rename
from feeder.table_mapping import CollectionTables
from feeder.telemetry.metrics import Metrics
from feeder.telemetry.reporting import Progress
from feeder.throttle import Runner, Throttle, run_at_idle_priority, run_inline
from feeder.wiring_feeds import (
    STORE_ID_CHARACTERS,
    Pause,
    better_tier,
    feeds_of,
    lease_of,
    short_retries,
    unread_rows,
)
from image_fetch.fetch import FetchLimits, PictureFetch
from vector_client.http import VectorClient
from vector_client.retries import Limits
from vector_client.types import CollectionState, Id

log = logging.getLogger(__name__)

CONTENT_PAGE_ITEMS, SCAN_PAGE_ITEMS = 5_000, 200
SCAN_PAGE_ROWS = 200
POLL_PAUSE_SHARE = 0.1
"""Of the time between two polls: where comparing is following, resting makes changes late."""
PAUSES_S_MAX = 30.0
"""In one comparison beside a log or triggers: changes wait meanwhile, a deactivated product among them."""


def client_of(settings: Settings) -> VectorClient:
    bounds = settings.bounds
    limits = Limits(
        deadline_s=math.inf,
        attempt_s=bounds.timeout_s,
        retries=bounds.retries,
        connections_max=bounds.connections + 1,
    )
    return VectorClient.to(settings.service_url, settings.keys, limits)


def vectors_of(settings: Settings, tables: CollectionTables) -> VectorSource:
    if tables.vectors is None:
        raise SettingsWrong(f"{tables.name}: no vector table is configured; `sync` brings its content")
    session = postgres_session(settings.vector_database(), import_retries(settings))
    return PgVectorSource(session, tables.vectors, tables.id_kind, tables.dim)


def items_of(settings: Settings, tables: CollectionTables) -> ItemSource | None:
    database = settings.items_database(tables)
    if database is None or tables.items is None:
        return None
    if database.engine == "mariadb":
        return MariaDBItems(maria_session(database, import_retries(settings)), tables.items, tables.id_kind)
    return PostgresItems(postgres_session(database, import_retries(settings)), tables.items, tables.id_kind)


def import_retries(settings: Settings) -> RetryPolicy:
    return RetryPolicy(settings.bounds.source_timeout_s, settings.bounds.retries)


def importer_of(
    settings: Settings,
    tables: CollectionTables,
    client: VectorClient,
    progress: Progress,
    *,
    is_forced: bool = False,
) -> Importer:
    bounds = settings.bounds
    writer = writer_of(settings, tables, client)
    _, _, store = braked(settings, tables, writer, is_forced=is_forced)
    median_min = bounds.probe_text_min if tables.modality == "text" else bounds.probe_image_min
    parts = ImportDependencies(
        vectors=vectors_of(settings, tables),
        items=items_of(settings, tables),
        writer=writer,
        store=store,
        probe=SpaceProbe(
            client,
            tables.name,
            tables.modality,
            tables.vectors.text_template if tables.vectors else tables.text_template,
            ProbeRules(median_min, bounds.noise_percent_max),
        ),
        pictures=pictures_of(settings),
        progress=progress,
        lease=lease_of(settings, tables, import_retries(settings), state_of(client, tables).store),
    )
    return Importer(tables, parts, bounds)


def tier_log_of(settings: Settings, tables: CollectionTables) -> TierLog:
    bounds = settings.bounds
    return TierLog(tables.name, bounds.log_poll_ms, bounds.trigger_poll_ms, bounds.poll_s)


def follower_of_collection(
    settings: Settings,
    tables: CollectionTables,
    client: VectorClient,
    metrics: Metrics,
    pause: Pause,
    tiers: TierLog,
) -> tuple[Follower, Writer]:
    """Return what follows one collection, and the applier that has to be started for it."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    bounds = settings.bounds
    state = state_of(client, tables)
    path = _adopted_path(settings, tables, state)
    writer = writer_of(settings, tables, client)
    window, brake, store = braked(settings, tables, writer)
    feeds = feeds_of(settings, tables, pause, state.store)
    for side, feed in feeds.items():
        tiers.log_tier(side, feed.tier)
    polls = any(feed.tier == "poll" for feed in feeds.values())
    pauses_s_max = POLL_PAUSE_SHARE * bounds.poll_s if polls else PAUSES_S_MAX
    throttle = Throttle(bounds.compare_percent / 100, time.monotonic, pause, pauses_s_max)
    reader = reader_of(settings, tables, path, throttle)
    fastest = bounds.log_poll_ms if any(f.tier == "log" for f in feeds.values()) else bounds.trigger_poll_ms
    parts = FollowerDependencies(
        collection=tables.name,
        store=store,
        reader=reader,
        feeds=feeds,
        lease=lease_of(settings, tables, short_retries(settings), state.store),
        reconciler=reconciler_of(
            settings, tables, store, brake, reader, pause, run_scan=run_at_idle_priority
        ),
        metrics=metrics,
        clock=time.time,
        ticks=time.monotonic,
        jitter=random.random,
        version_of=vector_version if tables.vectors else content_version,
        follower=follower_of(settings.state_dir),
        activity=activity_of(settings, tables, store, brake, path),
        vanished=window.total,
        timed_checks=TimedChecks(
            state.store,
            lambda: unread_rows(settings, tables, feeds, state.store),
            lambda: better_tier(settings, tables, feeds, state.store),
        ),
    )
    pace = Pace(poll_s=fastest / 1000, compare_s=bounds.compare_s)
    return Follower(parts, pace, batch_of(settings, tables)), writer


def braked(
    settings: Settings, tables: CollectionTables, writer: Writer, *, is_forced: bool = False
) -> tuple[BrakeWindow, Brake, BrakedStore]:
    """Return the way into the service that lets no more vanish than the brake allows."""
    window = BrakeWindow(settings.bounds.brake_window_s, time.time)
    brake = Brake(settings.bounds.brake_percent, is_forced=is_forced, vanished_before=window.total)
    return window, brake, BrakedStore(tables.name, writer, brake, window)


def activity_of(
    settings: Settings, tables: CollectionTables, store: Store, brake: Brake, path: str
) -> ActivityFollower | None:
    """Return what is followed while the vectors are not those of the served model."""
    items = items_of(settings, tables)
    if tables.vectors is None or items is None:
        return None
    return ActivityFollower(
        tables.name,
        items,
        store,
        brake,
        batch_items=settings.bounds.batch_items,
        forget=lambda: forget(path),
    )


def compare_once(
    settings: Settings,
    tables: CollectionTables,
    client: VectorClient,
    mode: Literal["verify", "mend", "force"],
) -> Report:
    """Compare one collection beside whatever follows it; mend only under the lease."""
    served = state_of(client, tables)
    reader = reader_of(settings, tables, _path_for_once(settings, tables, served, mode), None)
    writer = writer_of(settings, tables, client)
    _, brake, store = braked(settings, tables, writer, is_forced=mode == "force")
    reconciler = reconciler_of(settings, tables, store, brake, reader, time.sleep)
    lease = lease_of(settings, tables, import_retries(settings), served.store)
    writer.start()
    try:
        if mode != "verify":
            lease.hold()
        reader.open()
        state = store.state()
        version = vector_version(state) if tables.vectors else content_version(state)
        if mode == "verify":
            return reconciler.compare(version)
        versions = SourceVersions(time.time)
        versions.start_after(state.cursors.get(CLOCK_CURSOR))
        writer.apply(Changes(), {FOLLOWER_CURSOR: ""})
        report = reconciler.repair(version, versions.next)
        counts_anew = {WINDOW_CURSOR: ""} if mode == "force" else {}
        writer.apply(Changes(), {BRAKE_CURSOR: "", **counts_anew})
        return report
    except BrakeOn as exc:
        writer.apply(Changes(), brake_cursor(exc, time.time))
        raise
    finally:
        lease.release()
        reader.close()
        writer.close()


def reconciler_of(
    settings: Settings,
    tables: CollectionTables,
    store: Store,
    brake: Brake,
    reader: SourceReader,
    pause: Pause,
    *,
    run_scan: Runner = run_inline,
) -> Reconciler:
    return Reconciler(
        tables.name, store, reader, brake,
        batch_items=batch_of(settings, tables), clock=time.time, pause=pause, run_scan=run_scan,
    )  # fmt: skip


def reader_of(
    settings: Settings, tables: CollectionTables, path: str, throttle: Throttle | None
) -> SourceReader:
    """Return what the collection's sources say. path: where it is remembered what was seen of them.
    pacer: nobody waits for a comparison, so it takes small pages one by one, over connections of its own, and
    changes are followed meanwhile."""
    if tables.vectors is not None:
        return vector_reader_of(settings, tables, KeyMap(path), throttle)
    items, database = items_of(settings, tables), settings.items_database(tables)
    if items is None or database is None or tables.items is None:
        raise SettingsWrong(f"{tables.name}: neither vectors nor items are configured")
    others = None if throttle is None else items_of(settings, tables)
    page_items = CONTENT_PAGE_ITEMS if throttle is None else SCAN_PAGE_ITEMS
    return ContentReader(
        items,
        ContentCache(path, time.time),
        pictures_of(settings),
        ContentRules(tables.modality, tables.text_template, page_items, settings.bounds.image_fetches),
        identity=f"{database} {'.'.join(tables.items.table)} {tables.text_template}",
        scan_sources=ContentScanSources(others, ContentCache(path, time.time), throttle)
        if others and throttle
        else None,
    )


def state_path(settings: Settings, tables: CollectionTables, store: str) -> str:
    suffix = "" if tables.vectors else ".content"
    mark = f".{store[:STORE_ID_CHARACTERS]}" if store else ""
    return str(settings.state_dir / f"{tables.name}{suffix}{mark}.sqlite")


def state_of(client: VectorClient, tables: CollectionTables) -> CollectionState:
    """Return what the service holds of a collection; of one that it lacks, nothing. Raises ServiceDown with
    the service's own reason where it can't serve it."""
    with service_errors():
        state = client.status().get(tables.name, CollectionState(tables.name, None, 0))
    if state.problem:
        raise ServiceDown(f"the service can't serve {tables.name!r}: {state.problem}")
    return state


def _adopted_path(settings: Settings, tables: CollectionTables, state: CollectionState) -> str:
    """Return the file of this service's collection. Files of older releases did not bear the service's name:
    this one's is renamed, once no older feeder is at work."""
    path = state_path(settings, tables, state.store)
    former = Path(state_path(settings, tables, ""))
    last = state.cursors.get(FOLLOWER_CURSOR)
    if not state.store or Path(path).exists() or not former.exists() or last is None:
        return path
    if last and not last.startswith(follower_of(settings.state_dir)):
        return path
    lease = lease_of(settings, tables, short_retries(settings), state.store)
    try:
        lease.hold()
        rename(former, Path(path))
    finally:
        lease.release()
    return path


def quarantined_of(settings: Settings, name: str, store: str) -> Mapping[Id, str]:
    """Return what the feeder of a content collection remembers in this state directory as set aside."""
    tables = settings.collections.get(name)
    if tables is None or tables.vectors is not None:
        return {}
    paths = (state_path(settings, tables, store), state_path(settings, tables, ""))
    path = next((each for each in paths if Path(each).exists()), None)
    if path is None:
        return {}
    state = ContentCache(path, time.time)
    state.open()
    try:
        return state.failures()
    finally:
        state.close()


def _path_for_once(settings: Settings, tables: CollectionTables, state: CollectionState, mode: str) -> str:
    """A single comparison reads every vector, so it needs no memory; pictures are not fetched twice."""
    if tables.vectors is not None:
        return IN_MEMORY
    if mode == "verify":
        path = state_path(settings, tables, state.store)
        return path if Path(path).exists() else IN_MEMORY
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return _adopted_path(settings, tables, state)


def pictures_of(settings: Settings) -> PictureFetcher:
    bounds = settings.bounds
    limits = FetchLimits(
        sorted(settings.image_hosts), "FEEDER_IMAGE_HOSTS", bounds.image_bytes_max, bounds.image_timeout_s,
        settings.image_networks,
    )  # fmt: skip
    return PictureFetcher(PictureFetch(limits))


def batch_of(settings: Settings, tables: CollectionTables) -> int:
    """Return how many items are read again and written together."""
    bounds = settings.bounds
    if tables.vectors is not None:
        return bounds.batch_items
    return min(bounds.batch_items, bounds.picture_batch if tables.modality == "image" else bounds.text_batch)


def vector_reader_of(
    settings: Settings, tables: CollectionTables, key_map: KeyMap, throttle: Throttle | None = None
) -> VectorReader:
    rows = settings.bounds.page_rows
    return VectorReader(
        vectors_of(settings, tables),
        items_of(settings, tables),
        key_map,
        id_kind=tables.id_kind,
        page_rows=rows if throttle is None else min(rows, SCAN_PAGE_ROWS),
        pages_ahead=PAGES_AHEAD if throttle is None else 0,
        throttle=throttle,
        scan_sources=None
        if throttle is None
        else VectorScanSources(vectors_of(settings, tables), items_of(settings, tables)),
    )


def writer_of(settings: Settings, tables: CollectionTables, client: VectorClient) -> Writer:
    bounds = settings.bounds
    return Writer(
        client, tables.name, dim=tables.dim, batch_items=bounds.batch_items, connections=bounds.connections
    )
