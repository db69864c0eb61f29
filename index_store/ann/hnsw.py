"""HNSW graph by FAISS: built in float16, searched over float32, bf16 or int8 codes, opened by memory map.

Bytes per row are what building and searching cost. Links of float16 are as good as float32 ones, for about
four fifths of the processor time (docs/decisions/0033). What is searched over is swapped underneath later,
and the smaller codes are often faster at equal recall (not on all data: the calibration decides). Swapping
keeps the links, so one build serves all three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import faiss
import numpy as np

from index_store.ann.faiss_files import FaissIndex, faiss_metric, open_mapped, search_one
from index_store.ann.hnsw_walk import graph_of
from index_store.ann.port import Bitmap, Neighbours
from index_store.ann.rerank import Matrix, engine_vectors
from index_store.ann.sq8 import CODE_MAX, Int8Codes, ScanIndex, blocks, encode_query
from index_store.ann.validation import checked_allowed, checked_query
from index_store.types import Metric, Vector

Storage: TypeAlias = Literal["float32", "bf16", "int8"]

GRAPH_BLOCK_ROWS = 131_072
"""Rows given to FAISS in one call, which it links in random order. Progress is reported between calls."""


@dataclass(frozen=True, slots=True)
class GraphShape:
    """m and ef_construction as in the HNSW paper. threads: of the build, 0 leaves FAISS's own setting."""

    m: int = 16
    ef_construction: int = 200
    threads: int = 0


def new_graph(dim: int, metric: Metric, shape: GraphShape) -> FaissIndex:
    """Return an empty graph to build; what is to be searched comes from `swap_storage`."""
    graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, shape.m, faiss_metric(metric))
    graph.train(np.zeros((1, dim), np.float32))  # nothing to learn
    graph.hnsw.efConstruction = shape.ef_construction
    return graph


def grow_graph(
    graph: FaissIndex,
    vectors: Matrix,
    metric: Metric,
    shape: GraphShape,
    codes: Int8Codes,
    progress: Callable[[int], None],
) -> None:
    """Add rows to a graph that nobody searches. progress(rows so far) is called after each block."""
    if shape.threads:
        faiss.omp_set_num_threads(shape.threads)  # binds this thread's own OpenMP regions only
    to_one = np.float32(codes.scale / CODE_MAX)  # float16 ends at 65,504; nearness has no scale
    for block in blocks(vectors, metric, GRAPH_BLOCK_ROWS):
        graph.add(block * to_one)
        progress(int(graph.ntotal))


def swap_storage(
    graph: FaissIndex, vectors: Matrix, metric: Metric, storage: Storage, codes: Int8Codes
) -> FaissIndex:
    """Return an index with the graph's links over other codes.

    vectors: the rows that the graph holds, in order.
    """
    m = graph.hnsw.nb_neighbors(1)
    if storage == "float32":
        swapped = faiss.IndexHNSWFlat(graph.d, m, faiss_metric(metric))
    else:
        is_bf16 = storage == "bf16"
        kind = faiss.ScalarQuantizer.QT_bf16 if is_bf16 else faiss.ScalarQuantizer.QT_8bit_direct_signed
        swapped = faiss.IndexHNSWSQ(graph.d, kind, m, faiss_metric(metric))
        swapped.train(np.zeros((1, graph.d), np.float32))
    extend_swapped(swapped, graph, vectors, metric, codes.scale if storage == "int8" else None)
    return swapped


def extend_swapped(
    swapped: FaissIndex, graph: FaissIndex, vectors: Matrix, metric: Metric, scale: float | None
) -> None:
    """Give a swapped index the rows that its graph has gained since, and the graph's links as they are.

    scale: of int8 codes, else None.
    """
    for block in blocks(vectors, metric):
        swapped.storage.add(block if scale is None else np.rint(block * np.float32(scale)))
    swapped.hnsw = graph.hnsw
    swapped.ntotal = graph.ntotal
    assert swapped.storage.ntotal == graph.ntotal, "codes and links must hold the same rows"


class FaissHnswIndex:
    """An AnnIndex over a finished graph. Never grows: FAISS crashes when one thread adds while another
    searches, and aborts when anything is added to a mapped file."""

    def __init__(self, index: FaissIndex, metric: Metric, storage: Storage, codes: Int8Codes) -> None:
        self._index = index
        self._metric: Metric = metric
        self._codes = codes
        self._holds_int8 = storage == "int8"
        self._graph = graph_of(index) if index.ntotal else None

    @classmethod
    def open(cls, path: Path, metric: Metric, storage: Storage, codes: Int8Codes) -> FaissHnswIndex:
        """Map a graph file. Its bytes must have been verified: FAISS loads flipped bits in silence."""
        return cls(open_mapped(path), metric, storage, codes)

    @property
    def rows(self) -> int:
        """How many rows the graph holds."""
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """Dimension of its vectors."""
        return int(self._index.d)

    def knn(self, query: Vector, k: int, *, allowed: Bitmap | None, ef: int) -> Neighbours:
        """Return up to k rows and their engine distances, nearest first (`index_store.ann.port.AnnIndex`).

        query: (dim,) float32. allowed: None for all rows. ef: breadth of the search, at least k. Raises
        InvalidVector.
        """
        row = engine_vectors(checked_query(query, self._index.d), self._metric)
        k = min(k, self.rows)
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        divisor = 1.0
        if self._holds_int8:
            row, divisor = encode_query(row, self._metric, self._codes.scale)
        if allowed is None:
            rows, distances = self._walked(row[0], max(ef, k))
        else:
            bits = checked_allowed(allowed, self.rows)  # held until the search ends: FAISS keeps a pointer
            selector = faiss.IDSelectorBitmap(bits)
            params = faiss.SearchParametersHNSW(efSearch=max(ef, k), sel=selector)
            rows, distances = search_one(self._index, row, k, params)
            if self._metric != "l2":
                np.negative(distances, out=distances)
        if self._holds_int8:
            distances /= np.float32(divisor)
        return rows[:k], distances[:k]

    def _walked(self, row: Matrix, ef: int) -> Neighbours:
        assert self._graph is not None, "the index is closed"
        if not self._holds_int8:
            return self._graph.walk(row.astype(np.float32), self._metric == "l2", ef)
        row += np.float32(128)
        return self._graph.walk(row.astype(np.int16), self._metric == "l2", ef)

    def int8_scan(self) -> ScanIndex | None:
        """Return a scan over the graph's own codes, so that they are mapped once; None if not int8."""
        if not self._holds_int8:
            return None
        # The storage dies with the graph that owns it: the scan keeps both.
        return ScanIndex(self._index.storage, self._metric, self._codes, owner=self._index)

    def close(self) -> None:
        """Let go of the mapped file; only when no thread searches any more."""
        self._index = faiss.IndexHNSWFlat(self._index.d, 2)
        self._graph = None
