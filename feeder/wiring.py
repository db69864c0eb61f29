"""Names the implementations behind the ports of one collection: plain constructor calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from feeder.compare.reconciler import Reconciler
from feeder.errors import ImportRefused, ServiceDown, SettingsWrong
from feeder.facts import SourceReader
from feeder.follow.activity_only import ActivityFollower
from feeder.follow.comparison_job import ComparisonJob, ComparisonMode
from feeder.follow.dependencies import FollowerDependencies, Pace, TimedChecks
from feeder.follow.follower import Follower
from feeder.follow.tiers import TierLog
from feeder.follow.versions import content_version, imported_version, vector_version
from feeder.load.importer import ImportDependencies, Importer
from feeder.load.space_probe import ProbeRules, SpaceProbe
from feeder.read.content_reader import ContentReader, ContentRules, ContentScanSources
from feeder.read.image_fetch import PictureFetcher
from feeder.read.pages import PAGES_AHEAD
from feeder.read.vector_reader import VectorReader, VectorScanSources
from feeder.settings import Settings
from feeder.sink.brake import Brake, BrakedStore, BrakeWindow
from feeder.sink.generation_state import WrittenGeneration
from feeder.sink.writer import Writer, service_errors
from feeder.sources.change_feed import ChangeFeed, Side
from feeder.state.content_cache import ContentCache
from feeder.state.cursor_names import FOLLOWER_CURSOR
from feeder.state.follower_state import NOBODY, FollowerState
from feeder.state.key_map import IN_MEMORY, KeyMap
from feeder.state.state_file import follower_of, forget, rename
from feeder.table_mapping import CollectionTables
from feeder.telemetry.metrics import Metrics
from feeder.telemetry.reporting import Progress
from feeder.throttle import Runner, Throttle, run_at_idle_priority, run_inline
from feeder.wiring_feeds import STORE_ID_CHARACTERS, Pause, SourceBuilder, reader_of
from image_fetch.fetch import FetchLimits, PictureFetch
from vector_client.http import VectorClient
from vector_client.retries import Limits
from vector_client.types import CollectionState, Id

NEXT = ".next"
CONTENT_PAGE_ITEMS, SCAN_PAGE_ITEMS = 5_000, 200
SCAN_PAGE_ROWS = 200
POLL_PAUSE_SHARE = 0.1
"""Of the time between two polls: where comparing is how changes are noticed, pauses make them late."""
PAUSES_S_MAX = 30.0
"""In one comparison where a log or triggers are followed: longest delay of a change that only a comparison
finds."""


def client_of(settings: Settings) -> VectorClient:
    """Return the client of the service, without a deadline of its own: attempts and repeats bound it."""
    bounds = settings.bounds
    limits = Limits(
        deadline_s=math.inf,
        attempt_s=bounds.timeout_s,
        retries=bounds.retries,
        connections_max=bounds.connections + 1,
    )
    return VectorClient.to(settings.service_url, settings.keys, limits)


class CollectionBuilder:
    """Builds whatever works on one collection. For one thread; what it returns is not open yet."""

    def __init__(self, settings: Settings, tables: CollectionTables, client: VectorClient) -> None:
        self._settings = settings
        self._bounds = settings.bounds
        self._tables = tables
        self._client = client
        # One for as long as the builder lives: a promoted model has cursors of its own.
        self._window = BrakeWindow(settings.bounds.brake_window_s, time.time)
        self._generation = WrittenGeneration(
            tables.label, tables.embedding_version or None, tables.other_versions
        )

    def importer(self, progress: Progress, *, is_forced: bool = False) -> Importer:
        """Return what imports the collection's vectors.

        is_forced: whatever the brake says. Raises SettingsWrong, ServiceDown.
        """
        tables, bounds = self._tables, self._bounds
        vectors = self._sources().vector_source()
        sources = self._sources(self._served().store)
        median_min = bounds.probe_text_min if tables.modality == "text" else bounds.probe_image_min
        template = tables.vectors.text_template if tables.vectors else tables.text_template
        rules = ProbeRules(median_min, bounds.noise_percent_max)
        service = self._service_side(is_forced=is_forced)
        deps = ImportDependencies(
            vectors=vectors,
            items=sources.item_source(),
            writer=service.writer,
            store=service.store,
            probe=SpaceProbe(
                self._client,
                tables.name,
                tables.modality,
                template,
                rules,
                embedding_version=self._generation.embedding_version,
            ),
            pictures=self._pictures(),
            progress=progress,
            lease=sources.lease(),
        )
        return Importer(tables, deps, bounds)

    def tier_log(self) -> TierLog:
        """Return what says how fresh the collection is kept."""
        bounds = self._bounds
        return TierLog(self._tables.label, bounds.log_poll_ms, bounds.trigger_poll_ms, bounds.poll_s)

    def follower(self, metrics: Metrics, pause: Pause, tiers: TierLog) -> tuple[Follower, Writer]:
        """Return what follows the collection, and the writer to start for it.

        pause: waits, or ends early when the feeder is to stop. Raises FeederError: a source or the service is
        down, or refuses.
        """
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        tables, bounds, state = self._tables, self._bounds, self._served()
        path = self._adopted_path(state)
        service = self._service_side()
        sources = self._sources(state.store)
        feeds = sources.feeds(pause)
        for side, feed in feeds.items():
            tiers.log_tier(side, feed.tier)
        reader = self._reader(path, self._throttle(feeds, pause))
        deps = FollowerDependencies(
            collection=tables.label,
            store=service.store,
            reader=reader,
            feeds=feeds,
            lease=sources.lease(is_followed=True),
            reconciler=self._reconciler(service, reader, pause, run_at_idle_priority),
            metrics=metrics,
            clock=time.time,
            ticks=time.monotonic,
            version_of=self._version_of(),
            follower=self._follower_name(),
            activity=self._activity(service, path),
            vanished=self._window.total,
            timed_checks=TimedChecks(
                state.store, lambda: sources.unread_rows(feeds), lambda: sources.better_tier(feeds)
            ),
        )
        is_logged = any(feed.tier == "log" for feed in feeds.values())
        poll_ms = bounds.log_poll_ms if is_logged else bounds.trigger_poll_ms
        pace = Pace(poll_s=poll_ms / 1000, compare_s=bounds.compare_s)
        return Follower(deps, pace, self._batch_items()), service.writer

    def comparison_job(self, mode: ComparisonMode) -> ComparisonJob:
        """Return what compares the collection once, while a follower may run. Raises SettingsWrong,
        ServiceDown."""
        state = self._served()
        reader = self._reader(self._path_for_once(state, mode), None)
        is_forced = mode == "force"
        service = self._service_side(is_forced=is_forced)
        return ComparisonJob(
            reader=reader,
            store=service.store,
            writer=service.writer,
            reconciler=self._reconciler(service, reader, time.sleep, run_inline),
            lease=self._sources(state.store).lease(),
            version_of=self._version_of(),
            clock=time.time,
        )

    def _served(self) -> CollectionState:
        """Return what the service holds of the collection's generation; of a collection that it lacks,
        nothing. Raises ImportRefused where it lacks the generation alone, and ServiceDown with the service's
        own reason where it can't serve it."""
        name = self._tables.name
        with service_errors():
            state = self._client.status().get(name, CollectionState(name, None, 0))
        if state.problem:
            raise ServiceDown(f"the service can't serve {name!r}: {state.problem}")
        return self._generation.state_in(state)

    def _version_of(self) -> Callable[[CollectionState], str]:
        if self._tables.vectors is None:
            return content_version
        return imported_version if self._tables.is_next else vector_version

    def _follower_name(self) -> str:
        """Tables that trade places between source.vectors and source.next are compared anew."""
        return follower_of(self._settings.state_dir) + ("-next" if self._tables.is_next else "")

    def _sources(self, store_id: str = "") -> SourceBuilder:
        return SourceBuilder(self._settings, self._tables, reader_of(self._tables, store_id))

    def _writer(self) -> Writer:
        bounds = self._bounds
        return Writer(
            self._client, self._tables.name, dim=self._tables.dim,
            batch_items=bounds.batch_items, connections=bounds.connections, generation=self._generation,
        )  # fmt: skip

    def _service_side(self, *, is_forced: bool = False) -> _ServiceSide:
        writer, window = self._writer(), self._window
        brake = Brake(self._bounds.brake_percent, is_forced=is_forced, vanished_before=window.total)
        store = BrakedStore(self._tables.label, writer, brake, window, batch_items=writer.batch_items)
        return _ServiceSide(writer, brake, store)

    def _throttle(self, feeds: Mapping[Side, ChangeFeed], pause: Pause) -> Throttle:
        is_polled = any(feed.tier == "poll" for feed in feeds.values())
        pauses_s_max = POLL_PAUSE_SHARE * self._bounds.poll_s if is_polled else PAUSES_S_MAX
        return Throttle(self._bounds.compare_percent / 100, time.monotonic, pause, pauses_s_max)

    def _reconciler(
        self, service: _ServiceSide, reader: SourceReader, pause: Pause, run_scan: Runner
    ) -> Reconciler:
        return Reconciler(
            self._tables.label, service.store, reader, service.brake,
            batch_items=self._batch_items(), clock=time.time, pause=pause, run_scan=run_scan,
        )  # fmt: skip

    def _activity(self, service: _ServiceSide, path: str) -> ActivityFollower | None:
        """Return what is followed while the vectors are not those of the served model; None where it is said
        which generation is theirs."""
        items = self._sources().item_source()
        if self._tables.vectors is None or items is None or self._generation.embedding_version:
            return None
        return ActivityFollower(
            self._tables.name, items, service.store, service.brake,
            batch_items=self._bounds.batch_items, forget=lambda: forget(path),
        )  # fmt: skip

    def _reader(self, path: str, throttle: Throttle | None) -> SourceReader:
        """Return what reads the sources. path: of the file that remembers what was seen of them. throttle:
        for a background scan: small pages one by one, over connections of its own, so that changes
        are followed meanwhile."""
        if self._tables.vectors is not None:
            return self._vector_reader(KeyMap(path), throttle)
        return self._content_reader(path, throttle)

    def _vector_reader(self, key_map: KeyMap, throttle: Throttle | None) -> VectorReader:
        sources, rows = self._sources(), self._bounds.page_rows
        scan_sources = None
        if throttle is not None:
            scan_sources = VectorScanSources(sources.vector_source(), sources.item_source())
        return VectorReader(
            sources.vector_source(),
            sources.item_source(),
            key_map,
            id_kind=self._tables.id_kind,
            page_rows=rows if throttle is None else min(rows, SCAN_PAGE_ROWS),
            pages_ahead=PAGES_AHEAD if throttle is None else 0,
            throttle=throttle,
            scan_sources=scan_sources,
        )

    def _content_reader(self, path: str, throttle: Throttle | None) -> ContentReader:
        tables, sources = self._tables, self._sources()
        items, database = sources.item_source(), self._settings.items_database(tables)
        if items is None or database is None or tables.items is None:
            raise SettingsWrong(f"{tables.name}: neither vectors nor items are configured")
        scan_sources, scanned = None, sources.item_source()
        if throttle is not None and scanned is not None:
            scan_sources = ContentScanSources(scanned, ContentCache(path, time.time), throttle)
        page_items = CONTENT_PAGE_ITEMS if throttle is None else SCAN_PAGE_ITEMS
        return ContentReader(
            items,
            ContentCache(path, time.time),
            self._pictures(),
            ContentRules(tables.modality, tables.text_template, page_items, self._bounds.image_fetches),
            identity=f"{database} {'.'.join(tables.items.table)} {tables.text_template}",
            scan_sources=scan_sources,
        )

    def _pictures(self) -> PictureFetcher:
        settings, bounds = self._settings, self._bounds
        limits = FetchLimits(
            sorted(settings.image_hosts), "FEEDER_IMAGE_HOSTS", bounds.image_bytes_max,
            bounds.image_timeout_s, settings.image_networks,
        )  # fmt: skip
        return PictureFetcher(PictureFetch(limits))

    def _batch_items(self) -> int:
        """Return how many items are read again and written together."""
        bounds = self._bounds
        if self._tables.vectors is not None:
            return bounds.batch_items
        content = bounds.picture_batch if self._tables.modality == "image" else bounds.text_batch
        return min(bounds.batch_items, content)

    def _adopted_path(self, state: CollectionState) -> str:
        """Return the file of this service's collection. Files of older releases did not bear the service's
        name: this one's is renamed, once no older feeder is at work."""
        path = state_path(self._settings, self._tables, state.store)
        former = Path(state_path(self._settings, self._tables, ""))
        last = state.cursors.get(FOLLOWER_CURSOR)
        if not state.store or Path(path).exists() or not former.exists() or last is None:
            return path
        stored = FollowerState.parsed(last)
        if stored != NOBODY and stored.follower != self._follower_name():
            return path
        lease = self._sources(state.store).lease(is_followed=True)
        try:
            lease.hold()
            rename(former, Path(path))
        finally:
            lease.release()
        return path

    def _path_for_once(self, state: CollectionState, mode: ComparisonMode) -> str:
        """A single comparison reads every vector, so it needs no memory; pictures are not fetched twice."""
        if self._tables.vectors is not None:
            return IN_MEMORY
        if mode == "verify":
            path = state_path(self._settings, self._tables, state.store)
            return path if Path(path).exists() else IN_MEMORY
        self._settings.state_dir.mkdir(parents=True, exist_ok=True)
        return self._adopted_path(state)


