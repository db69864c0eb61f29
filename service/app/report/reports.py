"""Making reports, keeping them, and what they say of a promotion."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from index_store.errors import GenerationConflict
from index_store.port import ReplaySource, VectorIndex
from index_store.types import CollectionStatus, GenerationStatus, Id, Metadata, SearchResult
from service.app.generations.models import GenerationModels
from service.app.generations.origin import read_origin
from service.app.generations.unopened import require_all_open
from service.app.report import compare
from service.app.report.gates import GateResult, gate_results
from service.app.report.queries import ReplayQuery, recorded_queries, sampled_queries
from service.app.report.replay import ReplayedQuery, Replayer, ReplaySide, SearchChange, SkippedQuery
from service.app.report.result import (
    FORMAT_VERSION,
    ComparedGeneration,
    Report,
    ReportTiming,
)
from service.app.report.store import ReportStore
from service.app.search import ParsedSearch
from service.collections import Collection
from service.errors import Overloaded, PendingReport, Starting, UnknownGeneration

log = logging.getLogger(__name__)

T = TypeVar("T")

OnQuery = Callable[[int, int], Awaitable[None]]
"""Awaited after each query, with how many are done and how many there are; what it raises ends the report."""

_TITLE_KEYS = ("title", "name", "product_name", "recipe_name")
_TITLE_CHARS_MAX = 120
_GROWTH_MAX = 0.1
_WAIT_S = 25.0
"""What stands between a caller and the service cuts a silent connection off after 30 or 60 s."""
_CALLERS_QUERIES_MIN = 20
"""Fewer recorded queries do not stand for callers: items' own content counts beside them."""


@dataclass(frozen=True, slots=True)
class FoundReport:
    """A report, what its gates say under the limits of now, and whether anything was written since."""

    report: Report
    gates: Sequence[GateResult]
    is_stale: bool


@dataclass(slots=True)
class _ReportProgress:
    """Of one that several callers may wait for."""

    task: asyncio.Task[FoundReport] | None = None
    done: int = 0
    total: int = 0

    async def note_query(self, done: int, total: int) -> None:
        self.done, self.total = done, total


