"""What a finished segment can do, measured on its own rows: which ef reaches which recall, at what cost.

Queries are rows that the graph does not hold yet (the builder adds them afterwards), and recorded ones.
Rows that are in the graph must not be used: they find themselves first and then walk their own links, so
a graph looks better than it is (recall@10 at ef 64 measured .998 on rows of the graph, .991 on others).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index_store.ann.port import AnnIndex
from index_store.ann.rerank import Distances, Matrix, engine_vectors, rescore, to_engine
from index_store.ann.sq8 import blocks
from index_store.ann.validation import pack_allowed
from index_store.types import Metric

KS = (10, 25, 100)
TARGETS = (0.95, 0.98, 0.99, 0.995)
EF_GRID = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
SCAN_SHARES = (0.01, 0.1, 0.3, 1.0)

_CONFIDENCE = 2.0
"""Standard errors taken off a measured recall: 98 segments in 100 do at least what their table says."""

_RACES = 3

Clock = Callable[[], float]
"""Seconds. A clock of the thread's own processor time measures well on a machine that has other work."""


@dataclass(frozen=True, slots=True)
class Point:
    """One ef, measured. recall: for each of KS, at the lower end of its confidence; 0 above ef."""

    ef: int
    recall: tuple[float, ...]
    us: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The measured table of one graph, or of a scan alone (`points` empty).

    scan_us: (share of rows allowed, microseconds), rising. noise: standard deviation of engine distance
    minus exact distance: how far a candidate may be out of order before re-scoring.
    """

    points: tuple[Point, ...]
    scan_us: tuple[tuple[float, float], ...]
    noise: float
    queries: int

    def ef_table(self, target: float) -> EfTable:
        """Return which ef reaches `target` recall, by k."""
        reached = [(float(k), _crossing(self.points, column, target)) for column, k in enumerate(KS)]
        return EfTable(tuple((k, ef) for k, ef in reached if ef is not None))

    def graph_us(self, ef: int) -> float:
        """Return the expected time of one graph search; beyond the table, in proportion to ef."""
        last = self.points[-1]
        if ef > last.ef:
            return last.us * ef / last.ef
        return _between(float(ef), [(float(p.ef), p.us) for p in self.points])

    def scan_us_at(self, share: float) -> float:
        """Return the expected time of one scan that may return this share of the rows."""
        return _between(share, self.scan_us)


@dataclass(frozen=True, slots=True)
class EfTable:
    """(k, ef) for the k at which the wanted recall was reached, rising. Empty: at none, or no graph."""

    known: tuple[tuple[float, float], ...]

    def ef_for(self, k: int) -> int | None:
        """Return the ef for k, at least k: interpolated, and in proportion above the largest of KS; None
        where the graph never got there."""
        if not self.known:
            return None
        last, ef = self.known[-1]
        if k > last:
            return max(k, round(ef * k / last)) if last == KS[-1] else None
        return max(k, round(_between(float(k), self.known)))


def _between(x: float, line: Sequence[tuple[float, float]]) -> float:
    """Linear interpolation, flat outside. Plain Python: for a few points numpy takes ten times as long."""
    left = line[0]
    for right in line:
        if x <= right[0]:
            span = right[0] - left[0]
            return right[1] if span <= 0 else left[1] + (right[1] - left[1]) * (x - left[0]) / span
        left = right
    return left[1]


def _crossing(points: Sequence[Point], column: int, target: float) -> float | None:
    """The ef at which a recall column first reaches the target, between the measured ones."""
    before: Point | None = None
    for point in points:
        if point.recall[column] >= target:
            if before is None or before.recall[column] == 0.0:
                return float(point.ef)
            rise = point.recall[column] - before.recall[column]
            part = (target - before.recall[column]) / rise
            return before.ef + part * (point.ef - before.ef)
        before = point
    return None


@dataclass(frozen=True, slots=True)
class ExactNeighbours:
    """Queries and, for each, the exact distance of its k-th neighbour, k up to max(KS)."""

    queries: Matrix
    kth: npt.NDArray[np.float64]

    def some(self, count: int) -> ExactNeighbours:
        """Return the truth of evenly spread `count` queries, or of all if fewer."""
        step = max(1, len(self.queries) // count)
        return ExactNeighbours(self.queries[::step], self.kth[::step])


def exact_neighbours(vectors: Matrix, queries: Matrix, metric: Metric) -> ExactNeighbours:
    """Return the exact distances of the nearest max(KS) rows to each query, by batched products.

    vectors: what the graph holds, at least max(KS) rows; no query may be among them. The products choose
    candidates in float32; the distances are then exact.
    """
    wide = engine_vectors(queries, metric)
    keep = min(KS[-1] + 20, len(vectors))
    best = np.full((len(queries), 0), np.inf, np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in blocks(vectors, metric):
        scores = wide @ block.T
        scores *= -1
        if metric == "l2":
            scores *= 2
            scores += np.einsum("ij,ij->i", block, block)
        near = np.argpartition(scores, min(keep, len(block)) - 1, axis=1)[:, :keep]
        best = np.concatenate([best, np.take_along_axis(scores, near, 1)], axis=1)
        rows = np.concatenate([rows, near + start], axis=1)
        near = np.argpartition(best, min(keep, best.shape[1]) - 1, axis=1)[:, :keep]
        best, rows = np.take_along_axis(best, near, 1), np.take_along_axis(rows, near, 1)
        start += len(block)
    exact = [np.sort(rescore(q, vectors, metric, r))[: KS[-1]] for q, r in zip(queries, rows, strict=True)]
    return ExactNeighbours(queries, np.array(exact))


class Sweep:
    """Measures one graph over the grid of ef. Points are kept, so a longer sweep continues from the last one.

    like: an ef at which a graph of the same links got there: the grid is begun one step before it.
    """

    def __init__(
        self,
        index: AnnIndex,
        vectors: Matrix,
        truth: ExactNeighbours,
        metric: Metric,
        clock: Clock,
        like: int | None = None,
    ) -> None:
        self._grid = EF_GRID if like is None else EF_GRID[max(0, bisect.bisect_left(EF_GRID, like) - 1) :]
        self._index = index
        self._vectors = vectors
        self._truth = truth
        self._metric: Metric = metric
        self._clock = clock
        self._errors: list[Distances] = []
        self.points: list[Point] = []

    def run(self, k: int, target: float) -> Sweep:
        """Measure until recall@k reaches the target or the grid ends."""
        column = KS.index(k)
        for ef in self._grid[len(self.points) :]:
            if self.points and self.points[-1].recall[column] >= target:
                break
            self.points.append(self._measure(ef))
        return self

    def ef_reaching(self, k: int, target: float) -> int | None:
        """Return the ef at which recall@k reaches the target, None if it never does."""
        ef = _crossing(self.points, KS.index(k), target)
        return None if ef is None else round(ef)

    @property
    def noise(self) -> float:
        """Return the standard deviation of engine distance minus exact distance."""
        return float(np.concatenate(self._errors).std()) if self._errors else 0.0

    def _measure(self, ef: int) -> Point:
        took: list[float] = []
        hits = np.zeros((len(self._truth.queries), len(KS)))
        for n, query in enumerate(self._truth.queries):
            began = self._clock()
            rows, engine = self._index.knn(query, ef, allowed=None, ef=ef)
            took.append(self._clock() - began)
            exact = rescore(query, self._vectors, self._metric, rows)
            self._errors.append(engine - to_engine(exact, self._metric))
            exact.sort()
            for column, k in enumerate(KS):
                # By distance, not by row: equal vectors under many ids are equally right.
                near = self._truth.kth[n, min(k, self._truth.kth.shape[1]) - 1] + 1e-9
                hits[n, column] = np.count_nonzero(exact[:k] <= near) / k if k <= ef else 0.0
        sure = hits.mean(axis=0) - _CONFIDENCE * hits.std(axis=0) / max(len(hits), 1) ** 0.5
        return Point(ef, tuple(float(max(r, 0.0)) for r in sure), float(np.median(took)) * 1e6)


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine as it would be used: how many candidates it returns, and its breadth."""

    index: AnnIndex
    k: int
    ef: int


