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
from feeder.facts import Facts
from feeder.follow.activity_only import Activity
from feeder.follow.follower import CLOCK_CURSOR, Syncer
from feeder.follow.parts import Lookout, Pace
from feeder.follow.parts import Parts as SyncParts
from feeder.follow.tiers import TierLog
from feeder.follow.versions import Versions, content_version, vector_version
from feeder.load.importer import Importer, Parts
from feeder.load.space_probe import ProbeRules, SpaceProbe
from feeder.read.content_reader import Beside, ContentTruth, Recipe
from feeder.read.image_fetch import PictureFetcher
from feeder.read.pages import PAGES_AHEAD
from feeder.read.vector_reader import Sources, Truth
from feeder.settings import Settings
from feeder.sink.brake import BRAKE_CURSOR, WINDOW_CURSOR, Brake, BrakedStore, Store, Window, told_brake
from feeder.sink.writer import Applier, service_errors
from feeder.sources.mariadb.items import MariaDBItems
from feeder.sources.port import ItemSource, VectorSource
from feeder.sources.postgres.items import PostgresItems
from feeder.sources.postgres.vectors import PgVectorSource
from feeder.sources.session import Patience, maria_session, postgres_session
from feeder.state.content_cache import ContentState
from feeder.state.key_map import IN_MEMORY, Ledger
from feeder.state.state_file import FOLLOWER_CURSOR, follower_of, forget, rename
from feeder.table_mapping import CollectionTables
from feeder.telemetry.metrics import Metrics
from feeder.telemetry.reporting import Progress
from feeder.throttle import Aside, Pacer, at_once, when_idle
from feeder.wiring_feeds import (
    STORE_CHARACTERS,
    Pause,
    alert_of,
    better_tier,
    feeds_of,
    lease_of,
    unread_rows,
)
from image_fetch.fetch import FetchLimits, PictureFetch
from vector_client.http import VectorClient
from vector_client.retries import Limits
from vector_client.types import CollectionState, Id

log = logging.getLogger(__name__)

CONTENT_PAGE_ITEMS, GENTLE_PAGE_ITEMS = 5_000, 200
GENTLE_PAGE_ROWS = 200
POLL_REST_SHARE = 0.1
"""Of the time between two polls: where comparing is following, resting makes changes late."""
RESTS_S_MAX = 30.0
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
    session = postgres_session(settings.vector_database(), patience_of(settings))
    return PgVectorSource(session, tables.vectors, tables.id_kind, tables.dim)


def items_of(settings: Settings, tables: CollectionTables) -> ItemSource | None:
    database = settings.items_database(tables)
    if database is None or tables.items is None:
        return None
    if database.engine == "mariadb":
        return MariaDBItems(maria_session(database, patience_of(settings)), tables.items, tables.id_kind)
    return PostgresItems(postgres_session(database, patience_of(settings)), tables.items, tables.id_kind)


def patience_of(settings: Settings) -> Patience:
    return Patience(settings.bounds.source_timeout_s, settings.bounds.retries)


def importer_of(
    settings: Settings,
    tables: CollectionTables,
    client: VectorClient,
    progress: Progress,
    *,
    is_forced: bool = False,
) -> Importer:
    bounds = settings.bounds
    applier = applier_of(settings, tables, client)
    _, _, store = braked(settings, tables, applier, is_forced=is_forced)
    median_min = bounds.probe_text_min if tables.modality == "text" else bounds.probe_image_min
    parts = Parts(
        vectors=vectors_of(settings, tables),
        items=items_of(settings, tables),
        applier=applier,
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
        lease=lease_of(settings, tables, patience_of(settings), state_of(client, tables).store),
    )
    return Importer(tables, parts, bounds)


def tier_log_of(settings: Settings, tables: CollectionTables) -> TierLog:
    bounds = settings.bounds
    return TierLog(tables.name, bounds.log_poll_ms, bounds.trigger_poll_ms, bounds.poll_s)


