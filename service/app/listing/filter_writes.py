"""Writes to all items that pass a filter: page by page, each page one durable commit, braked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

from index_store.errors import IndexStoreError
from index_store.listings import ItemsRequest
from index_store.port import VectorIndex
from index_store.types import Ack, Filter, Id, Ids, ItemDelete, Metadata
from service.app.ingest import Intake, NewItem
from service.app.listing.item_counts import ItemCounts
from service.app.listing.scan_queue import ScanQueue
from service.errors import BrakeOn, DeadlineExceeded, Overloaded, Reject, StoppedHalfway, TryLater

log = logging.getLogger(__name__)

Action: TypeAlias = Literal["delete", "activate", "deactivate", "metadata"]


class PageWriter(Protocol):
    """Who commits a page: `Ingester`."""

    async def ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        """Return once the page is on disk. Raises Refused, TryLater, IndexStoreError."""


UNBRAKED_ITEMS = 10
"""So many items may always be changed."""
_SAMPLE_IDS = 20
_REJECTS_TOLD = 20
_RUNNING_MAX = 4


@dataclass(frozen=True, slots=True)
class FilterWrite:
    """What becomes of the items that pass. condition: None for every item. metadata, merge: one of them,
    where the action is metadata. confirm: so many items may match, whatever the brake says."""

    collection: str
    action: Action
    condition: Filter | None
    metadata: Metadata | None = None
    merge: Metadata | None = None
    source_version: int | None = None
    confirm: int | None = None

    def request(self) -> ItemsRequest:
        """Return which items it concerns: those in the wanted state already are left out."""
        is_active = {"activate": False, "deactivate": True}.get(self.action)
        return ItemsRequest(filter=self.condition, is_active=is_active)

    def page(self, ids: Ids) -> Intake:
        """Return one commit. An item that does not pass any more by then is left as it is."""
        return replace(self.intake(ids), only_where=self.condition or {})

    def intake(self, ids: Ids) -> Intake:
        """Return the change of these items, whether they pass or not."""
        version = self.source_version
        if self.action == "delete":
            return Intake(self.collection, deletes=[ItemDelete(each, version) for each in ids])
        active = {"activate": True, "deactivate": False}.get(self.action)
        items = [
            NewItem(place, each, None, None, None, None, active, self.metadata, version, self.merge)
            for place, each in enumerate(ids)
        ]
        return Intake(self.collection, items=items)


@dataclass(frozen=True, slots=True)
class FilterSurvey:
    """What a write by filter would change. held: all items of the collection. allowed: how many it may
    change without being confirmed. sample_ids: the first. seq: before the look."""

    matched: int
    held: int
    allowed: int
    sample_ids: Ids
    seq: int
    embedding_version: str


@dataclass(slots=True)
class FilterWriteResult:
    """What it changed so far: sums over its commits, the newest seq and embedding_version."""

    done: int = 0
    stale_ignored: int = 0
    passed_over: int = 0
    vanished: int = 0
    reappeared: int = 0
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)
    seq: int = 0
    embedding_version: str = ""

    def note_commit(self, ack: Ack, rejects: Sequence[Reject]) -> None:
        """Add one page."""
        self.done += ack.upserted + ack.deleted
        self.stale_ignored += ack.stale_ignored
        self.passed_over += ack.passed_over
        self.vanished += ack.vanished
        self.reappeared += ack.reappeared
        self.rejected += len(rejects)
        self.rejects += rejects[: _REJECTS_TOLD - len(self.rejects)]
        self.seq, self.embedding_version = ack.seq, ack.embedding_version


def _admit_any(_: FilterSurvey) -> None:
    pass


class FilterWrites:
    """Event loop only. Items that come to pass while a write runs may be changed or not; those that pass all
    the while are, and those that do not when their turn comes are not."""

    def __init__(
        self,
        counts: ItemCounts,
        scans: ScanQueue,
        writer: PageWriter,
        index: VectorIndex,
        *,
        brake_percent: int,
        page_items: int,
        deadline_ms: int,
        clock: Callable[[], float],
    ) -> None:
        """brake_percent: of a collection's items, that may be changed unconfirmed. page_items: of one commit.
        deadline_ms: after this a write stops between two pages."""
        self._counts = counts
        self._scans = scans
        self._writer = writer
        self._index = index
        self._brake_percent = brake_percent
        self._page_items = page_items
        self._deadline_s = deadline_ms / 1000
        self._clock = clock
        self._running = 0

    async def survey(self, write: FilterWrite, caller: str) -> FilterSurvey:
        """Return what `write` would change now. Raises InvalidFilter, Overloaded, Unavailable."""
        status = await self._scans.run(lambda: self._index.status(write.collection), 1.0, caller)
        current = status.current
        held = current.items if current else 0
        matched, sample = 0, list[Id]()
        async for ids in self._counts.matching_ids(write.collection, write.request(), caller):
            matched += len(ids)
            sample += ids[: _SAMPLE_IDS - len(sample)]
        at = (current.seq, current.embedding_version) if current else (0, "")
        return FilterSurvey(matched, held, self._allowed(held), sample, *at)

    def _allowed(self, held: int) -> int:
        return max(UNBRAKED_ITEMS, held * self._brake_percent // 100)

    async def apply(
        self, write: FilterWrite, caller: str, admit: Callable[[FilterSurvey], None] = _admit_any
    ) -> tuple[FilterSurvey, FilterWriteResult]:
        """Change the items. admit: asked once the brake is passed and before anything was changed; raises
        where the caller may not write so many. Raises BrakeOn before anything was changed, StoppedHalfway
        when it stopped in the middle, else as `survey`, `admit` and `Ingester.ingest`."""
        if self._running >= _RUNNING_MAX:
            raise Overloaded("Too many writes by filter are running.", reason="scan")
        self._running += 1
        try:
            return await self._apply(write, caller, admit)
        finally:
            self._running -= 1

    async def _apply(
        self, write: FilterWrite, caller: str, admit: Callable[[FilterSurvey], None]
    ) -> tuple[FilterSurvey, FilterWriteResult]:
        ends_at = self._clock() + self._deadline_s
        survey = await self.survey(write, caller)
        outcome = FilterWriteResult(seq=survey.seq, embedding_version=survey.embedding_version)
        limit = max(survey.allowed, write.confirm or 0)
        if survey.matched > limit:
            raise _too_many(survey.matched, survey)
        admit(survey)
        page, taken = list[Id](), 0
        try:
            async for ids in self._counts.matching_ids(
                write.collection, write.request(), caller, is_admitted=True
            ):
                taken += len(ids)
                if taken > limit:
                    raise _too_many(taken, survey)
                page += ids
                while len(page) >= self._page_items:
                    await self._commit(write, page[: self._page_items], outcome)
                    page = page[self._page_items :]
                if self._clock() > ends_at:
                    raise DeadlineExceeded("The write by filter took longer than its deadline.")
            if page:
                await self._commit(write, page, outcome)
        except (BrakeOn, TryLater, IndexStoreError) as exc:
            if not outcome.done:
                raise
            raise StoppedHalfway(exc, done=outcome.done, matched=survey.matched) from exc
        finally:
            facts = {"collection": write.collection, "action": write.action, "matched": survey.matched}
            log.info("filter_write", extra={**facts, "done": outcome.done, "caller": caller})
        return survey, outcome

    async def _commit(self, write: FilterWrite, ids: Ids, outcome: FilterWriteResult) -> None:
        outcome.note_commit(*await self._writer.ingest(write.page(ids), partial=True))


def _too_many(matched: int, survey: FilterSurvey) -> BrakeOn:
    return BrakeOn(
        f"{matched} of {survey.held} items match, more than the {survey.allowed} that a write by filter may "
        f"change: look at dry_run, and repeat with confirm {matched} if that is meant."
    )
