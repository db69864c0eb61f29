"""A scan of int8 codes: a quarter of the bytes of float32, so several times faster, and needs no graph.

One scale for all components: code = round(x * scale), scale = 127 / max|x|, so nothing is clipped and the
error of a row is bounded by its rounding alone. That bound (`ScanIndex.error_bound`) is what lets a caller
*prove* that a re-scored scan is exact instead of hoping so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.kernels import Codes, distances_of, scan, squares_of
from index_store.ann.faiss_files import FaissIndex, code_bytes, faiss_metric, open_mapped
from index_store.ann.float32_bounds import SUM_MARGIN
from index_store.ann.port import Bitmap, Neighbours
from index_store.ann.rerank import Distances, Matrix, engine_vectors
from index_store.ann.validation import checked_allowed, checked_query
from index_store.types import Metric, Vector

BLOCK_ROWS = 16_384
CODE_MAX = 127.0

_SAMPLED = 128
"""Rows kept apart: in the middle of 98,000 each of them costs a microsecond of waiting."""

_EVERY_ROW = np.empty(0, np.uint8)

_LIKELY = 3.5
"""Standard deviations: a row beyond them is one in 4,000, and matters only next to the k-th."""


@dataclass(frozen=True, slots=True)
class Int8Codes:
    """How float32 became int8, in engine terms. residual: the largest L2 norm of (row - decoded row).
    length: the largest L2 norm of a row."""

    scale: float
    residual: float
    length: float


def blocks(vectors: Matrix, metric: Metric, block_rows: int = BLOCK_ROWS) -> Iterator[Matrix]:
    """Yield the rows as engines hold them, a few megabytes at a time."""
    for at in range(0, len(vectors), block_rows):
        yield engine_vectors(np.asarray(vectors[at : at + block_rows]), metric)


def measure_codes(vectors: Matrix, metric: Metric) -> Int8Codes:
    """Return the scale that clips nothing and the error bounds under it. Two passes over the rows."""
    largest = max((float(np.abs(b).max()) for b in blocks(vectors, metric)), default=0.0)
    scale = CODE_MAX / largest if largest > 0 else 1.0
    residual = length = 0.0
    for block in blocks(vectors, metric):
        lost = block - np.rint(block * np.float32(scale)) / np.float32(scale)
        residual = max(residual, float(np.einsum("ij,ij->i", lost, lost).max()))
        length = max(length, float(np.einsum("ij,ij->i", block, block).max()))
    return Int8Codes(scale, residual**0.5 * (1 + SUM_MARGIN), length**0.5 * (1 + SUM_MARGIN))


def encode_query(row: Matrix, metric: Metric, scale: float) -> tuple[Matrix, float]:
    """Return the query's codes as float32 and what to divide engine scores by.

    FAISS cuts the fraction off a query for these codes and wraps what leaves int8, so both happen here,
    rounded and clipped. Inner products let the query have a scale of its own; l2 needs the rows' one.
    """
    own = scale if metric == "l2" else 127.0 / max(float(np.abs(row).max()), 1e-30)
    codes = np.rint(row * np.float32(own))
    return (np.clip(codes, -127, 127, out=codes) if metric == "l2" else codes), own * scale


def new_codes(dim: int, metric: Metric) -> FaissIndex:
    """Return an empty FAISS index of int8 codes; fill it with `add_codes`."""
    index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss_metric(metric))
    index.train(np.zeros((1, dim), np.float32))  # nothing to learn: the scale is ours
    return index


def add_codes(index: FaissIndex, vectors: Matrix, metric: Metric, scale: float) -> None:
    """Append rows to an index of codes. vectors: (n, dim) float32. scale: as `measure_codes` found it."""
    for block in blocks(vectors, metric):
        index.add(np.rint(block * np.float32(scale)))


class ScanIndex:
    """An AnnIndex over int8 codes. Compares every allowed row; distances carry the rounding of the codes."""

    def __init__(
        self, index: FaissIndex, metric: Metric, codes: Int8Codes, owner: FaissIndex | None = None
    ) -> None:
        """owner: what must stay open as long as `index`, because it owns its memory."""
        self._index = index
        self.rows = int(index.ntotal)
        self._owner = owner
        self._metric: Metric = metric
        self._flat = code_bytes(index)
        self._rows: Codes = self._flat.reshape(index.ntotal, index.d)
        self._sample: Codes | None = None
        self._squares: npt.NDArray[np.int32] | None = None
        self.codes = codes

    @classmethod
    def open(cls, path: Path, metric: Metric, codes: Int8Codes) -> ScanIndex:
        """Map a file of codes. Its bytes must have been verified: FAISS loads flipped bits in silence."""
        return cls(open_mapped(path), metric, codes)

    def knn(self, query: Vector, k: int, *, allowed: Bitmap | None, ef: int) -> Neighbours:  # noqa: ARG002
        """Return the k nearest allowed rows by their codes, nearest first; distances carry the codes'
        rounding.

        query: (dim,) float32. allowed: None for all rows. ef: not used. Raises InvalidVector.
        """
        row = engine_vectors(checked_query(query, self._index.d), self._metric)
        return self._scanned(row, min(k, self.rows), allowed)

    def contenders(
        self, query: Vector, k: int, *, allowed: Bitmap | None, allowed_count: int, fetch: int, proven: bool
    ) -> npt.NDArray[np.int64]:
        """Return every allowed row whose rounding could have hidden that it belongs to the k nearest; scan
        for more than `fetch` rows where those end before that is certain.

        k rows lie truly within one error of the k-th scan distance, so whatever belongs to the answer was
        scanned within two. proven: so is the error; else it is very likely. Ties of the k-th are all among
        them, whatever their number. 1 <= k <= allowed_count.
        """
        row = engine_vectors(checked_query(query, self._index.d), self._metric)
        error = self._error_of(row[0], proven=proven)
        error *= 2.0 if proven else math.sqrt(2.0)  # of two rows; likely ones do not add up in full
        while True:
            rows, engine = self._scanned(row, min(fetch, self.rows), allowed)
            inside = int(np.searchsorted(engine, self.reach(float(engine[k - 1]), error), side="right"))
            if inside < len(rows) or len(rows) >= allowed_count:
                return rows[:inside]
            fetch *= 4

    def _scanned(self, row: Matrix, k: int, allowed: Bitmap | None) -> Neighbours:
        if k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        coded, divisor = encode_query(row, self._metric, self.codes.scale)
        bits = _EVERY_ROW if allowed is None else checked_allowed(allowed, self.rows)
        if self._squares is None:  # two threads that both make them lose nothing
            self._squares = squares_of(self._rows) if self._metric == "l2" else np.empty(0, np.int32)
        rows, distances = scan(self._rows, self._squares, coded[0].astype(np.int16), bits, k)
        distances /= np.float32(divisor)
        return rows, distances

    def rough_distances(
        self, query: Vector, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return numbers that order rows as their distances do, up to the rounding of the codes: of these
        rows, and of some spread evenly over all."""
        row = engine_vectors(checked_query(query, self._index.d), self._metric)
        wide, _ = encode_query(row, self._metric, self.codes.scale)
        wide += np.float32(128)
        coded, is_l2 = wide[0].astype(np.int16), self._metric == "l2"
        if self._sample is None:  # two threads that both make it lose nothing
            self._sample = self._rows[:: max(1, self.rows // _SAMPLED)].copy()
        sample = self._sample
        others = distances_of(sample, sample.reshape(-1), coded, is_l2, np.arange(len(sample)))
        return distances_of(self._rows, self._flat, coded, is_l2, rows), others

    def lower_bounds(self, query: Vector, rows: npt.NDArray[np.int64]) -> Distances:
        """Return what the exact distances of these rows, as the metric says, are never below: (rows,). As far
        below as `error_bound` says, for a quarter of the memory that exact ones wait for."""
        row = engine_vectors(checked_query(query, self._index.d), self._metric)
        coded, divisor = encode_query(row, self._metric, self.codes.scale)
        coded += np.float32(128)
        is_l2 = self._metric == "l2"
        rough = distances_of(self._rows, self._flat, coded[0].astype(np.int16), is_l2, rows)
        found: Distances = rough.astype(np.float64) / divisor
        error = self._error_of(row[0], proven=True) * (1 + SUM_MARGIN) + 1e-6
        if is_l2:
            return np.maximum(np.sqrt(found) * (1 - SUM_MARGIN) - error, 0.0)
        found -= error + SUM_MARGIN * np.abs(found)
        return found + 1.0 if self._metric == "cosine" else found

    def error_bound(self, query: Vector, *, proven: bool) -> float:
        """Return how far a scan distance lies from the exact engine distance: for l2 in terms of the
        distance itself, not squared, else of the product.

        proven: never farther (triangle inequality, Cauchy-Schwarz); else `_LIKELY` standard deviations of
        the two roundings taken as independent and even, several times less.
        """
        return self._error_of(engine_vectors(query, self._metric), proven=proven)

    def _error_of(self, row: Vector, *, proven: bool) -> float:
        """row: (dim,) as engines hold it."""
        largest = float(np.abs(row).max())
        own = self.codes.scale if self._metric == "l2" else 127.0 / max(largest, 1e-30)
        length = 1.0 if self._metric == "l2" else float(np.linalg.norm(row))
        reach = 1.0 if self._metric == "l2" else self.codes.length
        # An l2 query outside the range of the rows is clipped: an error that is not even at all.
        if not proven and largest * own <= 127.5:
            return _LIKELY * math.hypot(length / self.codes.scale, reach / own) / math.sqrt(12)
        coded, _ = encode_query(row[None, :], self._metric, self.codes.scale)
        lost = float(np.linalg.norm(row - coded[0] * np.float32(1 / own)))
        if self._metric == "l2":
            return self.codes.residual + lost
        return (length + lost) * self.codes.residual + lost * self.codes.length

    def reach(self, distance: float, error: float) -> float:
        """Return the engine distance that lies `error` (see `error_bound`) beyond another, with the
        margin of the scan's float32 sums."""
        if self._metric == "l2":
            return float((math.sqrt(max(distance, 0.0)) + error) ** 2 * (1 + SUM_MARGIN))
        return distance + error + SUM_MARGIN * abs(distance) + 1e-6

    def close(self) -> None:
        """Let go of the codes' memory; only when no thread scans any more."""
        self._index = new_codes(self._index.d, self._metric)
        self.rows = 0
        self._flat = code_bytes(self._index)
        self._rows = self._flat.reshape(0, self._index.d)
        self._sample = self._squares = None
        self._owner = None
