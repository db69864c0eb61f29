"""Recall of a sealed segment against exact truth, with its own defaults, under every way of hiding rows.

The floors are what the calibration promises (.99) less what 150 queries can tell apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.vectors import load
from index_store.ann.hnsw import Storage
from index_store.ann.rerank import Distances, Matrix, rescore
from index_store.ann.validation import pack_allowed
from index_store.segment.builder import BuildOptions, RowChunk, build_segment
from index_store.segment.info import SegmentIdentity
from index_store.segment.reader import SegmentReader
from index_store.storage.sealed_directory import new_directory
from tests.sealing import ClockWithSlowScan

ROWS = 12_000
QUERIES = 150
FLOOR = 0.985
SEED = 90

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Built:
    """A segment, queries, and the exact distance of every row to every query."""

    segment: SegmentReader
    queries: Matrix
    distances: Distances


@pytest.fixture(scope="module", params=["float32", "int8", "scan"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The planner is told that scans are slow, so that the graph is used wherever its rules allow it."""
    data = load(ROWS, QUERIES)
    directory = new_directory(tmp_path_factory.mktemp("recall"), "segment")
    storage: Storage = "float32" if request.param == "scan" else request.param
    engine = "scan" if request.param == "scan" else "hnsw"
    options = BuildOptions(engine=engine, storage=storage, seed=SEED)
    identity = SegmentIdentity("store", "v1", "int64", 384, "l2", 1)
    chunk = RowChunk(np.arange(len(data.rows)), np.arange(len(data.rows)), data.rows)
    slow_scan = ClockWithSlowScan() if engine == "hnsw" else time.perf_counter
    build_segment(directory, identity, [chunk], options, slow_scan)
    segment = SegmentReader.open(directory)
    print(segment.facts.engine, segment.facts.storage, segment.facts.calibration.ef_table(0.99))
    distances = np.array([rescore(query, segment.vectors, "l2") for query in data.queries])
    yield Built(segment, data.queries, distances)
    segment.close()


def _recall(built: Built, k: int, masks: Iterator[Mask | None]) -> float:
    """Mean share of the exact nearest k allowed rows, by distance; fails on a short or hidden answer."""
    shares = []
    for query, exact, mask in zip(built.queries, built.distances, masks, strict=False):
        allowed = None if mask is None else pack_allowed(mask)
        rows, distances = built.segment.candidates(query, k, allowed)
        left = exact if mask is None else exact[mask]
        wanted = min(k, len(left))
        assert len(rows) == len(set(rows.tolist())) == wanted
        assert mask is None or mask[rows].all()
        assert distances.tolist() == exact[rows].tolist()
        if wanted:
            kth = np.partition(left, wanted - 1)[wanted - 1]
            shares.append(np.count_nonzero(distances <= kth) / wanted)
    mean = float(np.mean(shares))
    print(f"recall@{k} {mean:.4f}")
    return mean


def _always(mask: Mask | None) -> Iterator[Mask | None]:
    while True:
        yield mask


@pytest.mark.parametrize("k", [1, 10, 25, 100, 400])
def test_after_build(built: Built, k: int) -> None:
    assert _recall(built, k, _always(None)) >= FLOOR


@pytest.mark.parametrize("deleted", [0.1, 0.3, 0.6])
def test_after_deleting_at_random(built: Built, deleted: float) -> None:
    mask = np.random.default_rng(SEED).random(ROWS) >= deleted
    assert _recall(built, 25, _always(mask)) >= FLOOR


@pytest.mark.parametrize("nearest", [1, 10, 25, 100, 300, 1000])
def test_with_the_nearest_excluded(built: Built, nearest: int) -> None:
    def masks() -> Iterator[Mask]:
        for exact in built.distances:
            mask = np.ones(ROWS, bool)
            mask[np.argpartition(exact, nearest)[:nearest]] = False
            yield mask

    assert _recall(built, 25, masks()) >= 0.98


@pytest.mark.parametrize("excluded", [10, 1000, ROWS - 20])
def test_with_random_rows_excluded(built: Built, excluded: int) -> None:
    random = np.random.default_rng(SEED)

    def masks() -> Iterator[Mask]:
        while True:
            mask = np.ones(ROWS, bool)
            mask[random.choice(ROWS, excluded, replace=False)] = False
            yield mask

    assert _recall(built, 25, masks()) >= FLOOR


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.2, 0.5])
def test_with_a_random_filter(built: Built, share: float) -> None:
    mask = np.random.default_rng(SEED).random(ROWS) < share
    assert _recall(built, 25, _always(mask)) >= FLOOR


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.2, 0.5])
def test_with_a_clustered_filter(built: Built, share: float) -> None:
    """What is allowed lies together: around one row, which most queries are far from."""
    around = rescore(np.asarray(built.segment.vectors[17]), built.segment.vectors, "l2")
    mask = around <= np.quantile(around, share)
    assert _recall(built, 25, _always(mask)) >= FLOOR
