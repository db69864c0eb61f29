"""What searches never wait for: codes of old rows, compaction, and what this process itself has written."""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.faiss_files import code_bytes
from index_store.ann.rerank import rescore
from index_store.delta.delta import Delta
from index_store.delta.quantized import QuantizedRows
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.check import check
from index_store.record.rows import Row
from index_store.storage.schema import Connection, connect_sqlite
from index_store.types import CollectionSpec, ItemDelete, ItemWrite, Metric, SearchRequest, Vector, WriteBatch
from tests.sealing import generation_of
from tests.waiting import until

SEED = 36_001
DIM = 16
SPEC = CollectionSpec("numbers", "int64", DIM, "l2")
UNCODED_MAX = 1024


def appended(delta: Delta, data: Vector) -> None:
    start = delta.rows
    delta.add_rows(
        [Row(start + n, 1, False, True, None, None, None, 0, row.tobytes()) for n, row in enumerate(data)]
    )


def nearest(delta: Delta, query: Vector, k: int) -> list[int]:
    return delta.nearest_rows(query, k, np.ones(delta.rows, np.bool_), None).rows.tolist()


@pytest.mark.long
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_no_row_is_coded_twice(metric: Metric) -> None:
    """However often rows come: what was coded stays as it is, byte for byte, and what waits stays little."""
    print(f"seed {SEED}")
    data = np.random.default_rng(SEED).standard_normal((40_000, DIM)).astype(np.float32)
    delta = Delta(CollectionSpec("c", "int64", DIM, metric))
    before: tuple[QuantizedRows, ...] = ()
    for start in range(0, len(data), 500):
        appended(delta, data[start : start + 500])
        pieces = delta._quantized
        assert delta.rows - (pieces[-1].stop if pieces else 0) <= UNCODED_MAX
        assert [one.start for one in pieces[1:]] == [one.stop for one in pieces[:-1]]
        for old, new in zip(before, pieces, strict=False):
            assert (old.start, old.scan.codes.scale) == (new.start, new.scan.codes.scale)
            coded = code_bytes(old.index)
            assert np.array_equal(coded, code_bytes(new.index)[: len(coded)])
        before = pieces
    assert len(before) <= 9, "a scan of many pieces is slow"
    query = data[7]
    truth = rescore(query, data, metric)
    assert nearest(delta, query, 25) == np.lexsort((np.arange(len(data)), truth))[:25].tolist()


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_rows_that_outgrow_the_codes_before_them_are_found(metric: Metric) -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    data = rng.standard_normal((6_000, DIM)) * np.logspace(-3, 3, 6_000)[:, None]
    data[3_000:3_010] *= 1e4
    data = data.astype(np.float32)
    delta = Delta(CollectionSpec("c", "int64", DIM, metric))
    for start in range(0, len(data), 200):
        appended(delta, data[start : start + 200])
    assert metric == "cosine" or len(delta._quantized) > 1  # cosine: all of one length
    for query in (data[40], data[3_005], data[5_900], rng.standard_normal(DIM).astype(np.float32)):
        truth = rescore(query, data, metric)
        assert nearest(delta, query, 50) == np.lexsort((np.arange(len(data)), truth))[:50].tolist()


def test_the_rounding_of_rows_that_came_later_counts() -> None:
    """By its codes the nearest row looks farther than five others; the first rows are hardly rounded."""
    step = np.float32(1 / 127)
    first = np.full((1_100, DIM), 64 * step, np.float32)
    first[0, 0] = 1 / 1.125  # which makes that step of the codes
    later = first[1:].copy()
    later[:5] = 0.49 * step
    later[70] = 0.0
    later[70, 0] = 0.6 * step
    delta = Delta(CollectionSpec("c", "int64", DIM, "l2"))
    appended(delta, first)
    appended(delta, later)
    assert len(delta._quantized) == 1
    assert nearest(delta, np.zeros(DIM, np.float32), 1) == [1_170]


def test_rows_without_length_are_coded() -> None:
    delta = Delta(CollectionSpec("c", "int64", DIM, "l2"))
    for value in (0.0, 0.0, 2.0):
        appended(delta, np.full((1_100, DIM), value, np.float32))
    assert nearest(delta, np.full(DIM, 2.0, np.float32), 3) == [2_200, 2_201, 2_202]
    assert nearest(delta, np.zeros(DIM, np.float32), 3) == [0, 1, 2]


def opened(data_dir: Path, connect: Callable[[Path], Connection] = connect_sqlite) -> EmbeddedIndex:
    index = EmbeddedIndex(data_dir, [SPEC], connect=connect)
    index.open()
    index.advance("numbers", "begin", "v1")
    return index


def upsert(ids: range, data: Vector) -> WriteBatch:
    return WriteBatch([ItemWrite(i, v) for i, v in zip(ids, data, strict=True)], (), "v1")


