"""What segments are made with: rows scored in place, laid out by neighbourhood; the hint of exclusion."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.float32_bounds import near_rows
from index_store.ann.rerank import Matrix, rescore
from index_store.ann.row_order import local_order
from index_store.ann.validation import count_allowed, pack_allowed, rows_allowed
from index_store.segment.builder import BuildOptions, RowChunk, build_segment
from index_store.segment.info import SegmentIdentity
from index_store.segment.reader import SegmentReader
from index_store.storage.sealed_directory import new_directory
from index_store.types import Metric

SEED = 515
DIM = 48


def _vectors(rows: int) -> Matrix:
    random = np.random.default_rng(SEED)
    centres = random.normal(size=(40, DIM))
    rows_ = centres[random.integers(0, 40, rows)] + 0.5 * random.normal(size=(rows, DIM))
    return (rows_ * random.uniform(0.5, 2.0, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e15])
def test_rows_near_enough_are_never_dropped(metric: Metric, scale: float) -> None:
    """Also where squares leave float32's range at either end, and where many rows tie."""
    vectors = (_vectors(3000) * np.float32(scale)).astype(np.float32)
    vectors[100:140] = vectors[100]
    length = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    rows = np.random.default_rng(SEED).permutation(3000)[:2000]
    for query in (vectors[100], vectors[7] + np.float32(0.01 * scale)):
        exact = rescore(query, vectors[rows], metric)
        for k in (1, 10, 25, 400):
            kept = near_rows(query, vectors, rows, k, metric, length)
            kth = np.partition(exact, k - 1)[k - 1]
            assert set(rows[exact <= kth].tolist()) <= set(kept.tolist())
            if metric != "cosine" and scale == 1.0:
                assert len(kept) <= np.count_nonzero(exact <= kth) + 5


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("rows", [0, 1, 383, 384, 5000])
def test_a_layout_holds_every_row_once(metric: Metric, rows: int) -> None:
    order = local_order(_vectors(rows), metric, SEED)
    assert sorted(order.tolist()) == list(range(rows))


def test_a_layout_brings_near_rows_together() -> None:
    vectors = _vectors(6000)
    laid = vectors[local_order(vectors, "l2", SEED)]
    steps, before = (np.linalg.norm(v[1:] - v[:-1], axis=1).mean() for v in (laid, vectors))
    assert steps < 0.8 * before


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 63, 64, 65, 1000, 4099])
def test_bitmaps_are_counted_and_read(rows: int) -> None:
    mask = np.random.default_rng(rows).random(rows) < 0.4
    bits = pack_allowed(mask)
    assert count_allowed(bits) == mask.sum()
    assert rows_allowed(bits, rows).tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.long
@pytest.mark.parametrize("engine", ["scan", "hnsw"])
def test_excluded_ids_change_no_promise(tmp_path: Path, engine: str) -> None:
    """However many, near or not, known or not, live or not: k rows, none hidden, the nearest of the rest."""
    vectors = _vectors(6000)
    options = BuildOptions(engine=engine, queries=128, seed=SEED)  # type: ignore[arg-type]
    directory = new_directory(tmp_path, "s")
    chunk = RowChunk(np.arange(6000), np.arange(6000), vectors)
    identity = SegmentIdentity("store", "v1", "int64", DIM, "l2", 1)
    build_segment(directory, identity, [chunk], options, time.thread_time)
    segment = SegmentReader.open(directory)
    random = np.random.default_rng(SEED)
    found = possible = 0
    for n in range(60):
        query = (vectors[n] + 0.2 * random.normal(size=DIM)).astype(np.float32)
        exact = rescore(query, segment.vectors, "l2")
        order = np.argsort(exact) if n % 2 else random.permutation(6000)
        hidden = order[: random.choice([3, 70, 500, 5900])]
        live = random.random(6000) < (1.0, 0.9)[n // 2 % 2]
        mask = live.copy()
        mask[hidden] = False
        known = segment.ids_of(hidden)
        excluded = random.permutation(np.concatenate([known, known[:5], np.arange(6000, 6050)]))
        ids = excluded if n % 3 else excluded.tolist()
        rows, distances = segment.candidates(query, 20, pack_allowed(live), excluded=ids)
        assert len(rows) == len(set(rows.tolist())) == 20 and mask[rows].all()
        assert distances.tolist() == exact[rows].tolist()
        kth = np.partition(exact[mask], 19)[19]
        found += int(np.count_nonzero(distances <= kth))
        possible += 20
    print(f"seed {SEED}, recall@20 {found / possible:.4f}")
    assert found >= 0.98 * possible
