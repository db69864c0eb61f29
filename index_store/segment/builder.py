"""Builds a segment: writes rows, picks the engine by measurement, seals. Runs in the maintenance process.

Rows are laid out so that near ones share pages (`ann.layout`). Those that calibrate the graph stand at the
end and are added last: measured on a graph that does not hold them, they are like a caller's queries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from index_store.ann.calibration import (
    KS,
    TARGETS,
    Calibration,
    Clock,
    Contender,
    ExactNeighbours,
    Sweep,
    exact_neighbours,
    race,
    time_scan,
)
from index_store.ann.faiss_files import FaissIndex, one_thread, write_index
from index_store.ann.hnsw import (
    GRAPH_BLOCK_ROWS,
    FaissHnswIndex,
    GraphShape,
    Storage,
    extend_swapped,
    grow_graph,
    new_graph,
    swap_storage,
)
from index_store.ann.rerank import Matrix
from index_store.ann.row_order import local_order
from index_store.ann.sq8 import ScanIndex, add_codes, measure_codes, new_codes
from index_store.segment.ids import IdArray, write_ids
from index_store.segment.info import Engine, SegmentFacts, SegmentIdentity
from index_store.segment.reader import CODES_FILE, GRAPH_FILE, SEQS_FILE, VECTORS_FILE
from index_store.storage.sealed_directory import Manifest, seal
from index_store.types import Metric

log = logging.getLogger(__name__)

STORAGES: tuple[Storage, ...] = ("float32", "bf16", "int8")
JUDGED_K = 25
"""Engines and storages are compared by what recall@25 at the target costs."""

_HELD_OUT_SHARE = 20
_TIMED_QUERIES = 24
_COPIED_ROWS = 4096
_JUDGING_QUERIES = 96

Progress: TypeAlias = Callable[[str, float], None]
"""Called with a step and the share of it that is done; may raise to stop the build."""

Decorate: TypeAlias = Callable[[Path, IdArray], None]
"""Called with the directory and the ids in row order before it is sealed, to add files of its own."""


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Some rows of a segment. ids: int64 array or str; seqs: (n,) int64; vectors: (n, dim) float32."""

    ids: Sequence[Any] | IdArray
    seqs: npt.NDArray[np.int64]
    vectors: Matrix


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """engine, storage: `auto` measures. graph_rows_min: below it a scan wins and builds 100 times faster,
    so no graph is tried. queries: rows that calibrate; recorded: (n, dim) real queries, used as well."""

    engine: Literal["auto", "scan", "hnsw"] = "auto"
    storage: Literal["auto", "float32", "bf16", "int8"] = "auto"
    graph_rows_min: int = 50_000
    shape: GraphShape = field(default_factory=GraphShape)
    target: float = 0.99
    queries: int = 256
    recorded: Matrix | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows on disk, in their final order; the last `held` calibrate."""

    ids: IdArray
    vectors: Matrix
    held: int


@dataclass(frozen=True, slots=True)
class _Chosen:
    engine: Engine
    storage: Storage | None
    calibration: Calibration


def build_segment(
    directory: Path,
    identity: SegmentIdentity,
    chunks: Iterable[RowChunk],
    options: BuildOptions,
    clock: Clock,
    progress: Progress = lambda _step, _share: None,
    decorate: Decorate = lambda _directory, _ids: None,
) -> Manifest:
    """Write a segment into an empty directory and seal it; publishing is the caller's.

    Rows come in any order, each id once; they are renumbered. Raises OSError, WriteFailed, ValueError.
    """
    rows = _write_rows(directory, identity, chunks, options, progress)
    metric = identity.metric
    codes = measure_codes(rows.vectors, metric)
    flat = new_codes(identity.dim, metric)
    add_codes(flat, rows.vectors, metric, codes.scale)
    progress("codes", 1.0)
    chosen, graph = _choose(rows, metric, ScanIndex(flat, metric, codes), options, clock, progress)
    if graph is not None:
        write_index(graph, directory / GRAPH_FILE)
    if chosen.storage != "int8":
        write_index(flat, directory / CODES_FILE)
    decorate(directory, rows.ids)
    facts = SegmentFacts(
        identity=identity,
        rows=len(rows.vectors),
        engine=chosen.engine,
        storage=chosen.storage,
        shape=options.shape,
        codes=codes,
        calibration=chosen.calibration,
        target=options.target,
        library=f"faiss {faiss.__version__}",
    )
    manifest = seal(directory, facts.to_json())
    progress("sealed", 1.0)
    return manifest


def _write_rows(
    directory: Path,
    identity: SegmentIdentity,
    chunks: Iterable[RowChunk],
    options: BuildOptions,
    progress: Progress,
) -> _Rows:
    """Write vectors, ids and seqs; move a sample of the rows to the end."""
    id_parts: list[IdArray] = []
    seq_parts: list[npt.NDArray[np.int64]] = []
    with (directory / VECTORS_FILE).open("wb") as file:
        for chunk in chunks:
            vectors = np.ascontiguousarray(chunk.vectors, dtype=np.float32)
            if vectors.shape != (len(chunk.ids), identity.dim) or not np.isfinite(vectors).all():
                raise ValueError(f"a chunk of {len(chunk.ids)} ids has vectors of shape {vectors.shape}")
            file.write(vectors.data)
            id_parts.append(np.array(chunk.ids, dtype=np.int64 if identity.id_kind == "int64" else object))
            seq_parts.append(np.asarray(chunk.seqs, dtype=np.int64))
            progress("rows", 0.0)
    ids = np.concatenate(id_parts) if id_parts else np.empty(0, np.int64)
    seqs = np.concatenate(seq_parts) if seq_parts else np.empty(0, np.int64)
    held = 0
    stored = _mapped(directory / VECTORS_FILE, len(ids), identity.dim)
    if options.engine == "hnsw" or (options.engine == "auto" and len(ids) >= options.graph_rows_min):
        held = min(options.queries, len(ids) // _HELD_OUT_SHARE)
        order = _order_rows(stored, held, identity.metric, options.seed)
        ids, seqs = ids[order], seqs[order]
        stored = _rewritten(directory / VECTORS_FILE, stored, order)
        progress("ordered", 1.0)
    write_ids(directory, ids, identity.id_kind)
    np.save(directory / SEQS_FILE, seqs)
    return _Rows(ids, stored, held)


def _mapped(path: Path, rows: int, dim: int) -> Matrix:
    if not rows:
        return np.empty((0, dim), np.float32)
    return np.memmap(path, np.float32, "r", shape=(rows, dim)).view(np.ndarray)


def _order_rows(vectors: Matrix, held: int, metric: Metric, seed: int) -> npt.NDArray[np.int64]:
    """Random parts of `GRAPH_BLOCK_ROWS`, near rows together in each, then `held` random rows.

    Parts must be random: a graph that is given one region after the other has less recall (.991 for .994
    of the nearest 10 at ef 64).
    """
    shuffled = np.random.default_rng(seed).permutation(len(vectors))
    parts = []
    for start in range(0, len(vectors) - held, GRAPH_BLOCK_ROWS):
        part = np.sort(shuffled[start : min(start + GRAPH_BLOCK_ROWS, len(vectors) - held)])
        parts.append(part[local_order(vectors[part], metric, seed)])
    return np.concatenate([*parts, shuffled[len(vectors) - held :]])


def _rewritten(path: Path, vectors: Matrix, order: npt.NDArray[np.int64]) -> Matrix:
    """The same file with its rows in another order."""
    fresh = path.with_name(path.name + ".ordered")
    with fresh.open("wb") as file:
        for start in range(0, len(order), _COPIED_ROWS):
            file.write(vectors[order[start : start + _COPIED_ROWS]].data)
    fresh.replace(path)
    return _mapped(path, *vectors.shape)


def _choose(
    rows: _Rows,
    metric: Metric,
    scan: ScanIndex,
    options: BuildOptions,
    clock: Clock,
    progress: Progress,
) -> tuple[_Chosen, FaissIndex | None]:
    """Measure the scan and, where rows are many, graphs; return the cheapest at the target recall."""
    queries = _queries(rows, options)
    with one_thread():
        scan_us = time_scan(scan, queries[-_TIMED_QUERIES:], 2 * JUDGED_K, clock, options.seed)
    only_scan = _Chosen("scan", None, Calibration((), scan_us, 0.0, len(queries)))
    if not rows.held:
        return only_scan, None
    total = len(rows.vectors)
    head, tail = rows.vectors[: total - rows.held], rows.vectors[total - rows.held :]
    graph = new_graph(head.shape[1], metric, options.shape)
    grow_graph(graph, head, metric, options.shape, scan.codes, lambda done: progress("graph", done / total))
    truth = exact_neighbours(head, queries, metric)
    graphs = _storages(graph, head, metric, scan, options)
    with one_thread():
        storage = _fastest(graphs, head, metric, scan, truth, options, clock)
        if storage is None:
            return only_scan, None
        index = graphs[storage]
        sweep = Sweep(FaissHnswIndex(index, metric, storage, scan.codes), head, truth, metric, clock)
        sweep.run(KS[-1], TARGETS[-1])
    progress("calibrated", 1.0)
    grow_graph(graph, tail, metric, options.shape, scan.codes, lambda done: progress("graph", done / total))
    extend_swapped(index, graph, tail, metric, scan.codes.scale if storage == "int8" else None)
    table = Calibration(tuple(sweep.points), scan_us, sweep.noise, len(queries))
    return _Chosen("hnsw", storage, table), index


def _storages(
    graph: FaissIndex, head: Matrix, metric: Metric, scan: ScanIndex, options: BuildOptions
) -> dict[Storage, FaissIndex]:
    wanted = STORAGES if options.storage == "auto" else (options.storage,)
    return {storage: swap_storage(graph, head, metric, storage, scan.codes) for storage in wanted}


def _fastest(
    graphs: Mapping[Storage, FaissIndex],
    head: Matrix,
    metric: Metric,
    scan: ScanIndex,
    truth: ExactNeighbours,
    options: BuildOptions,
    clock: Clock,
) -> Storage | None:
    """Race the graphs, each at the ef that it needs for the target, against the scan; None: the scan won,
    or no graph gets there."""
    few = truth.some(_JUDGING_QUERIES)
    racers: dict[Storage, Contender] = {}
    like: int | None = None
    for storage, graph in graphs.items():
        index = FaissHnswIndex(graph, metric, storage, scan.codes)
        sweep = Sweep(index, head, few, metric, clock, like).run(JUDGED_K, options.target)
        ef = sweep.ef_reaching(JUDGED_K, options.target)
        if ef is not None:
            racers[storage] = Contender(index, ef, ef)
            like = like or ef
    took = race([*racers.values(), Contender(scan, 2 * JUDGED_K, 0)], few.queries, clock)
    best = min(racers, key=lambda s: took[list(racers).index(s)], default=None)
    log.info(
        "segment_engines_measured",
        extra={"us": dict(zip([*racers, "scan"], took, strict=True)), "fastest_graph": best},
    )
    if best is None or (options.engine == "auto" and min(took) == took[-1]):
        return None
    return best


def _queries(rows: _Rows, options: BuildOptions) -> Matrix:
    """Held-out rows and recorded queries; without either some rows, good enough to time a scan."""
    held = rows.vectors[len(rows.vectors) - rows.held :] if rows.held else rows.vectors[:_TIMED_QUERIES]
    return held if options.recorded is None else np.concatenate([options.recorded, held])
