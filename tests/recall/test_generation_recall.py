"""Recall of a whole generation, as a caller meets it, at every stage of its life.

One history: build, insert into the delta, seal a small segment next to the graph, delete, merge, rebuild.
After each stage the index answers the same queries; truth is the same index's exact search, which touches no
graph. The floor is what the calibration promises (.99) less what 60 queries can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.vectors import Dataset, load
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.segment.builder import BuildOptions
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.sealing import ClockWithSlowScan, generation_of
from tests.waiting import until

BUILT, INSERTED, QUERIES, K = 8_000, 1_500, 60, 25
FLOOR = 0.985
SEED = 31
SPEC = CollectionSpec("things", "int64", 384, "l2")


class Life:
    """One generation and the means to move it on. keep_all: seal what is new, merge nothing."""

    def __init__(self, data_dir: Path, storage: str) -> None:
        self.data: Dataset = load(BUILT + INSERTED, QUERIES)
        self.index = EmbeddedIndex(data_dir, [SPEC])
        self.index.open()
        self.index.advance("things", "begin", "v1")
        self._data_dir = data_dir
        build = BuildOptions(engine="hnsw", storage=storage, seed=SEED)  # type: ignore[arg-type]
        self._merge = MaintenanceLimits(seal_rows=1, waste_share=0.0, disk_reserve_bytes=0, build=build)
        self._keep = replace(self._merge, waste_share=1e9)

    def insert(self, first: int, count: int) -> None:
        """Write rows in random order, as a feeder does, each with a number to filter by."""
        for start in range(first, first + count, 1_000):
            numbers = range(start, min(start + 1_000, first + count))
            rows = [ItemWrite(n, self.data.rows[n], metadata={"shade": n % 20}) for n in numbers]
            self.index.write("things", WriteBatch(rows, (), "v1"))

    def delete(self, numbers: list[int]) -> None:
        self.index.write("things", WriteBatch((), [ItemDelete(n) for n in numbers], "v1"))

    def seal(self, *, merges: bool) -> None:
        before = generation_of(self.index, "things").refresh().snapshot
        limits = self._merge if merges else self._keep
        assert Maintenance(self._data_dir, limits=limits, stopwatch=ClockWithSlowScan()).run_once()
        until(lambda: generation_of(self.index, "things").refresh().snapshot != before)

    def rebuild(self) -> None:
        before = generation_of(self.index, "things").refresh().snapshot
        assert Maintenance(self._data_dir, limits=self._merge, stopwatch=ClockWithSlowScan()).rebuild() == []
        until(lambda: generation_of(self.index, "things").refresh().snapshot != before)

    def segments(self) -> int:
        return len(generation_of(self.index, "things").refresh().segments)

    def recall(self, **asked: object) -> float:
        """Mean share of the exact nearest k, by distance. Fails on a short, doubled or hidden answer."""
        shares = []
        for query in self.data.queries:
            request = SearchRequest(query, K, **asked)  # type: ignore[arg-type]
            found, exact = self.index.search("things", [request, replace(request, exact=True)])
            ids = [hit.id for hit in found.hits]
            assert len(ids) == len(set(ids)) == len(exact.hits) == K
            furthest = exact.hits[-1].distance
            shares.append(sum(hit.distance <= furthest for hit in found.hits) / K)
        return float(np.mean(shares))

    def nearest(self, count: int) -> list[int]:
        """The ids nearest to the first query."""
        hits = self.index.search("things", [SearchRequest(self.data.queries[0], count, exact=True)])[0].hits
        return [int(hit.id) for hit in hits]


@pytest.fixture(params=["float32", "int8"])
def life(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Life]:
    one = Life(tmp_path, request.param)
    yield one
    one.index.close()
    assert check(tmp_path) == []


def test_recall_holds_through_a_generations_life(life: Life) -> None:
    seen: dict[str, float] = {}

    def look(stage: str) -> None:
        seen[stage] = life.recall()
        seen[f"{stage}, 100 nearest to one query excluded"] = life.recall(exclude_ids=life.nearest(100))
        seen[f"{stage}, 5 % filter"] = life.recall(filter={"shade": 3})

    life.insert(0, BUILT)
    life.seal(merges=True)
    look("graph")
    life.insert(BUILT, INSERTED // 2)
    look("graph and delta")
    life.seal(merges=False)
    assert life.segments() == 2
    life.insert(BUILT + INSERTED // 2, INSERTED // 2)
    look("graph, small segment and delta")
    gone = np.random.default_rng(SEED).choice(BUILT + INSERTED, 2_500, replace=False).tolist()
    life.delete(gone)
    look("after deletes")
    life.seal(merges=True)
    assert life.segments() == 1
    look("merged")
    life.rebuild()
    look("rebuilt")
    print({stage: round(value, 4) for stage, value in seen.items()})
    assert {stage: value for stage, value in seen.items() if value < FLOOR} == {}