class Reports:
    """Event loop only; reads of index and disk run on threads. A worker makes one report at a time."""

    def __init__(
        self,
        index: VectorIndex,
        source: ReplaySource,
        models: GenerationModels,
        replayer: Replayer,
        store: ReportStore,
        recorded_lines: Callable[[str], Sequence[str]],
        readers: Executor,
        now: Callable[[], datetime],
        *,
        queries_max: int,
        wait_s: float = _WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """recorded_lines: what the query log keeps of a collection; a report takes `queries_max` of it, and
        draws no more items of each kind. now: wall clock. wait_s: of who asks for one that is
        still to be made. clock: seconds that only go forward."""
        self._wait_s = wait_s
        self._under_way: dict[tuple[str, str], _ReportProgress] = {}
        self._recorded_lines = recorded_lines
        self._queries_max = queries_max
        self._index = index
        self._source = source
        self._models = models
        self._replayer = replayer
        self._store = store
        self._readers = readers
        self._now = now
        self._clock = clock
        self._busy = asyncio.Lock()

    async def search_generation(
        self, collection: Collection, name: str, search: ParsedSearch
    ) -> SearchResult:
        """Answer one search from the generation `name` (its name, version or role), serving or not. Raises as
        `Replayer.search_side`, and UnknownGeneration."""
        status = await self._status(collection)
        return await self._replayer.search_side(search, self._side(collection, _named(status, name)))

    async def find_or_make(self, collection: Collection, name: str) -> FoundReport:
        """Return the stored report of the generation `name` (its name, version or role), or make one. Raises
        UnknownGeneration, TryLater (PendingReport after a while: it is made on), IndexStoreError."""
        status = await self._status(collection)
        after = _named(status, name)
        found = await self._found(collection, status, after)
        if found is not None:
            return found
        _require_comparable(status, after)
        key = (collection.name, after.generation)
        progress = self._under_way.get(key)
        if progress is None or progress.task is None:
            progress = self._under_way[key] = _ReportProgress()
            making = self._make_once(collection, after.generation, progress)
            progress.task = asyncio.create_task(making, name="report")
            progress.task.add_done_callback(partial(self._note_over, key))
        done, _ = await asyncio.wait({progress.task}, timeout=self._wait_s)
        if not done:
            raise PendingReport(collection.name, progress.done, progress.total)
        return progress.task.result()

    async def _make_once(
        self, collection: Collection, generation: str, progress: _ReportProgress
    ) -> FoundReport:
        """Make the report for all who ask for it meanwhile. Roles may change while it waits for its turn."""
        async with self._busy:
            status = await self._status(collection)
            after = _named(status, generation)
            found = await self._found(collection, status, after)
            if found is not None:
                return found
            _require_comparable(status, after)
            return await self._made(collection, status, after, (), progress.note_query)

    def _note_over(self, key: tuple[str, str], task: asyncio.Task[FoundReport]) -> None:
        del self._under_way[key]
        error = None if task.cancelled() else task.exception()
        if error is not None:  # nobody may be waiting for it any more
            log.warning("report_not_made", extra={"collection": key[0], "reason": str(error)})

    async def make_fresh(
        self, collection: Collection, name: str, queries: Sequence[ReplayQuery]
    ) -> FoundReport:
        """Make a report in place of the stored one. queries: none takes those that are at hand. Raises as
        `find_or_make`, and Overloaded while another is being made."""
        status = await self._status(collection)
        after = _named(status, name)
        _require_comparable(status, after)
        if self._busy.locked():
            raise Overloaded("Another report is being made.", retry_after_s=10, reason="report")
        async with self._busy:
            return await self._made(collection, status, after, queries, None)

    async def make_for_job(self, collection: Collection, version: str, on_query: OnQuery) -> Report:
        """Make the report that a rebuild ends with. Raises as `find_or_make`, and what `on_query` raises."""
        async with self._busy:
            status = await self._status(collection)
            after = _named(status, version)
            _require_comparable(status, after)
            return (await self._made(collection, status, after, (), on_query)).report

    async def rehearse(
        self, collection: Collection, change: SearchChange, queries: Sequence[ReplayQuery]
    ) -> FoundReport:
        """Compare the current generation with itself under `change`. Nothing is stored, and no promotion goes
        by it. Raises as `make_fresh`; GenerationConflict for an empty collection."""
        status = await self._status(collection)
        current = status.current
        if current is None:
            raise GenerationConflict(f"the collection {collection.name!r} is empty")
        if self._busy.locked():
            raise Overloaded("Another report is being made.", retry_after_s=10, reason="report")
        async with self._busy:
            side = self._side(collection, current)
            sides = (side, replace(side, change=change))
            report = await self._compare(collection, (current, current), sides, queries, None)
        return FoundReport(report, gate_results(report, collection.gates), is_stale=False)

    async def gates_of_promotion(
        self, collection: Collection, status: CollectionStatus, *, is_made: bool
    ) -> Sequence[GateResult]:
        """Return what the gates say of making the next generation current. is_made: make the report if there
        is none of these two generations; else nothing is returned then. Raises as `find_or_make`."""
        if is_made:
            return (await self.find_or_make(collection, "next")).gates
        found = await self._found(collection, status, _named(status, "next"))
        return found.gates if found else ()

    async def _found(
        self, collection: Collection, status: CollectionStatus, after: GenerationStatus
    ) -> FoundReport | None:
        find = partial(self._store.find_report, collection.name, after.generation)
        report = await self._run(find)
        if report is None or (after.role == "next" and not _is_of(report, status, after)):
            return None
        return self._current_gates(collection, report, status)

    async def _made(
        self,
        collection: Collection,
        status: CollectionStatus,
        after: GenerationStatus,
        given: Sequence[ReplayQuery],
        on_query: OnQuery | None,
    ) -> FoundReport:
        before = status.current
        assert before is not None
        sides = (self._side(collection, before), self._side(collection, after))
        report = await self._compare(collection, (before, after), sides, given, on_query)
        names = [each.generation for each in status.generations]
        try:
            await self._run(partial(self._store.save_report, report, names))
        except OSError as exc:  # a full disk: it is told all the same, and made again when asked for
            log.warning("report_not_stored", extra={"collection": collection.name, "error": str(exc)})
        log.info(
            "report_made",
            extra={
                "collection": collection.name,
                "generation": after.generation,
                "took_s": report.timing.took_s,
            },
        )
        return self._current_gates(collection, report, status)

    async def _compare(
        self,
        collection: Collection,
        generations: tuple[GenerationStatus, GenerationStatus],
        sides: tuple[ReplaySide, ReplaySide],
        given: Sequence[ReplayQuery],
        on_query: OnQuery | None,
    ) -> Report:
        began_at = self._clock()
        seed = "/".join((collection.name, *(each.generation for each in generations)))
        replayed: list[ReplayedQuery] = []
        skipped: Counter[str] = Counter()
        queries = await self._queries(collection, seed, given)
        for number, query in enumerate(queries, start=1):
            outcome = await self._replayer.replay(query, *sides)
            if isinstance(outcome, SkippedQuery):
                skipped[outcome.reason] += 1
            else:
                replayed.append(outcome)
            if on_query is not None:
                await on_query(number, len(queries))
        titles = await self._titles(collection, compare.changed_most(compare.compared(replayed)))
        timing = _timing(replayed, self._now(), self._clock() - began_at)
        compared = [_compared_generation(each) for each in generations]
        reasons = dict(sorted(skipped.items()))
        build = partial(_report, collection, compared, seed, replayed, reasons, titles, timing)
        return replace(await self._run(build), rehearsed=sides[1].change.changes())

    async def _queries(
        self, collection: Collection, seed: str, given: Sequence[ReplayQuery]
    ) -> list[ReplayQuery]:
        """Those that were given, else recorded ones; and items' own content, which counts for agreement only
        where there are few others."""
        callers = given or await self._run(partial(self._recorded, collection, seed))
        are_compared = not given and len(callers) < _CALLERS_QUERIES_MIN
        sample = partial(
            sampled_queries, self._source, collection, seed, self._queries_max, are_compared=are_compared
        )
        return [*callers, *await self._run(sample)]

    def _recorded(self, collection: Collection, seed: str) -> list[ReplayQuery]:
        lines = self._recorded_lines(collection.name)
        return recorded_queries(collection, lines, seed, self._queries_max)

    def _side(self, collection: Collection, generation: GenerationStatus) -> ReplaySide:
        """Raises Starting while the generation's model is still being loaded."""
        version = generation.embedding_version
        slot = self._models.slot_of_version(collection.name, version)
        waits = read_origin(generation.origin) is not None and not self._models.problem(
            collection.name, version
        )
        if slot is None and waits:
            raise Starting(f"The model of the {generation.role} generation is still loading.")
        return ReplaySide(version, slot)

    async def _titles(
        self, collection: Collection, changed: Sequence[compare.ComparedQuery]
    ) -> dict[Id, str]:
        ids = sorted({item_id for each in changed for item_id in compare.first_ids(each)}, key=str)
        items = await self._run(partial(self._index.get, collection.name, ids))
        return {item.id: title_of(item.metadata) for item in items if item is not None}

    def _current_gates(self, collection: Collection, report: Report, status: CollectionStatus) -> FoundReport:
        seqs = {each.generation: each.seq for each in status.generations}
        compared = (report.before, report.after)
        is_stale = any(seqs.get(each.generation) != each.seq for each in compared)
        return FoundReport(report, gate_results(report, collection.gates), is_stale)

    async def _status(self, collection: Collection) -> CollectionStatus:
        return require_all_open(await self._run(partial(self._index.status, collection.name)))

    def _run(self, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._readers, call)


def _named(status: CollectionStatus, name: str) -> GenerationStatus:
    for each in status.generations:
        if name in (each.generation, each.role, each.embedding_version):
            return each
    raise UnknownGeneration(f"The collection {status.spec.name!r} has no generation {name[:64]!r}.")


def _require_comparable(status: CollectionStatus, after: GenerationStatus) -> None:
    if status.current is None or after.generation == status.current.generation:
        raise UnknownGeneration(
            f"There is no report of the generation {after.generation!r}: it is the current one by now."
        )


def _is_of(report: Report, status: CollectionStatus, after: GenerationStatus) -> bool:
    """Whether the report compares with the generation that is current now, and saw about as many items of the
    next one: what was made while that was being filled says nothing of it."""
    if status.current is None or report.before.generation != status.current.generation:
        return False
    return abs(after.live - report.after.live) <= _GROWTH_MAX * after.live


def _compared_generation(status: GenerationStatus) -> ComparedGeneration:
    return ComparedGeneration(status.generation, status.embedding_version, status.seq, status.live)


def _report(
    collection: Collection,
    generations: Sequence[ComparedGeneration],
    seed: str,
    replayed: Sequence[ReplayedQuery],
    skipped: dict[str, int],
    titles: dict[Id, str],
    timing: ReportTiming,
) -> Report:
    before, after = generations
    queries = compare.compared(replayed)
    return Report(
        format_version=FORMAT_VERSION,
        collection=collection.name,
        before=before,
        after=after,
        sources=dict(sorted(Counter(each.replayed.query.origin for each in queries).items())),
        seed=seed,
        skipped=skipped,
        overall=compare.agreement(queries),
        by_kind=compare.agreement_by(queries, lambda each: each.replayed.query.kind),
        by_language=compare.agreement_by(queries, lambda each: each.replayed.query.language),
        known_items=compare.known_items(replayed),
        judged=compare.judged(replayed),
        distances=compare.distance_shift(queries),
        shown_ids=compare.shown_ids(queries),
        overlap_histogram=compare.overlap_histogram(queries),
        rank_moves=compare.rank_moves(queries),
        zero_new=compare.newly_empty(queries),
        changed=[compare.side_by_side(each, titles) for each in compare.changed_most(queries)],
        timing=timing,
    )


def _timing(replayed: Sequence[ReplayedQuery], made_at: datetime, took_s: float) -> ReportTiming:
    return ReportTiming(
        made_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        round(took_s, 3),
        compare.percentiles((each.before.seconds * 1e3 for each in replayed), 3),
        compare.percentiles((each.after.seconds * 1e3 for each in replayed), 3),
        compare.slowest(replayed),
    )


def title_of(metadata: Metadata | None) -> str:
    """Return what an item calls itself; empty where it has no title."""
    found = (metadata or {}).get
    texts = [text for key in _TITLE_KEYS if isinstance(text := found(key), str)]
    return texts[0][:_TITLE_CHARS_MAX] if texts else ""