def race(contenders: Sequence[Contender], queries: Matrix, clock: Clock) -> list[float]:
    """Return each one's median microseconds, of the best of `_RACES` turns at each query.

    Turns are interleaved, so that whatever else the machine does slows all of them alike, and no two
    contenders meet one query in a row: the second would find its rows in the processor's cache.
    """
    count = len(queries)
    took = np.empty((len(contenders), _RACES, count))
    for turn in range(_RACES):
        for at in range(count):
            for number, contender in enumerate(contenders):
                position = (at + number * count // len(contenders)) % count
                began = clock()
                contender.index.knn(queries[position], contender.k, allowed=None, ef=contender.ef)
                took[number, turn, position] = clock() - began
    return [float(us) for us in np.median(took.min(axis=1), axis=1) * 1e6]


def time_scan(
    scan: AnnIndex, queries: Matrix, k: int, clock: Clock, seed: int
) -> tuple[tuple[float, float], ...]:
    """Return (share allowed, median microseconds) of a scan, for SCAN_SHARES."""
    random = np.random.default_rng(seed)
    timed: list[tuple[float, float]] = []
    for share in SCAN_SHARES:
        allowed = None if share == 1.0 else pack_allowed(random.random(scan.rows) < share)
        took: list[float] = []
        for query in queries:
            began = clock()
            scan.knn(query, k, allowed=allowed, ef=0)
            took.append(clock() - began)
        timed.append((share, float(np.median(took)) * 1e6 if took else 0.0))
    return tuple(timed)
