"""A segment: sealed rows in mapped files, searched exactly or by a graph, the same for every worker.

Rows are numbered 0..rows-1 for good; which of them may be returned is the caller's bitmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store import hints
from index_store.ann.background import RowSample, sample_of
from index_store.ann.bitmap import all_rows, without
from index_store.ann.float32_bounds import near_rows
from index_store.ann.hnsw import FaissHnswIndex
from index_store.ann.port import Bitmap
from index_store.ann.rerank import Distances, Matrix, nearest_rows, rescore, select
from index_store.ann.sq8 import ScanIndex
from index_store.ann.validation import count_allowed, rows_allowed
from index_store.errors import StoreDamaged
from index_store.segment.ids import IdArray, Rows, SegmentIds, open_ids
from index_store.segment.info import SegmentFacts, facts_from_json
from index_store.segment.planner import (
    GATHER_ROWS,
    GATHER_SHARE,
    GRAPH_TRIES,
    Plan,
    SegmentProfile,
    first_plan,
    next_plan,
    plan_beyond,
)
from index_store.storage.sealed_directory import read_manifest, verify
from index_store.types import Id, Metric, PlanStep, Vector

VECTORS_FILE = "vectors.f32"
SEQS_FILE = "seqs.npy"
CODES_FILE = "codes.faiss"
GRAPH_FILE = "graph.faiss"

Found: TypeAlias = tuple[Rows, Distances]
"""Rows and their exact distances, by (distance, id)."""

_PLANS_KEPT = 256
_SCAN = Plan("scan")

_NO_IDS: IdArray = np.empty(0, np.int64)

_BIT = np.left_shift(1, np.arange(8)).astype(np.uint8)

_EXCLUDED_MIN = 64
_COMPARED = 24
_NEAR_SHARE = 0.05

_FEW = 256
"""Rows beyond k that are scored in float64 at once, rather than sifted in float32 before."""

_NOISE_MARGIN = 6.0
"""Candidates within so many standard deviations of the engine's rounding of the k-th are scored again."""


class SegmentQuery(NamedTuple):
    """One query of one segment. allowed_count: rows that may be returned, exactly when nothing is `excluded`,
    else a lower bound. excluded: ids, sorted, whose bits are still set in `allowed`. exact: no row may be
    missed. ef: breadth of the graph instead of the planned one, never repeated; for measurements. steps: is
    told how it was searched, if it is a list."""

    vector: Vector
    k: int
    allowed: Bitmap | None
    allowed_count: int
    excluded: IdArray
    exact: bool
    ef: int | None
    steps: list[PlanStep] | None


