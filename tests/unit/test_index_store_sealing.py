"""Sealed generations: what a snapshot holds, how it is swapped in, and when the next one is made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.rerank import rescore
from index_store.engine.index import EmbeddedIndex
from index_store.errors import PageExpired
from index_store.maintenance.check import check
from index_store.maintenance.policy import GenerationShape, MaintenanceLimits, segments_kept
from index_store.maintenance.worker import Maintenance
from index_store.segment.builder import BuildOptions
from index_store.types import ItemDelete, ItemWrite, SearchRequest, WriteBatch
from tests.reference_index import ReferenceIndex
from tests.sealing import (
    SMALL,
    SPECS,
    assert_same,
    base_of,
    batch,
    generation_of,
    named,
    opened,
    sealed,
    snapshots_of,
    vectors,
)
from tests.waiting import until


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    found = opened(tmp_path)
    for spec in SPECS:
        found.advance(spec.name, "begin", "v1")
    yield found
    found.close()
    assert check(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("collection", ["numbers", "names"])
def test_sealed_rows_delta_and_tombstones_answer_like_a_dictionary(
    index: EmbeddedIndex, tmp_path: Path, collection: str
) -> None:
    reference = ReferenceIndex(SPECS)
    for spec in SPECS:
        reference.advance(spec.name, "begin", "v1")
    data = vectors(1200)

    def write(one: WriteBatch) -> None:
        assert index.write(collection, one).seq == reference.write(collection, one).seq

    write(batch(collection, range(800), data[:800]))
    sealed(tmp_path)
    until(lambda: base_of(index, collection) != "")
    assert_same(index, reference, collection, 1)
    write(batch(collection, range(700, 900), data[900:1100]))  # 100 of them replaced
    write(WriteBatch(deletes=[ItemDelete(named(collection, n)) for n in range(0, 90, 2)]))
    write(WriteBatch([ItemWrite(named(collection, n), active=False) for n in range(100, 140)]))
    write(WriteBatch([ItemWrite(named(collection, n), metadata={"shade": 1}) for n in range(150, 170)]))
    assert_same(index, reference, collection, 2)
    for keep in range(3):
        limits = MaintenanceLimits(seal_rows=1, waste_share=1e9, disk_reserve_bytes=0)
        before = base_of(index, collection)
        sealed(tmp_path, limits)
        until(lambda before=before: base_of(index, collection) != before)  # type: ignore[misc]
        assert_same(index, reference, collection, 3 + keep)
        write(batch(collection, range(keep * 30, keep * 30 + 20), data[1100:1120]))
        assert_same(index, reference, collection, 6 + keep)
    other = opened(tmp_path)
    assert base_of(other, collection) == base_of(index, collection)
    assert_same(other, reference, collection, 9)
    other.close()
    assert len(snapshots_of(tmp_path, collection)) == 2


def test_pages_go_on_across_a_swap_and_expire_with_the_snapshot_before(tmp_path: Path) -> None:
    now = [0.0]
    index = EmbeddedIndex(tmp_path, SPECS, clock=lambda: now[0])
    index.open()
    index.advance("numbers", "begin", "v1")
    data = vectors(400)
    index.write("numbers", batch("numbers", range(400), data))
    everything = [hit.id for hit in index.search("numbers", [SearchRequest(data[0], 400)])[0].hits]
    first = index.search("numbers", [SearchRequest(data[0], 50)])[0]
    index.write("numbers", WriteBatch(deletes=[ItemDelete(everything[60])]))
    index.write("numbers", batch("numbers", range(1000, 1001), data[:1]))
    sealed(tmp_path)
    now[0] += 1
    index.search("numbers", [SearchRequest(data[0], 1)])
    generation_of(index)._background.join()  # type: ignore[union-attr]
    assert base_of(index) != ""
    index.write("numbers", WriteBatch(deletes=[ItemDelete(everything[61])]))
    index.write("numbers", WriteBatch([ItemWrite(everything[62], data[0])], (), "v1"))  # it stays in place
    second = index.search("numbers", [SearchRequest(data[0], 50, after=first.next_page)])[0]
    assert [hit.id for hit in second.hits] == [i for i in everything[50:102] if i not in everything[60:62]]
    fresh = index.search("numbers", [SearchRequest(data[0], 50)])[0]
    index.write("numbers", WriteBatch(deletes=[ItemDelete(everything[70])]))
    later = index.search("numbers", [SearchRequest(data[0], 400, after=fresh.next_page)])[0]
    shown = [hit.id for hit in (*fresh.hits, *later.hits)]
    assert sorted(map(int, shown)) == sorted(
        [*(int(i) for i in everything if i not in (everything[60], everything[61], everything[70])), 1000]
    )
    now[0] += 120
    with pytest.raises(PageExpired):
        index.search("numbers", [SearchRequest(data[0], 50, after=first.next_page)])
    index.close()


@pytest.mark.slow
def test_searches_go_on_while_snapshots_are_swapped(index: EmbeddedIndex, tmp_path: Path) -> None:
    """Two threads search while rows change and snapshots of every kind come: every answer is whole."""
    data = vectors(600)
    index.write("numbers", batch("numbers", range(500), data[:500]))
    problems: list[str] = []
    stop = threading.Event()

    def look(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not stop.is_set():
            query = data[random.integers(0, 500)]
            try:
                hits = index.search("numbers", [SearchRequest(query, 500, with_vectors=True)])[0].hits
            except Exception as exc:
                problems.append(repr(exc))
                return
            if len({hit.id for hit in hits}) != 500:
                problems.append(f"{len(hits)} hits")
            for hit in hits[:5]:
                assert hit.vector is not None
                if hit.distance != rescore(query, hit.vector[None, :], "l2")[0]:
                    problems.append(f"{hit.id} is torn")

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    bases = set()
    for round_ in range(8):
        index.write("numbers", batch("numbers", range(round_ * 40, round_ * 40 + 40), data[500:540]))
        sealed(tmp_path, MaintenanceLimits(1, 2 + round_ % 3, 1e9 * (round_ % 2), disk_reserve_bytes=0))
        newest = snapshots_of(tmp_path)[-1].name
        until(lambda newest=newest: base_of(index) == newest)  # type: ignore[misc]
        bases.add(newest)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == [] and len(bases) == 8


def test_when_the_next_snapshot_is_due() -> None:
    limits = MaintenanceLimits(seal_rows=100, segments_max=4, waste_share=0.2)

    def kept(rows: tuple[int, ...], dead: int, changes: int, is_damaged: bool = False) -> int | None:
        return segments_kept(GenerationShape(rows, dead, changes, is_damaged), limits)

    assert kept((), 0, 99) is None
    assert kept((), 0, 100) == 0
    assert kept((10_000,), 0, 99) is None
    assert kept((10_000,), 0, 100) == 1
    assert kept((10_000, 100, 100), 0, 100) == 3
    assert kept((10_000, 100, 100, 100), 0, 100) == 1  # the small ones are merged
    assert kept((10_000, 100), 1800, 101) == 0  # more than a fifth of the first is waste
    assert kept((), 0, 0, is_damaged=True) is None
    assert kept((), 0, 1, is_damaged=True) == 0
    assert kept((10_000,), 0, 1, is_damaged=True) == 1


def test_one_process_maintains(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.write("numbers", batch("numbers", range(10), vectors(10)))
    first, second = Maintenance(tmp_path, limits=SMALL), Maintenance(tmp_path, limits=SMALL)
    stop, is_idle = threading.Event(), threading.Event()
    thread = threading.Thread(target=first.run_forever, args=(stop, lambda: is_idle.set() or True))
    thread.start()
    until(lambda: len(snapshots_of(tmp_path)) == 1)
    assert not second.run_once() and second.rebuild() is None
    stop.set()
    thread.join()
    assert second.run_once()


def test_a_build_is_left_when_the_process_is_to_end(index: EmbeddedIndex, tmp_path: Path) -> None:
    index.write("numbers", batch("numbers", range(10), vectors(10)))
    stop = threading.Event()
    maintenance = Maintenance(
        tmp_path, limits=SMALL, step=lambda name: stop.set() if name == "segment_begun" else None
    )
    maintenance.run_forever(stop)
    assert snapshots_of(tmp_path) == [] and snapshots_of(tmp_path, folder="segments") == []
    assert Maintenance(tmp_path, limits=SMALL).run_once() and len(snapshots_of(tmp_path)) == 1


def test_many_keys_and_odd_metadata_filter_alike(index: EmbeddedIndex, tmp_path: Path) -> None:
    """Sealed and not, with and without a column of its own: rare keys, mixed kinds, lists, nothing."""
    data = vectors(700)
    values = [1, 1.0, True, "1", None, [1, "x"], {"a": 1}, "한글", -0.5]
    items = [
        ItemWrite(n, data[n], metadata={f"key{n}": n, "mixed": values[n % 9], "all": n} if n % 11 else None)
        for n in range(700)
    ]
    index.write("numbers", WriteBatch(items, (), "v1"))
    filters = [
        {"key5": 5},
        {"key699": {"$exists": True}},
        {"mixed": 1},
        {"mixed": True},
        {"mixed": "1"},
        {"mixed": {"$ne": None}},
        {"mixed": {"$in": ["x", "한글"]}},
        {"all": {"$gte": 650}},
        {"nothing": {"$exists": False}},
        {"$or": [{"key7": 7}, {"$not": {"all": {"$lt": 690}}}]},
    ]

    def answers() -> list[list[object]]:
        requests = [SearchRequest(data[0], 700, filter=one) for one in filters]
        return [[hit.id for hit in result.hits] for result in index.search("numbers", requests)]

    before = answers()
    assert all(before)
    sealed(tmp_path)
    until(lambda: base_of(index) != "")
    assert answers() == before
    assert answers() == before  # from the bitmaps kept
    metadata = generation_of(index).refresh().segments[0].segment.metadata
    rows = np.arange(700)
    assert sum(text is None for text in metadata.texts(rows)) == 64


@pytest.mark.long
def test_a_rebuild_waits_for_an_import_to_end(index: EmbeddedIndex, tmp_path: Path) -> None:
    limits = MaintenanceLimits(
        seal_rows=1, disk_reserve_bytes=0, growing_polls_max=3, build=BuildOptions("scan", graph_rows_min=50)
    )
    maintenance = Maintenance(tmp_path, limits=limits)
    data = vectors(400)

    def look(first: int, count: int) -> int:
        index.write("numbers", batch("numbers", range(first, first + count), data[:count]))
        assert maintenance.run_once()
        return len(snapshots_of(tmp_path))

    assert look(0, 40) == 1  # few rows are sealed at once
    assert look(100, 60) == 1  # many are waited for
    assert look(200, 60) == 1
    assert look(260, 0) == 2  # no more came
    assert [look(300 + n * 100, 100) for n in range(3)] == [2, 2, 2]
    newest = snapshots_of(tmp_path)[-1]
    look(600, 100)  # waited for three times, that is enough
    assert snapshots_of(tmp_path)[-1] != newest