def syncer_of(
    settings: Settings,
    tables: CollectionTables,
    client: VectorClient,
    metrics: Metrics,
    pause: Pause,
    tiers: TierLog,
) -> tuple[Syncer, Applier]:
    """Return what follows one collection, and the applier that has to be started for it."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    bounds = settings.bounds
    state = state_of(client, tables)
    path = _adopted_path(settings, tables, state)
    applier = applier_of(settings, tables, client)
    window, brake, store = braked(settings, tables, applier)
    feeds = feeds_of(settings, tables, pause, state.store)
    for side, feed in feeds.items():
        tiers.say(side, feed.tier)
    polls = any(feed.tier == "poll" for feed in feeds.values())
    rests_s_max = POLL_REST_SHARE * bounds.poll_s if polls else RESTS_S_MAX
    pacer = Pacer(bounds.compare_percent / 100, time.monotonic, pause, rests_s_max)
    truth = facts_of(settings, tables, path, pacer)
    fastest = bounds.log_poll_ms if any(f.tier == "log" for f in feeds.values()) else bounds.trigger_poll_ms
    parts = SyncParts(
        collection=tables.name,
        store=store,
        truth=truth,
        feeds=feeds,
        lease=lease_of(settings, tables, alert_of(settings), state.store),
        reconciler=reconciler_of(settings, tables, store, brake, truth, pause, aside=when_idle),
        metrics=metrics,
        clock=time.time,
        ticks=time.monotonic,
        jitter=random.random,
        version_of=vector_version if tables.vectors else content_version,
        follower=follower_of(settings.state_dir),
        activity=activity_of(settings, tables, store, brake, path),
        vanished=window.total,
        lookout=Lookout(
            state.store,
            lambda: unread_rows(settings, tables, feeds, state.store),
            lambda: better_tier(settings, tables, feeds, state.store),
        ),
    )
    pace = Pace(poll_s=fastest / 1000, compare_s=bounds.compare_s)
    return Syncer(parts, pace, batch_of(settings, tables)), applier


def braked(
    settings: Settings, tables: CollectionTables, applier: Applier, *, is_forced: bool = False
) -> tuple[Window, Brake, BrakedStore]:
    """Return the way into the service that lets no more vanish than the brake allows."""
    window = Window(settings.bounds.brake_window_s, time.time)
    brake = Brake(settings.bounds.brake_percent, is_forced=is_forced, lately=window.total)
    return window, brake, BrakedStore(tables.name, applier, brake, window)


def activity_of(
    settings: Settings, tables: CollectionTables, store: Store, brake: Brake, path: str
) -> Activity | None:
    """Return what is followed while the vectors are not those of the served model."""
    items = items_of(settings, tables)
    if tables.vectors is None or items is None:
        return None
    return Activity(
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
    truth = facts_of(settings, tables, _path_for_once(settings, tables, served, mode), None)
    applier = applier_of(settings, tables, client)
    _, brake, store = braked(settings, tables, applier, is_forced=mode == "force")
    reconciler = reconciler_of(settings, tables, store, brake, truth, time.sleep)
    lease = lease_of(settings, tables, patience_of(settings), served.store)
    applier.start()
    try:
        if mode != "verify":
            lease.hold()
        truth.open()
        state = store.state()
        version = vector_version(state) if tables.vectors else content_version(state)
        if mode == "verify":
            return reconciler.compare(version)
        versions = Versions(time.time)
        versions.begin_after(state.cursors.get(CLOCK_CURSOR))
        applier.apply(Changes(), {FOLLOWER_CURSOR: ""})
        report = reconciler.mend(version, versions.next)
        counts_anew = {WINDOW_CURSOR: ""} if mode == "force" else {}
        applier.apply(Changes(), {BRAKE_CURSOR: "", **counts_anew})
        return report
    except BrakeOn as exc:
        applier.apply(Changes(), told_brake(exc, time.time))
        raise
    finally:
        lease.release()
        truth.close()
        applier.close()


def reconciler_of(
    settings: Settings,
    tables: CollectionTables,
    store: Store,
    brake: Brake,
    truth: Facts,
    pause: Pause,
    *,
    aside: Aside = at_once,
) -> Reconciler:
    return Reconciler(
        tables.name,
        store,
        truth,
        brake,
        batch_items=batch_of(settings, tables),
        clock=time.time,
        pause=pause,
        aside=aside,
    )


def facts_of(settings: Settings, tables: CollectionTables, path: str, pacer: Pacer | None) -> Facts:
    """Return what the collection's sources say. path: where it is remembered what was seen of them.
    pacer: nobody waits for a comparison, so it takes small pages one by one, over connections of its own, and
    changes are followed meanwhile."""
    if tables.vectors is not None:
        return truth_of(settings, tables, Ledger(path), pacer)
    items, database = items_of(settings, tables), settings.items_database(tables)
    if items is None or database is None or tables.items is None:
        raise SettingsWrong(f"{tables.name}: neither vectors nor items are configured")
    others = None if pacer is None else items_of(settings, tables)
    page_items = CONTENT_PAGE_ITEMS if pacer is None else GENTLE_PAGE_ITEMS
    return ContentTruth(
        items,
        ContentState(path, time.time),
        pictures_of(settings),
        Recipe(tables.modality, tables.text_template, page_items, settings.bounds.image_fetches),
        identity=f"{database} {'.'.join(tables.items.table)} {tables.text_template}",
        beside=Beside(others, ContentState(path, time.time), pacer) if others and pacer else None,
    )


def state_path(settings: Settings, tables: CollectionTables, store: str) -> str:
    suffix = "" if tables.vectors else ".content"
    mark = f".{store[:STORE_CHARACTERS]}" if store else ""
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
    lease = lease_of(settings, tables, alert_of(settings), state.store)
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
    state = ContentState(path, time.time)
    state.open()
    try:
        return state.quarantined()
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
    return PictureFetcher(
        PictureFetch(
            FetchLimits(
                sorted(settings.image_hosts),
                "FEEDER_IMAGE_HOSTS",
                bounds.image_bytes_max,
                bounds.image_timeout_s,
                settings.image_networks,
            )
        )
    )


def batch_of(settings: Settings, tables: CollectionTables) -> int:
    """Return how many items are read again and written together."""
    bounds = settings.bounds
    if tables.vectors is not None:
        return bounds.batch_items
    return min(bounds.batch_items, bounds.picture_batch if tables.modality == "image" else bounds.text_batch)


def truth_of(
    settings: Settings, tables: CollectionTables, ledger: Ledger, pacer: Pacer | None = None
) -> Truth:
    rows = settings.bounds.page_rows
    return Truth(
        vectors_of(settings, tables),
        items_of(settings, tables),
        ledger,
        id_kind=tables.id_kind,
        page_rows=rows if pacer is None else min(rows, GENTLE_PAGE_ROWS),
        pages_ahead=PAGES_AHEAD if pacer is None else 0,
        pacer=pacer,
        beside=None if pacer is None else Sources(vectors_of(settings, tables), items_of(settings, tables)),
    )


def applier_of(settings: Settings, tables: CollectionTables, client: VectorClient) -> Applier:
    bounds = settings.bounds
    return Applier(
        client, tables.name, dim=tables.dim, batch_items=bounds.batch_items, connections=bounds.connections
    )
