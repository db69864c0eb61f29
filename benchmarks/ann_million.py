"""The rows of `bench_ann` for very many vectors: builds, opens, serves, within bounded memory.

Synthetic vectors, whatever was asked for, made a block at a time; the segment is built straight from them.
Three quarters of the builder's memory are the graph and the pages of the mapped vectors.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.ann_fixture import SeenRow
from index_store.ann.faiss_files import one_thread
from index_store.ann.port import Bitmap
from index_store.ann.rerank import Matrix
from index_store.ann.validation import pack_allowed
from index_store.segment.builder import BuildOptions, RowChunk, build_segment
from index_store.segment.info import SegmentIdentity
from index_store.segment.reader import SegmentReader

_BLOCK = 50_000
_GIB_MAX = 8.0


class _Mixture:
    """Points of a 24-dimensional mixture bent into 384, unit length, the same for a given seed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._centres = random.normal(size=(200, 24)).astype(np.float32)
        self._first = random.normal(size=(24, 128)).astype(np.float32)
        self._second = random.normal(size=(128, 384)).astype(np.float32)

    def rows(self, count: int, seed: int) -> Matrix:
        random = np.random.default_rng(seed)
        latent = self._centres[random.integers(0, 200, count)]
        latent = latent + random.normal(size=latent.shape).astype(np.float32)
        bent: Matrix = np.maximum(latent @ self._first, 0) @ self._second
        bent /= np.linalg.norm(bent, axis=1, keepdims=True)
        return bent


def measure(rows: int, queries: int, folder: Path) -> list[SeenRow]:
    mixture = _Mixture(5)

    def chunks() -> Iterator[RowChunk]:
        for start in range(0, rows, _BLOCK):
            count = min(_BLOCK, rows - start)
            numbers = np.arange(start, start + count)
            yield RowChunk(numbers, numbers, mixture.rows(count, 1000 + start))

    directory = folder / "segment"
    directory.mkdir()
    identity = SegmentIdentity("bench", "v1", "int64", 384, "l2", 1)
    began, wall = time.process_time(), time.perf_counter()

    def progress(step: str, share: float) -> None:
        print(f"{step} {share:.2f} {time.perf_counter() - wall:.0f} s {_peak_gib():.2f} GiB", flush=True)

    manifest = build_segment(directory, identity, chunks(), BuildOptions(), time.thread_time, progress)
    cpu, took = time.process_time() - began, time.perf_counter() - wall
    opened = time.perf_counter()
    segment = SegmentReader.open(directory, manifest.sha256)
    opened = time.perf_counter() - opened
    asked = mixture.rows(queries, 7)
    half = np.random.default_rng(11).random(rows) < 0.5
    with one_thread():
        served = _served(segment, asked, None, "with defaults")
        served += _served(segment, asked, pack_allowed(half), "a random half deleted")
    size = sum(p.stat().st_size for p in directory.iterdir()) / 2**30
    facts = segment.facts
    note = (
        f"{cpu:.0f} CPU s, {took:.0f} s; engine {facts.engine}, storage {facts.storage}, files {size:.2f} GiB"
    )
    return [
        SeenRow("peak memory of build and searches, GiB", _peak_gib(), _GIB_MAX, note=note),
        SeenRow("build, seconds on the clock", took, note=f"{rows / took:.0f} rows a second"),
        SeenRow("opening a segment that was verified, ms", opened * 1e3, note="FAISS looks at every link"),
        *served,
    ]


def _served(segment: SegmentReader, asked: Matrix, live: Bitmap | None, what: str) -> list[SeenRow]:
    """Recall and processor time of searches; the truth is the segment's own proven scan."""
    seen = []
    for k in (10, 25):
        shares, took = [], []
        for query in asked:
            began = time.thread_time()
            _, near = segment.candidates(query, k, live)
            took.append(time.thread_time() - began)
            _, exact = segment.candidates(query, k, live, exact=True)
            shares.append(np.count_nonzero(near <= exact[-1] + 1e-9) / k)
        p50, p99 = np.quantile(took, (0.5, 0.99)) * 1e6
        note = f"p50 {p50:.0f}, p99 {p99:.0f} µs of processor time"
        seen.append(SeenRow(f"recall@{k}, {what}", float(np.mean(shares)), 0.99, at_least=True, note=note))
    return seen


def _peak_gib() -> float:
    """Resident memory at its highest, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
