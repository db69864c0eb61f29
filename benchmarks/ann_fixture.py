"""What `bench_ann` compares: a default segment, a float32 one over raw FAISS's graph, raw libraries."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.vectors import load
from index_store.ann.faiss_files import write_index
from index_store.ann.scan import add_codes, encode_query, new_codes
from index_store.ann.topk import Matrix
from index_store.embedded.segment import CODES_FILE, GRAPH_FILE, Segment
from index_store.embedded.segment_build import BuildOptions, RowChunk, build_segment
from index_store.embedded.segment_facts import SegmentIdentity
from index_store.storage.snapshot import MANIFEST, seal

M, EF_CONSTRUCTION = 16, 200


@dataclass(frozen=True, slots=True)
class SeenRow:
    """One line of the result: what was seen, and the bound it should keep."""

    what: str
    seen: float
    bound: float
    at_least: bool = False
    note: str = ""

    def __str__(self) -> str:
        held = self.seen >= self.bound if self.at_least else self.seen <= self.bound
        sign = "≥" if self.at_least else "≤"
        missed = "" if held else "MISSED"
        return f"| {self.what} | {self.seen:.3f} | {sign} {self.bound:.3g} | {missed} | {self.note} |"


@dataclass(frozen=True, slots=True)
class Bench:
    """All contenders over the same rows in the same order.

    segment: built with defaults. plain: float32 over the graph of `raw`. codes, coded: raw FAISS int8 index
    and the queries in its terms. order: (queries, rows) row numbers, nearest first. distances: exact, by row.
    """

    name: str
    directory: Path
    segment: Segment
    plain: Segment
    raw: Any
    codes: Any
    coded: Matrix
    library: Any
    queries: Matrix
    order: npt.NDArray[np.int32]
    distances: npt.NDArray[np.float32]

    @property
    def rows(self) -> int:
        return self.segment.rows


def build(rows: int, queries: int, folder: Path) -> tuple[Bench, list[SeenRow]]:
    """Build every contender; also return what building cost, in CPU seconds, against raw FAISS."""
    data = load(rows, queries)
    directory = folder / "segment"
    directory.mkdir()
    identity = SegmentIdentity("bench", "v1", "int64", data.rows.shape[1], "l2", 1)
    chunk = RowChunk(np.arange(len(data.rows)), np.arange(len(data.rows)), data.rows)
    threads = faiss.omp_get_max_threads()
    began = time.process_time()
    build_segment(directory, identity, [chunk], BuildOptions(), time.perf_counter)
    ours = time.process_time() - began
    segment = Segment.open(directory)
    stored = np.array(segment.vectors)
    raw = faiss.IndexHNSWFlat(stored.shape[1], M)
    raw.hnsw.efConstruction = EF_CONSTRUCTION
    began = time.process_time()
    raw.add(stored)
    theirs = time.process_time() - began
    note = f"{ours:.1f} and {theirs:.1f} CPU seconds, {threads} threads"
    codes = new_codes(stored.shape[1], "l2")
    add_codes(codes, stored, "l2", segment.facts.codes.scale)
    plain = _plain_segment(directory, folder / "plain", raw, codes, segment)
    exact = 2 - 2 * (data.queries @ stored.T)
    bench = Bench(
        name=data.name,
        directory=directory,
        segment=segment,
        plain=plain,
        raw=raw,
        codes=codes,
        coded=encode_query(data.queries, "l2", segment.facts.codes.scale)[0],
        library=_hnswlib(stored),
        queries=data.queries,
        order=np.argsort(exact, axis=1).astype(np.int32),
        distances=exact,
    )
    bound = 1.05 if segment.facts.engine == "hnsw" else float("inf")
    return bench, [SeenRow("CPU of a build / raw FAISS add", ours / theirs, bound, note=note)]


def _plain_segment(source: Path, directory: Path, raw: Any, codes: Any, segment: Segment) -> Segment:
    shutil.copytree(source, directory)
    (directory / MANIFEST).unlink()
    write_index(raw, directory / GRAPH_FILE)
    write_index(codes, directory / CODES_FILE)
    facts = dataclasses.replace(segment.facts, engine="hnsw", storage="float32")
    seal(directory, facts.to_json())
    return Segment.open(directory)


def _hnswlib(stored: Matrix) -> Any:
    """Raw hnswlib over the same rows; None, said aloud, where the extra is missing."""
    if importlib.util.find_spec("hnswlib") is None:
        print("hnswlib is not installed: no comparison with it")
        return None
    import hnswlib

    index = hnswlib.Index("l2", stored.shape[1])
    index.init_index(len(stored), ef_construction=EF_CONSTRUCTION, M=M)
    index.add_items(stored, num_threads=2)
    return index


def recall_of(
    bench: Bench,
    found: Sequence[npt.NDArray[np.int64]],
    k: int,
    mask_of: Callable[[int], npt.NDArray[np.bool_]] | None = None,
    numbers: Sequence[int] | None = None,
) -> float:
    """Mean share of the exact nearest k allowed rows among what was found; 1e-6 apart counts as equal."""
    shares = []
    for n, rows in zip(numbers or range(len(found)), found, strict=True):
        order = bench.order[n]
        if mask_of is not None:
            order = order[mask_of(n)[order]]
        if len(order):
            kth = bench.distances[n, order[min(k, len(order)) - 1]] + 1e-6
            shares.append(np.count_nonzero(bench.distances[n, rows] <= kth) / min(k, len(order)))
    return float(np.mean(shares))
