"""Sealed generations: what a snapshot holds, how it is swapped in, and what happens when it is damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.embedded.check import check
from index_store.embedded.engine import EmbeddedIndex
from index_store.embedded.maintenance import Maintenance, MaintenanceLimits, Shape, segments_kept
from index_store.errors import PageExpired
from index_store.types import CollectionSpec, Id, ItemDelete, ItemWrite, SearchRequest, Vector, WriteBatch
from tests.reference_index import ReferenceIndex

SEED = 12_007
DIM = 16
SPECS = [CollectionSpec("numbers", "int64", DIM, "l2"), CollectionSpec("names", "string", DIM, "cosine")]
SMALL = MaintenanceLimits(seal_rows=1, pause_s=0.01, disk_reserve_bytes=0)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[EmbeddedIndex]:
    found = opened(tmp_path)
    for spec in SPECS:
        found.advance(spec.name, "begin", "v1")
    yield found
    found.close()
    assert check(tmp_path) == []


def opened(data_dir: Path) -> EmbeddedIndex:
    found = EmbeddedIndex(data_dir, SPECS)
    found.open()
    return found


def sealed(data_dir: Path, limits: MaintenanceLimits = SMALL, **more: Any) -> None:
    assert Maintenance(data_dir, limits=limits, **more).run_once()


def vectors(count: int, seed: int = SEED) -> Vector:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def named(collection: str, number: int) -> Id:
    return number if collection == "numbers" else f"상품-{number}"


def batch(collection: str, numbers: range, data: Vector) -> WriteBatch:
    items = [
        ItemWrite(named(collection, n), v, metadata={"shade": n % 7, "name": f"n{n}"} if n % 5 else None)
        for n, v in zip(numbers, data, strict=True)
    ]
    return WriteBatch(items, (), "v1")


def snapshots_of(index_dir: Path, collection: str = "numbers", folder: str = "snapshots") -> list[Path]:
    return sorted((index_dir / "collections" / collection / "g000001" / folder).glob("*"))


def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        threading.Event().wait(0.005)


def base_of(index: EmbeddedIndex, collection: str = "numbers") -> str:
    with index._collection(collection).members() as members:
        assert members.current is not None
        return members.current.refresh().base


def assert_same(index: EmbeddedIndex, reference: ReferenceIndex, collection: str, seed: int) -> None:
    """Plain, filtered, excluding, deep and paged searches give what a dictionary gives."""
    random = np.random.default_rng(seed)
    for query in vectors(4, seed):
        excluded = [named(collection, n) for n in random.integers(0, 900, 40).tolist()]
        for request in (
            SearchRequest(query, 10, with_metadata=True, exact=True),
            SearchRequest(query, 10, excluded, {"shade": {"$in": [1, 2]}}, with_vectors=True, exact=True),
            SearchRequest(query, 2000, excluded, exact=True),
            SearchRequest(query, 7, filter={"name": "n8"}, with_metadata=True),
            SearchRequest(query, 5, offset=11, max_distance=4.0, exact=True),
        ):
            mine = index.search(collection, [request])[0]
            theirs = reference.search(collection, [request])[0]
            assert [hit.id for hit in mine.hits] == [hit.id for hit in theirs.hits]
            assert [hit.metadata for hit in mine.hits] == [hit.metadata for hit in theirs.hits]
            assert np.allclose([h.distance for h in mine.hits], [h.distance for h in theirs.hits], atol=1e-9)
            assert mine.exhausted == theirs.exhausted
            for mine_hit, their_hit in zip(mine.hits, theirs.hits, strict=True):
                assert (mine_hit.vector is None) == (their_hit.vector is None)
                if mine_hit.vector is not None:
                    assert np.array_equal(mine_hit.vector, their_hit.vector)  # type: ignore[arg-type]


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