@dataclass(frozen=True, slots=True)
class _ServiceSide:
    """The way into the service. store: lets no more vanish than the brake allows; `writer` sends."""

    writer: Writer
    brake: Brake
    store: BrakedStore


def tables_of(settings: Settings, name: str, client: VectorClient) -> CollectionTables:
    """Return the tables that a name stands for. NAME.next of a collection whose vectors the service makes is
    its content for the next generation alone: what that one lacks because it was not kept. Raises
    ImportRefused where there is no such generation."""
    if name in settings.collections:
        return settings.collections[name]
    tables = settings.collections[name.removesuffix(NEXT)]
    with service_errors():
        state = client.status().get(tables.name, CollectionState(tables.name, None, 0))
    following = [each.embedding_version for each in state.generations if each.role == "next"]
    if not following:
        raise ImportRefused(
            f"{tables.name} has no next generation", hint=f"Begin it: python -m service rebuild {tables.name}"
        )
    others = [each.embedding_version for each in state.generations if each.role != "next"]
    return replace(tables, embedding_version=following[0], other_versions=tuple(others), is_next=True)


def state_path(settings: Settings, tables: CollectionTables, store_id: str) -> str:
    """Return the file that remembers a collection of one service. store_id: empty for that of releases that
    knew one service only."""
    suffix = "" if tables.vectors else ".content"
    reader = reader_of(tables, store_id)
    mark = f".{reader[:STORE_ID_CHARACTERS]}" if reader else ""
    return str(settings.state_dir / f"{tables.name}{suffix}{mark}.sqlite")


def names_of_next(settings: Settings) -> set[str]:
    """Return the names that `tables_of` knows beside those of the collections."""
    return {
        f"{name}{NEXT}"
        for name, tables in settings.collections.items()
        if tables.vectors is None and not tables.is_next
    }


def quarantined_of(settings: Settings, name: str, store_id: str) -> Mapping[Id, str]:
    """Return what this state directory remembers as quarantined of a content collection, and why."""
    tables = settings.collections.get(name)
    if tables is None or tables.vectors is not None:
        return {}
    paths = (state_path(settings, tables, store_id), state_path(settings, tables, ""))
    path = next((each for each in paths if Path(each).exists()), None)
    if path is None:
        return {}
    cache = ContentCache(path, time.time)
    cache.open()
    try:
        return cache.failures()
    finally:
        cache.close()
