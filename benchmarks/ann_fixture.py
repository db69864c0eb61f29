"""What `bench_ann` compares: whole indexes (store, segment, delta), raw libraries over the same rows."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.vectors import load
from index_store.ann.rerank import Matrix
from index_store.ann.sq8 import add_codes, encode_query, new_codes
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.policy import MaintenanceLimits
from index_store.maintenance.worker import Maintenance
from index_store.segment.builder import BuildOptions
from index_store.segment.reader import SegmentReader
from index_store.types import CollectionSpec, Id, ItemWrite, SearchRequest, WriteBatch

M, EF_CONSTRUCTION = 16, 200
NAME, VERSION = "bench", "v1"

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SeenRow:
    """One line of the result: what was seen, and the bound it should keep; without one it only informs."""

    what: str
    seen: float
    bound: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return ""
        return "PASS" if (self.seen >= self.bound if self.at_least else self.seen <= self.bound) else "MISS"

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        bound = "" if self.bound is None else f"{sign} {self.bound:.4g}"
        return f"| {self.what} | {self.seen:.4g} | {bound} | {self.verdict} | {self.note} |"

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "verdict": self.verdict}


class Stored:
    """One collection in a data directory: ids are the numbers of the rows written."""

    def __init__(self, data_dir: Path, dim: int) -> None:
        self.data_dir = data_dir
        self._spec = CollectionSpec(NAME, "int64", dim, "l2")
        self.index = EmbeddedIndex(data_dir, [self._spec])

    def open(self) -> Stored:
        self.index.open()
        return self

    def begin(self) -> Stored:
        self.data_dir.mkdir(parents=True)
        self.open()
        self.index.advance(NAME, "begin", VERSION)
        return self

    def write(self, ids: Sequence[int], rows: Matrix, shares: Matrix | None = None) -> None:
        """shares: (n, 2), stored as metadata `random` and `near`, to filter by."""
        for start in range(0, len(ids), 2000):
            some = range(start, min(start + 2000, len(ids)))
            items = [
                ItemWrite(
                    int(ids[n]),
                    rows[n],
                    metadata=None
                    if shares is None
                    else {"random": float(shares[n, 0]), "near": float(shares[n, 1])},
                )
                for n in some
            ]
            self.index.write(NAME, WriteBatch(items=items, embedding_version=VERSION))

    def seal(self, options: BuildOptions, seal_rows: int = 1) -> None:
        """Let maintenance work once, and open what it made."""
        self.index.close()
        limits = MaintenanceLimits(seal_rows=seal_rows, growing_polls_max=0, build=options)
        assert Maintenance(self.data_dir, limits=limits).run_once()
        self.reopen()

    def reopen(self) -> None:
        self.index = EmbeddedIndex(self.data_dir, [self._spec])
        self.index.open()

    def ask(self, query: npt.NDArray[np.float32], k: int, **more: Any) -> list[Id]:
        request = SearchRequest(vector=query, k=k, **more)
        return [hit.id for hit in self.index.search(NAME, [request])[0].hits]

    def segment(self) -> SegmentReader:
        """The largest segment, mapped once more."""
        found = sorted(self.data_dir.glob("collections/*/*/segments/*/vectors.f32"))
        largest = max(found, key=lambda path: path.stat().st_size)
        return SegmentReader.open(largest.parent)

    def close(self) -> None:
        self.index.close()


@dataclass(frozen=True, slots=True)
class Bench:
    """default: built as the service builds it. plain: float32, a graph whatever is faster. raw, codes,
    coded, library: raw FAISS over the rows in the order given: a graph, int8 codes, the queries in their
    terms; hnswlib. distances: (queries, rows), squared. shares: metadata of the rows."""

    name: str
    folder: Path
    rows: Matrix
    queries: Matrix
    default: Stored
    plain: Stored
    segment: SegmentReader
    plain_segment: SegmentReader
    raw: Any
    codes: Any
    coded: Matrix
    library: Any
    distances: npt.NDArray[np.float32]
    shares: Matrix


def build(rows: int, queries: int, folder: Path, synthetic: bool) -> tuple[Bench, list[SeenRow]]:
    """Build every contender; also return what building cost, in CPU seconds, against raw FAISS."""
    data = load(rows, queries, synthetic=synthetic)
    count, dim = data.rows.shape
    random = np.random.default_rng(3)
    around = np.linalg.norm(data.rows - data.queries[0], axis=1)
    near = np.argsort(np.argsort(around)) / count
    shares = np.column_stack([random.random(count), near]).astype(np.float32)
    made, spent = {}, {}
    options = {"default": BuildOptions(), "plain": BuildOptions(engine="hnsw", storage="float32")}
    for name, option in options.items():
        made[name] = Stored(folder / name, dim).begin()
        made[name].write(range(count), data.rows, shares)
        began = time.process_time()
        made[name].seal(option)
        spent[name] = time.process_time() - began
        print(f"built {name}: {spent[name]:.1f} CPU seconds", flush=True)
    raw = faiss.IndexHNSWFlat(dim, M)
    raw.hnsw.efConstruction = EF_CONSTRUCTION
    began = time.process_time()
    raw.add(data.rows)
    theirs = time.process_time() - began
    print(f"built raw FAISS: {theirs:.1f} CPU seconds", flush=True)
    segment = made["default"].segment()
    codes = new_codes(dim, "l2")
    add_codes(codes, data.rows, "l2", segment.facts.codes.scale)
    bench = Bench(
        name=data.name,
        folder=folder,
        rows=data.rows,
        queries=data.queries,
        default=made["default"],
        plain=made["plain"],
        segment=segment,
        plain_segment=made["plain"].segment(),
        raw=raw,
        codes=codes,
        coded=encode_query(data.queries, "l2", segment.facts.codes.scale)[0],
        library=_hnswlib(data.rows),
        distances=squares(data.queries, data.rows),
        shares=shares,
    )
    bound = 1.05 if segment.facts.engine == "hnsw" else None
    note = f"{spent['default']:.1f} and {theirs:.1f} CPU s; reading the store, metadata, calibration included"
    return bench, [SeenRow("CPU of a build / raw FAISS add", spent["default"] / theirs, bound, note=note)]


def squares(queries: Matrix, rows: Matrix) -> npt.NDArray[np.float32]:
    """Exact enough squared distances of unit vectors, (queries, rows)."""
    out = queries @ rows.T
    out *= -2
    out += 2
    return out


def _hnswlib(rows: Matrix) -> Any:
    """Raw hnswlib over the same rows; None, said aloud, where the extra is missing."""
    if importlib.util.find_spec("hnswlib") is None:
        print("hnswlib is not installed: no comparison with it")
        return None
    import hnswlib

    index = hnswlib.Index("l2", rows.shape[1])
    index.init_index(len(rows), ef_construction=EF_CONSTRUCTION, M=M)
    index.add_items(rows, num_threads=2)
    return index


def recall_of(
    distances: npt.NDArray[np.float32],
    found: Sequence[Sequence[Id]],
    k: int,
    mask_of: Callable[[int], Mask] | None = None,
    numbers: Sequence[int] | None = None,
) -> float:
    """Mean share of the exact nearest k allowed rows among what was found; 1e-6 apart counts as equal.
    0 when an answer is short or holds a hidden row."""
    shares = []
    for n, ids in zip(numbers or range(len(found)), found, strict=True):
        row = distances[n]
        mask = None if mask_of is None else mask_of(n)
        left = row if mask is None else row[mask]
        wanted = min(k, len(left))
        places = np.asarray(ids, dtype=np.int64)
        if len(places) != wanted or (mask is not None and not mask[places].all()):
            return 0.0
        if wanted:
            kth = np.partition(left, wanted - 1)[wanted - 1] + 1e-6
            shares.append(np.count_nonzero(row[places] <= kth) / wanted)
    return float(np.mean(shares))
