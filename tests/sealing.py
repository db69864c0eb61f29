"""Filling, sealing and comparing indexes in tests."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from index_store.catalog.snapshots import SEGMENTS, SNAPSHOTS
from index_store.engine.generation import Generation
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.types import CollectionSpec, Id, ItemWrite, SearchRequest, Vector, WriteBatch
from tests.reference_index import ReferenceIndex

SEED = 12_007
DIM = 16
SPECS = [CollectionSpec("numbers", "int64", DIM, "l2"), CollectionSpec("names", "string", DIM, "cosine")]
SMALL = MaintenanceLimits(seal_rows=1, pause_s=0.01, disk_reserve_bytes=0)


def opened(data_dir: Path) -> EmbeddedIndex:
    found = EmbeddedIndex(data_dir, SPECS)
    found.open()
    return found


def copy_data(folder: Path, to: Path) -> None:
    """Copy a folder with data directories. Both have the same sealed files: nothing may change those."""
    shutil.copytree(folder, to, copy_function=_copy_or_link)


def _copy_or_link(source: str, to: str) -> None:
    is_sealed = any(f"/{name}/" in source for name in (SEGMENTS, SNAPSHOTS))
    (os.link if is_sealed else shutil.copyfile)(source, to)


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


def generation_of(index: EmbeddedIndex, collection: str = "numbers") -> Generation:
    with index._collections[collection].members() as members:
        assert members.current is not None
        return members.current


def base_of(index: EmbeddedIndex, collection: str = "numbers") -> str:
    """The name of the snapshot that is served; '' for none."""
    return generation_of(index, collection).refresh().snapshot


def filled(data_dir: Path, rows: int = 300) -> ReferenceIndex:
    """A data directory with rows in both collections, and the reference that holds the same."""
    index, reference = opened(data_dir), ReferenceIndex(SPECS)
    for spec in SPECS:
        for one in (index, reference):
            one.advance(spec.name, "begin", "v1")
            one.write(spec.name, batch(spec.name, range(rows), vectors(rows)))
    index.close()
    return reference


def assert_same(
    index: EmbeddedIndex, reference: ReferenceIndex, collection: str, seed: int, queries: int = 4
) -> None:
    """Plain, filtered, excluding, deep and paged searches give what a dictionary gives."""
    random = np.random.default_rng(seed)
    for query in vectors(queries, seed):
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


class ClockWithSlowScan:
    """Jumps a second at each of its first readings, which time the scan: the planner prefers the graph."""

    def __init__(self) -> None:
        self._readings = 0

    def __call__(self) -> float:
        self._readings += 1
        return time.perf_counter() + min(self._readings, 400)
