"""Recorded queries: what is kept of a search, and what bounds it on disk."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.types import PageKey, SearchRequest
from service.app.query_log.files import QueryLog
from service.app.query_log.recorder import QueryRecorder
from service.app.report.queries import recorded_queries
from service.app.search import ParsedSearch
from service.collections import Collection
from tests.waiting import PATIENCE_S

RECIPES = Collection("recipes")
VECTOR = np.ones(4, np.float32)


class Days:
    """A wall clock that is put forward by hand."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment


def log_in(directory: Path, now: Days, **bounds: int) -> QueryLog:
    return QueryLog(directory, now, **{"rows_max": 100, "bytes_max": 1 << 20, "days": 7, **bounds})


def search(content: str | bytes | None = "갈비탕", **request: Any) -> ParsedSearch:
    return ParsedSearch(RECIPES, SearchRequest(VECTOR, 25, **request), content=content)


def recorded(tmp_path: Path, *searches: ParsedSearch, percent: int = 100, chance: float = 0.5) -> list[Any]:
    log = log_in(tmp_path, Days())
    recorder = QueryRecorder(log, ThreadPoolExecutor(1), lambda: chance, percent=percent)
    for each in searches:
        recorder.record_query(each)
    log.append(recorder.taken())
    return [json.loads(line) for line in log.recorded_lines("recipes")]


def test_a_query_is_kept_with_what_makes_its_answer(tmp_path: Path) -> None:
    alike = ParsedSearch(RECIPES, SearchRequest(VECTOR, 5), like_ids=[3], unlike_ids=[4])
    filtered = search(
        exclude_ids=np.array([5, 7], np.int64),
        filter={"category": "국"},
        max_distance=1.5,
        embedding_version="v1",
    )
    kept = recorded(tmp_path, filtered, alike, search())
    assert kept == [
        {"exclude_ids": [5, 7], "filter": {"category": "국"}, "max_distance": 1.5, "query": "갈비탕"},
        {"like_ids": [3], "unlike_ids": [4]},
        {"query": "갈비탕"},
    ]


@pytest.mark.parametrize(
    "left_out",
    [
        search(b"a picture"),
        search(None),
        search(offset=25),
        search(after=PageKey("g000001", 1, 0.5, 3)),
        search(exclude_ids=list(range(1001))),
    ],
)
def test_what_is_no_text_no_first_page_or_too_large_is_left_out(
    tmp_path: Path, left_out: ParsedSearch
) -> None:
    assert recorded(tmp_path, left_out) == []


def test_only_the_wanted_share_is_kept_and_only_so_many_wait(tmp_path: Path) -> None:
    assert recorded(tmp_path, search(), percent=50, chance=0.5) == []
    assert recorded(tmp_path, search(), percent=50, chance=0.49) == [{"query": "갈비탕"}]
    recorder = QueryRecorder(log_in(tmp_path, Days()), ThreadPoolExecutor(1), lambda: 0.0, percent=1)
    for _ in range(1100):
        recorder.record_query(search())
    assert len(recorder.taken()) == 1000 and recorder.taken() == []


def queries(first: int, count: int, size: int = 1) -> list[tuple[str, dict[str, Any]]]:
    return [("recipes", {"query": f"{number}" + "국" * size}) for number in range(first, first + count)]


def test_rows_and_bytes_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    by_rows = log_in(tmp_path / "rows", Days())
    for first in range(0, 300, 5):
        by_rows.append(queries(first, 5))
    kept = by_rows.recorded_lines("recipes")
    assert 90 <= len(kept) <= 110 and any('"299' in line for line in kept)
    assert not any('"0국' in line for line in kept)
    by_bytes = log_in(tmp_path / "bytes", Days(), rows_max=100_000, bytes_max=20_000)
    for first in range(0, 300, 5):
        by_bytes.append(queries(first, 5, size=100))
    size = sum(path.stat().st_size for path in (tmp_path / "bytes" / "recipes").iterdir())
    assert 15_000 <= size <= 22_000


def test_after_its_days_a_query_is_gone_without_another_one(tmp_path: Path) -> None:
    now = Days()
    log = log_in(tmp_path, now, days=2)
    log.append(queries(0, 3))
    now.moment += timedelta(days=1)
    log.append([*queries(10, 1), ("others", {"query": "b"})])
    log.sweep()
    assert len(log.recorded_lines("recipes")) == 4
    now.moment += timedelta(days=1)
    log_in(tmp_path, now, days=2).sweep()
    assert [json.loads(line)["query"] for line in log.recorded_lines("recipes")] == ["10국"]
    now.moment += timedelta(days=1)
    log.sweep()
    assert log.recorded_lines("recipes") == [] == log.recorded_lines("others")


def test_a_query_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    assert recorded(tmp_path, search("a\u2028b\u0085c")) == [{"query": "a\u2028b\u0085c"}]


def test_a_disk_that_takes_nothing_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "queries").write_text("a file is in the way")
    log = log_in(tmp_path / "queries", Days())
    log.append(queries(0, 1))
    log.sweep()
    assert log.recorded_lines("recipes") == []


def test_the_same_lines_and_seed_give_the_same_queries(tmp_path: Path) -> None:
    log = log_in(tmp_path, Days())
    log.append(queries(0, 50))
    log.append(queries(0, 50))
    lines = [*log.recorded_lines("recipes"), "{no JSON", '{"query": 5}']
    drawn = recorded_queries(RECIPES, lines, "seed", 20)
    assert [each.label for each in drawn] == [
        each.label for each in recorded_queries(RECIPES, lines[::-1], "seed", 20)
    ]
    assert 18 <= len(drawn) <= 20 and {each.origin for each in drawn} == {"recorded"}
    other = recorded_queries(RECIPES, lines, "another seed", 20)
    assert {each.label for each in drawn} != {each.label for each in other}


class NeverRuns(Executor):
    """Its only thread is at something else until the end, and then what waits is cancelled."""

    def __init__(self) -> None:
        self.submitted: list[Future[Any]] = []

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        self.submitted.append(Future())
        return self.submitted[-1]


def test_the_end_writes_what_still_waited_for_a_thread(tmp_path: Path) -> None:
    log, threads = log_in(tmp_path, Days()), NeverRuns()

    async def scene() -> None:
        recorder = QueryRecorder(log, threads, lambda: 0.0, percent=100, flush_s=0.001)
        recorder.record_query(search("first"))
        writing = asyncio.create_task(recorder.write_regularly())
        while not threads.submitted:
            await asyncio.sleep(0.001)
        recorder.record_query(search("second"))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(scene())
    assert [json.loads(line)["query"] for line in log.recorded_lines("recipes")] == ["first", "second"]


def test_the_end_waits_for_what_is_being_written(tmp_path: Path) -> None:
    log, may_write, begun = log_in(tmp_path, Days()), threading.Event(), threading.Event()

    class SlowLog:
        def append(self, queries: Any) -> None:
            begun.set()
            may_write.wait(PATIENCE_S)
            log.append(queries)

    async def scene() -> None:
        with ThreadPoolExecutor(1) as threads:
            slow: Any = SlowLog()
            recorder = QueryRecorder(slow, threads, lambda: 0.0, percent=100, flush_s=0.001)
            recorder.record_query(search("first"))
            writing = asyncio.create_task(recorder.write_regularly())
            while not begun.is_set():
                await asyncio.sleep(0.001)
            recorder.record_query(search("second"))
            writing.cancel()
            threading.Timer(0.05, may_write.set).start()
            await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(scene())
    assert [json.loads(line)["query"] for line in log.recorded_lines("recipes")] == ["first", "second"]
