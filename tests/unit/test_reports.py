"""Who asks for a report waits a while at most, and gets one of the roles that generations have by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.types import Content
from service.app.report.replay import SearchChange, SkippedQuery
from service.app.report.reports import Reports
from service.app.report.store import ReportStore
from service.collections import Collection
from service.errors import PendingReport, UnknownGeneration
from tests.unit.test_index_store_filling import SPEC, fill, made, store

COLLECTION = Collection("things", dim=4, metric="l2")


class NoModels:
    """No model makes these vectors here."""

    def slot_of_version(self, collection: str, embedding_version: str) -> None:
        del collection, embedding_version

    def problem(self, collection: str, embedding_version: str) -> str:
        del collection, embedding_version
        return ""


class HeldReplayer:
    """Puts no query to anything until it is let go."""

    def __init__(self) -> None:
        self.is_free = asyncio.Event()
        self.queries = 0

    async def replay(self, query: Any, *_: object) -> SkippedQuery:
        self.queries += 1
        await self.is_free.wait()
        return SkippedQuery(query, "no_model_here")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    index.advance("things", "begin", "v1")
    store(index, made(1, "one"), made(2, "two"), made(3, "three"))
    index.advance("things", "begin", "v2")
    fill(index)
    yield index
    index.close()


def run(
    index: EmbeddedIndex,
    directory: Path,
    test: Callable[[Reports, HeldReplayer], Awaitable[None]],
    **more: Any,
) -> None:
    async def begun() -> None:
        with ThreadPoolExecutor(2) as readers:
            replayer, models = HeldReplayer(), NoModels()
            parts: list[Any] = [index.replay_source(), models, replayer, ReportStore(directory / "reports")]
            now = partial(datetime.now, UTC)
            reports = Reports(index, *parts, lambda _: [], readers, now, queries_max=10, **more)
            await test(reports, replayer)

    asyncio.run(begun())


def test_who_waits_too_long_is_told_how_far_it_is_and_it_goes_on(
    index: EmbeddedIndex, tmp_path: Path
) -> None:
    async def test(reports: Reports, replayer: HeldReplayer) -> None:
        for _ in range(3):
            with pytest.raises(PendingReport, match=r"\d+ of \d+ queries") as caught:
                await reports.find_or_make(COLLECTION, "next")
            assert caught.value.hint == "python -m service report things" and caught.value.retry_after_s >= 1
        with pytest.raises(PendingReport):
            await reports.gates_of_promotion(COLLECTION, index.status("things"), is_made=True)
        replayer.is_free.set()
        while True:
            try:
                found = await reports.find_or_make(COLLECTION, "next")
                break
            except PendingReport:
                continue
        assert found.report.after.embedding_version == "v2"
        asked = replayer.queries
        await reports.find_or_make(COLLECTION, "next")
        assert replayer.queries == asked == sum(found.report.skipped.values()), "it was made once"

    run(index, tmp_path, test, wait_s=0.05)


def test_a_report_is_of_the_roles_at_its_beginning_not_at_the_call(
    index: EmbeddedIndex, tmp_path: Path
) -> None:
    async def test(reports: Reports, replayer: HeldReplayer) -> None:
        other = asyncio.create_task(reports.rehearse(COLLECTION, SearchChange(), []))
        while not replayer.queries:
            await asyncio.sleep(0)
        asked = asyncio.create_task(reports.find_or_make(COLLECTION, "g000002"))
        job = asyncio.create_task(reports.make_for_job(COLLECTION, "v2", _nothing))
        await asyncio.sleep(0.05)  # they wait for the rehearsal by now; if not, they are refused as well
        index.advance("things", "promote", "v2")
        replayer.is_free.set()
        for each in (asked, job):
            with pytest.raises(UnknownGeneration, match="current"):
                await each
        await other

    run(index, tmp_path, test)


async def _nothing(_done: int, _total: int) -> None:
    pass


def test_few_bytes_of_kept_pictures_are_in_memory_at_once(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path, [SPEC])
    index.open()
    index.advance("things", "begin", "v1")
    store(index, *[made(number, f"{number:04} {'x' * 996}") for number in range(50)])
    source = index.replay_source()
    drawn = source.draw_contents("things", "seed", 40, 10_500)
    assert len(drawn) == 10 and all(isinstance(each, Content) for _, each in drawn)
    assert drawn == source.draw_contents("things", "seed", 40, 10_500)
    assert [item for item, _ in drawn] != list(range(10)), "not the first ones by id"
    assert len(source.draw_contents("things", "seed", 40, 100)) == 1
    assert len(source.draw_contents("things", "seed", 40, 1 << 20)) == 40
    index.close()