def test_who_writes_many_rows_applies_them(tmp_path: Path) -> None:
    index = opened(tmp_path)
    done = index.write("numbers", upsert(range(500), np.ones((500, DIM), np.float32)))
    assert generation_of(index)._view.seq == done.seq
    index.close()


class Gate:
    """The thread that works beside the searches stops here: before it reads what came meanwhile, or after."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.is_open = threading.Event()
        self.reached = threading.Event()

    def connect(self, path: Path) -> Connection:
        if not threading.current_thread().name.startswith("upkeep"):
            return connect_sqlite(path)
        if self._place == "before":
            self.stop()
        return GatedConnection(path, self)

    def stop(self) -> None:
        self.reached.set()
        assert self.is_open.wait(30)


class GatedConnection(sqlite3.Connection):
    def __init__(self, path: Path, gate: Gate) -> None:
        super().__init__(path, isolation_level=None, check_same_thread=False)
        self._gate = gate

    def close(self) -> None:
        super().close()
        self._gate.stop()


@pytest.mark.long
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_compaction_is_in_nobodys_way(tmp_path: Path, place: str) -> None:
    """It is stopped half-way: searches and writes go on, and all that they saw is there afterwards."""
    gate = Gate(place)
    index = opened(tmp_path, gate.connect)
    generation = generation_of(index)
    kept: dict[int, float] = {}

    def write(first: int, value: float) -> None:
        index.write("numbers", upsert(range(first, first + 1_000), np.full((1_000, DIM), value, np.float32)))
        kept.update(dict.fromkeys(range(first, first + 1_000), value))

    def is_right() -> bool:
        query = np.ones(DIM, np.float32)
        hits = index.search("numbers", [SearchRequest(query, 5_000, with_vectors=True)])[0].hits
        return {int(hit.id): float(hit.vector[0]) for hit in hits if hit.vector is not None} == kept

    while not gate.reached.is_set():
        assert len(kept) < 60_000
        write(0, 1.0 + generation._view.seq)
        assert is_right()
        gate.reached.wait(0.01)
    delta = generation._view.delta
    write(500, -1.0)
    for one in range(900, 1_100):
        index.write("numbers", WriteBatch(deletes=[ItemDelete(one)]))
        del kept[one]
    index.write("numbers", WriteBatch([ItemWrite(3, active=False)]))
    del kept[3]
    assert is_right() and generation._view.delta is delta, "nobody has waited for it"
    gate.is_open.set()
    until(lambda: generation._view.delta is not delta)
    assert generation._view.count < 5_000
    assert is_right()
    write(100, -2.0)
    assert is_right()
    index.close()
    assert check(tmp_path) == []


@pytest.mark.slow
def test_answers_are_right_while_rows_are_coded_sorted_and_compacted(tmp_path: Path) -> None:
    """Each of 1,000 items is written again and again, its number of writes in its vector. A search finds no
    item as it was before the last write that was acknowledged when the search began, and none deleted."""
    index = opened(tmp_path)
    generation = generation_of(index)
    acknowledged, begun = np.ones(1_000), np.ones(1_000)
    compactions, problems, answers = 0, [], [0]
    stop, query = threading.Event(), np.ones(DIM, np.float32)
    index.write("numbers", upsert(range(1_001), np.ones((1_001, DIM), np.float32)))
    index.write("numbers", WriteBatch(deletes=[ItemDelete(1_000)]))

    def look() -> None:
        while not stop.is_set():
            least = acknowledged.copy()
            hits = index.search("numbers", [SearchRequest(query, 2_000, with_vectors=True)])[0].hits
            seen = np.full(1_001, -1.0)
            for hit in hits:
                assert hit.vector is not None
                seen[hit.id] = hit.vector[0]
            if len(hits) != 1_000 or seen[1_000] >= 0:
                problems.append(f"{len(hits)} items")
            if (seen[:1_000] < least).any() or (seen[:1_000] > begun).any():
                problems.append("an item as it was before")
            answers[0] += 1

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    delta = generation._view.delta
    for turn in range(2, 400):
        start = 250 * (turn % 4)
        begun[start : start + 250] = turn
        index.write("numbers", upsert(range(start, start + 250), np.full((250, DIM), turn, np.float32)))
        acknowledged[start : start + 250] = turn
        compactions += generation._view.delta is not delta
        delta = generation._view.delta
        if compactions == 2:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and compactions == 2 and answers[0] > 20
    index.close()
    assert check(tmp_path) == []


def test_rows_in_memory_go_with_their_last_user() -> None:
    """The service collects garbage seldom: rows that wait for it would double what a delta takes."""
    delta = Delta(CollectionSpec("c", "int64", DIM, "l2"))
    appended(delta, np.ones((3, DIM), np.float32))
    delta.postings.first(3)
    gone = weakref.ref(delta)
    gc.disable()
    try:
        del delta
        assert gone() is None
    finally:
        gc.enable()