class SegmentReader:
    """Safe from any thread: nothing here changes between `open` and `close`. ids_of, rows_of: those of its
    `SegmentIds`.

    Close it only when nobody searches it any more; dropping the last reference does the same.
    """

    def __init__(
        self,
        facts: SegmentFacts,
        sha256: str,
        vectors: Matrix,
        seqs: npt.NDArray[np.int64],
        ids: SegmentIds,
        scan: ScanIndex,
        graph: FaissHnswIndex | None,
    ) -> None:
        self.facts = facts
        self.rows = facts.rows
        self.sha256 = sha256
        self.vectors = vectors
        self.seqs = seqs
        self.ids_of = ids.ids_of
        self.rows_of = ids.rows_of
        self._scan = scan
        self._graph = graph
        self._metric: Metric = facts.identity.metric
        gather = 0 if self._metric == "cosine" else int(facts.rows * GATHER_SHARE)
        table = facts.calibration.ef_table(facts.target)
        self._profile = SegmentProfile(facts.rows, facts.calibration, table, max(GATHER_ROWS, gather))
        self._plans: dict[tuple[int, int], Plan] = {}
        self._slack = max(_NOISE_MARGIN * facts.calibration.noise, 1e-6)

    @classmethod
    def open(cls, directory: Path, verified_sha256: str | None = None) -> SegmentReader:
        """Map a published directory after checking every byte of it. Raises StoreDamaged.

        verified_sha256: manifest checksum of a directory whose files were already verified since they were
        published (by its builder, by another worker); they are not read again if it is the same one.
        """
        manifest = read_manifest(directory)
        if manifest.sha256 != verified_sha256:
            verify(directory, manifest)
        facts = facts_from_json(manifest.facts, directory)
        identity, codes = facts.identity, facts.codes
        try:
            graph = None
            if facts.storage is not None:
                graph = FaissHnswIndex.open(directory / GRAPH_FILE, identity.metric, facts.storage, codes)
            scan = graph.int8_scan() if graph is not None else None
            scan = scan or ScanIndex.open(directory / CODES_FILE, identity.metric, codes)
            vectors = _map_vectors(directory / VECTORS_FILE, facts.rows, identity.dim)
            seqs = np.load(directory / SEQS_FILE, mmap_mode="r", allow_pickle=False)
            ids = open_ids(directory, identity.id_kind)
        except (OSError, ValueError) as exc:
            raise StoreDamaged(f"{directory} cannot be opened: {exc}", hints.rebuild(directory)) from exc
        if not facts.rows == len(seqs) == scan.rows == (graph or scan).rows:
            raise StoreDamaged(
                f"{directory}: its files do not hold the same number of rows", hints.rebuild(directory)
            )
        return cls(facts, manifest.sha256, vectors, seqs, ids, scan, graph)

    @cached_property
    def sample(self) -> RowSample:
        """Some of its rows, with what similarities are usual among them; looked at when first asked for
        (5 ms)."""
        return sample_of(self.vectors, self._metric)

    def candidates(
        self,
        vector: Vector,
        k: int,
        allowed: Bitmap | None,
        *,
        allowed_count: int | None = None,
        excluded: Sequence[Id] | IdArray = _NO_IDS,
        exact: bool = False,
        ef: int | None = None,
        steps: list[PlanStep] | None = None,
    ) -> Found:
        """Return the nearest min(k, allowed) rows with their exact distances, by (distance, id).

        vector: (dim,) float32, finite. allowed: None for all rows. allowed_count: bits set in `allowed`, for
        who knows it. excluded: any ids; their rows are not returned either. exact: certainly the true
        answer; else recall is what the calibration promises. ef: breadth of the graph for measurements.
        steps: is told how it was searched.
        """
        count = allowed_count
        if count is None:
            count = self.rows if allowed is None else count_allowed(allowed)
        bits = None if count == self.rows else allowed
        query = SegmentQuery(vector, k, bits, count, _NO_IDS, exact, ef, steps)
        near = 0
        if len(excluded):
            if isinstance(excluded, np.ndarray):
                excluded = np.sort(excluded)  # looked up in order: neighbours lie in the same memory
            query = self._excluding(query, excluded)
            near = 0 if exact else self._count_near(vector, excluded)
        query = query._replace(k=min(k, query.allowed_count)) if k > query.allowed_count else query
        if query.k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float64)
        plan = self.plan(query.allowed_count, query.k, exact=exact, ef=ef)
        if plan.way == "gather":
            return self._by_gather(query)
        is_crowded = exact or near > 0 or plan.way == "graph"
        if near:
            plan = plan_beyond(self._profile, plan, query.allowed_count, query.k, near)
        if plan.way == "graph":
            found = self._by_graph(query, plan)
            if found is not None:
                return found
        return self._by_scan(query, is_crowded)

    def least_distances(self, vector: Vector, rows: Rows) -> Distances:
        """Return what the exact distances of these rows are never below, and mostly little above."""
        return self._scan.lower_bounds(vector, rows)

    def _excluding(self, query: SegmentQuery, ids: Sequence[Id] | IdArray) -> SegmentQuery:
        """The question less these ids. A graph's few rows are compared with them by id, which takes a tenth
        of looking up a thousand rows to make a bitmap: that is done only where one is needed."""
        if not isinstance(ids, np.ndarray):
            return self._without(query, self.rows_of(ids))
        later = query._replace(excluded=ids, allowed_count=query.allowed_count - len(ids))
        if query.k <= later.allowed_count:
            plan = self.plan(later.allowed_count, later.k, exact=later.exact, ef=later.ef)
            if plan.way == "graph":
                return later
        return self._without(later, self.rows_of(ids))

    def _without(self, query: SegmentQuery, rows: Rows) -> SegmentQuery:
        """The same question with all that it hides in `allowed`, and counted."""
        bits = without(all_rows(self.rows) if query.allowed is None else query.allowed, rows)
        return query._replace(allowed=bits, allowed_count=count_allowed(bits), excluded=_NO_IDS)

    def plan(self, allowed_count: int, k: int, *, exact: bool = False, ef: int | None = None) -> Plan:
        """Return how `candidates` would begin; 1 <= k <= allowed_count."""
        if ef is not None and self._graph is not None:
            return Plan("graph", ef)
        if exact:
            return _SCAN
        plan = self._plans.get((allowed_count, k))
        if plan is None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans = {}  # two threads that both do this lose nothing
            plan = self._plans[allowed_count, k] = first_plan(self._profile, allowed_count, k)
        return plan

    def _count_near(self, vector: Vector, excluded: Sequence[Id] | IdArray) -> int:
        """How many of these ids have rows here, if a few of those rows are nearer than nearly all of a few
        others, else 0. Behind near ones the usual search would find little: it is spared. A guess, and cheap;
        either way the answer is as good."""
        if len(excluded) < _EXCLUDED_MIN:
            return 0
        asked = self.rows_of(excluded[:: max(1, len(excluded) // _COMPARED)])
        some = asked[asked >= 0]
        if not len(some):
            return 0
        theirs, others = self._scan.rough_distances(vector, some)
        middle = np.partition(theirs, len(theirs) // 2)[len(theirs) // 2]
        nearer = np.count_nonzero(others < middle)
        if nearer > len(others) * _NEAR_SHARE:
            return 0
        return len(excluded) * len(some) // len(asked)

    def _by_graph(self, query: SegmentQuery, plan: Plan) -> Found | None:
        """The answer by links, or None when a scan must give it: too few found, or a tie at the end."""
        assert self._graph is not None
        for _ in range(GRAPH_TRIES):
            rows, engine = self._graph.knn(query.vector, plan.breadth, allowed=None, ef=plan.breadth)
            if query.steps is not None:
                query.steps.append(("graph", plan.breadth, len(rows)))
            positions = None
            if query.allowed is not None or len(query.excluded):
                positions = self._allowed_positions(query, rows)
                rows, engine = rows[positions], engine[positions]
            again = None
            if query.ef is None or len(rows) < query.k:
                again = next_plan(self._profile, plan, query.allowed_count, query.k, positions)
            if again is None:
                return self._near(query, rows, engine) if len(rows) >= query.k else None
            if again.way != "graph":
                return None
            plan = again
        return None

    def _allowed_positions(self, query: SegmentQuery, rows: Rows) -> npt.NDArray[np.int64]:
        """The positions in `rows` whose row may be returned, in order."""
        if query.allowed is None:
            return _positions_not_among(self.ids_of(rows), query.excluded)
        positions = _positions_allowed(rows, query.allowed)
        if not len(query.excluded):
            return positions
        return positions[_positions_not_among(self.ids_of(rows[positions]), query.excluded)]

    def _near(self, query: SegmentQuery, rows: Rows, engine: npt.NDArray[np.float32]) -> Found | None:
        """Score again what may belong to the nearest k; None if equal distances run past what was found."""
        kth = float(engine[query.k - 1])
        # A float32 limit: for a float64 one numpy would widen all of `engine` first.
        inside = int(engine.searchsorted(np.float32(kth + self._slack * (1.0 + abs(kth))), "right"))
        is_cut = inside == len(rows) > query.k and inside < query.allowed_count
        found = self._nearest_of(query, rows[:inside])
        if is_cut and rescore(query.vector, self.vectors, self._metric, rows).max() <= found[1][-1] + 1e-12:
            return None
        return found

    def _by_gather(self, query: SegmentQuery) -> Found:
        """Score every allowed row: for a few of them nothing is faster."""
        rows = np.arange(self.rows) if query.allowed is None else rows_allowed(query.allowed, self.rows)
        if query.steps is not None:
            query.steps.append(("gather", 0, len(rows)))
        return self._nearest_of(query, rows)

    def _by_scan(self, query: SegmentQuery, is_crowded: bool) -> Found:
        """Scan the codes, and score again every row that may belong to the answer."""
        if len(query.excluded):
            query = self._without(query, self.rows_of(query.excluded))
        # Measured at k = 25 of 98,000: 28 rows may, 150 to 212 with the nearest 1,000 hidden, 222 when that
        # is proven. Too few means a second scan, too many a longer heap.
        fetch = 4 * query.k + (300 if query.exact else 120) if is_crowded else 2 * query.k + 64
        if query.steps is not None:
            query.steps.append(("scan", 0, query.allowed_count))
        rows = self._scan.contenders(
            query.vector,
            query.k,
            allowed=query.allowed,
            allowed_count=query.allowed_count,
            fetch=fetch,
            proven=query.exact,
        )
        return self._nearest_of(query, rows)

    def _nearest_of(self, query: SegmentQuery, rows: Rows) -> Found:
        """The k nearest of these rows. Ids are looked up only where distances tie: strings are slow."""
        if len(rows) > query.k + _FEW:
            length = self.facts.codes.length
            rows = near_rows(query.vector, self.vectors, rows, query.k, self._metric, length)
        found, distances, is_tied = nearest_rows(query.vector, self.vectors, self._metric, rows, query.k)
        if is_tied:
            distances = rescore(query.vector, self.vectors, self._metric, rows)
            best = select(distances, self.ids_of(rows), query.k)
            return rows[best], distances[best]
        return found, distances

    def close(self) -> None:
        """Let go of the files."""
        if self._graph is not None:
            self._graph.close()
        self._scan.close()
        self.vectors = np.empty((0, self.facts.identity.dim), np.float32)


def _map_vectors(path: Path, rows: int, dim: int) -> Matrix:
    if path.stat().st_size != rows * dim * 4:
        raise StoreDamaged(f"{path} does not hold {rows} vectors of dimension {dim}", hints.rebuild(path))
    if not rows:
        return np.empty((0, dim), np.float32)
    return np.memmap(path, np.float32, "r", shape=(rows, dim)).view(np.ndarray)


def _positions_not_among(ids: IdArray, excluded: IdArray) -> npt.NDArray[np.int64]:
    """The positions of the ids that are not in `excluded`, which is sorted and not empty."""
    at = excluded.searchsorted(ids)
    at[at == len(excluded)] = 0
    positions: npt.NDArray[np.int64] = (excluded[at] != ids).nonzero()[0]
    return positions


def _positions_allowed(rows: Rows, allowed: Bitmap) -> npt.NDArray[np.int64]:
    """The positions in `rows` whose row may be returned, in order."""
    bits: Bitmap = allowed[rows >> 3]
    bits &= _BIT[rows & 7]
    positions: npt.NDArray[np.int64] = bits.nonzero()[0]
    return positions
