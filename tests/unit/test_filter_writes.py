"""A write by filter beside others: what comes to match while it runs meets the brake as well."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.engine.reading.item_reader import ItemReader
from index_store.listings import IdsResult, ItemsRequest
from index_store.types import Ack, ItemWrite, WriteBatch
from service.app.ingest import Intake
from service.app.listing.filter_writes import FilterWrite, FilterWrites
from service.app.listing.item_counts import ItemCounts
from service.app.listing.scan_queue import ScanQueue
from service.errors import BrakeOn, DeadlineExceeded, Reject, StoppedHalfway
from tests.sealing import opened, vectors


class DirectWriter:
    """Commits pages without a service around."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index

    async def ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        assert partial
        items = [ItemWrite(each.id, active=each.active, merge=each.merge) for each in intake.items]
        batch = WriteBatch(items, intake.deletes, only_where=intake.only_where)
        return self._index.write(intake.collection, batch), ()


class GrowingItems(ItemReader):
    """Finds more items in each scan of the ids, as if others had been written meanwhile."""

    def list_ids(self, collection: str, request: ItemsRequest) -> IdsResult:
        found = super().list_ids(collection, request)
        (last,) = found.ids[-1:] or (0,)
        more = [ItemWrite(int(last) + n, vectors(1)[0], metadata={"kind": 1}) for n in range(1, 11)]
        return found if self.is_still else self._grown(collection, request, more)

    is_still = True
    index: EmbeddedIndex

    def _grown(self, collection: str, request: ItemsRequest, more: list[ItemWrite]) -> IdsResult:
        self.index.write(collection, WriteBatch(more, (), "v1"))
        return super().list_ids(collection, request)


def of(tmp_path: Path, rows: int) -> tuple[EmbeddedIndex, GrowingItems]:
    index = opened(tmp_path)
    index.advance("numbers", "begin", "v1")
    items = [ItemWrite(n, vector, metadata={"kind": 1}) for n, vector in enumerate(vectors(rows), 1)]
    index.write("numbers", WriteBatch(items, (), "v1"))
    growing = GrowingItems(index._collections)
    growing.index = index
    return index, growing


def writes_over(
    index: EmbeddedIndex, items: ItemReader, readers: ThreadPoolExecutor, seconds: float
) -> FilterWrites:
    """seconds: that pass with each look at the clock; the deadline is 10 s."""
    ticks = itertools.count()
    clock = lambda: next(ticks) * seconds  # noqa: E731
    scans = ScanQueue(readers, queue_ms_max=400, clock=clock)
    counts = ItemCounts(items, scans, deadline_ms=10_000, clock=clock)
    writer = DirectWriter(index)
    return FilterWrites(
        counts, scans, writer, index, brake_percent=5, page_items=4, deadline_ms=10_000, clock=clock
    )


def test_more_than_was_confirmed_is_not_changed_while_it_runs(tmp_path: Path) -> None:
    index, items = of(tmp_path, 20)
    write = FilterWrite("numbers", "delete", {"kind": 1}, confirm=20)
    with ThreadPoolExecutor(2) as readers:
        writes = writes_over(index, items, readers, 0.0)

        async def grown_after_the_survey() -> None:
            survey = await writes.survey(write, "a")
            assert survey.matched == 20
            items.is_still = False
            with pytest.raises(BrakeOn):
                await writes.apply(write, "a")

        asyncio.run(grown_after_the_survey())
    assert index.item_source().count_items("numbers", None).live >= 20
    index.close()


def test_it_stops_at_its_deadline_and_tells_how_far_it_came(tmp_path: Path) -> None:
    index, items = of(tmp_path, 20)
    with ThreadPoolExecutor(2) as readers:
        writes = writes_over(index, items, readers, 3.0)
        write = FilterWrite("numbers", "deactivate", {"kind": 1}, confirm=20)
        with pytest.raises(StoppedHalfway) as stopped:
            asyncio.run(writes.apply(write, "a"))
    assert isinstance(stopped.value.cause, DeadlineExceeded)
    done = stopped.value.done
    assert stopped.value.matched == 20 and 0 < done <= 20 and done % 4 == 0
    assert index.item_source().count_items("numbers", None).live == 20 - done
    index.close()


class FewRows(ItemReader):
    """Looks at four rows a turn."""

    def list_ids(self, collection: str, request: ItemsRequest) -> IdsResult:
        return super().list_ids(collection, replace(request, rows_max=4))


@pytest.mark.parametrize(("deadline_ms", "is_late"), [(5_000, True), (60_000, False)])
def test_a_count_of_hidden_items_has_a_deadline(tmp_path: Path, deadline_ms: int, is_late: bool) -> None:
    index, _ = of(tmp_path, 20)
    index.write("numbers", WriteBatch([ItemWrite(n, active=False) for n in (1, 5, 20)], (), "v1"))
    ticks = itertools.count()
    clock = lambda: float(next(ticks))  # noqa: E731
    with ThreadPoolExecutor(2) as readers:
        scans = ScanQueue(readers, queue_ms_max=400, clock=clock)
        counts = ItemCounts(FewRows(index._collections), scans, deadline_ms=deadline_ms, clock=clock)
        if is_late:
            with pytest.raises(DeadlineExceeded):
                asyncio.run(counts.count_hidden("numbers", None, "a"))
        else:
            assert asyncio.run(counts.count_hidden("numbers", None, "a")) == 3
    index.close()
