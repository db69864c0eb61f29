"""Every AnnIndex behaves alike: one body of tests over all engines, metrics and storages."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.faiss_files import write_index
from index_store.ann.hnsw import (
    FaissHnswIndex,
    GraphShape,
    Storage,
    grow_graph,
    new_graph,
    swap_storage,
)
from index_store.ann.port import AnnIndex
from index_store.ann.rerank import Matrix, rescore, to_engine
from index_store.ann.sq8 import ScanIndex, add_codes, measure_codes, new_codes
from index_store.ann.validation import pack_allowed
from index_store.errors import InvalidVector, StoreDamaged
from index_store.types import Metric, Vector
from tests.engines.exact import ExactIndex

DIM = 48
SEED = 20_611

Open = Callable[[Matrix, Metric, Path], AnnIndex]


def _exact(vectors: Matrix, metric: Metric, _path: Path) -> AnnIndex:
    return ExactIndex(vectors, metric)


def _scan(vectors: Matrix, metric: Metric, path: Path) -> AnnIndex:
    codes = measure_codes(vectors, metric)
    index = new_codes(DIM, metric)
    add_codes(index, vectors, metric, codes.scale)
    write_index(index, path)
    return ScanIndex.open(path, metric, codes)


def _hnsw(storage: Storage) -> Open:
    def build(vectors: Matrix, metric: Metric, path: Path) -> FaissHnswIndex:
        codes = measure_codes(vectors, metric)
        shape = GraphShape(m=8, ef_construction=80)
        graph = new_graph(DIM, metric, shape)
        grow_graph(graph, vectors, metric, shape, codes, lambda _done: None)
        write_index(swap_storage(graph, vectors, metric, storage, codes), path)
        return FaissHnswIndex.open(path, metric, storage, codes)

    return build


def _int8_of_graph(vectors: Matrix, metric: Metric, path: Path) -> AnnIndex:
    graph = _hnsw("int8")(vectors, metric, path)
    assert isinstance(graph, FaissHnswIndex)
    scan = graph.int8_scan()
    assert scan is not None
    return scan


def _hnswlib(vectors: Matrix, metric: Metric, path: Path) -> AnnIndex:
    if importlib.util.find_spec("hnswlib") is None:
        pytest.skip("the extra hnswlib is not installed")
    from tests.engines.hnswlib import HnswlibIndex, build_hnswlib

    build_hnswlib(vectors, metric, path, m=8, ef_construction=80)
    return HnswlibIndex.open(path, metric, DIM)


ENGINES: dict[str, Open] = {
    "exact": _exact,
    "scan": _scan,
    "hnsw_float32": _hnsw("float32"),
    "hnsw_bf16": _hnsw("bf16"),
    "hnsw_int8": _hnsw("int8"),
    "int8_of_graph": _int8_of_graph,
    "hnswlib": _hnswlib,
}
METRICS: tuple[Metric, ...] = ("l2", "cosine", "ip")
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_metric = pytest.mark.parametrize("metric", METRICS)


def _vectors(rows: int) -> Matrix:
    """Rows near a few centres, not of unit length, so that the three metrics disagree."""
    random = np.random.default_rng(SEED)
    centres = random.normal(size=(12, DIM))
    rows_ = centres[random.integers(0, 12, rows)] + random.normal(size=(rows, DIM)) * 0.7
    return (rows_ * random.uniform(0.6, 1.4, (rows, 1))).astype(np.float32)


def _query(number: int = 0) -> Vector:
    return (_vectors(40)[number] + 0.1).astype(np.float32)


def _nearest(vectors: Matrix, query: Vector, metric: Metric, k: int) -> set[int]:
    return set(np.argsort(rescore(query, vectors, metric), kind="stable")[:k].tolist())


@pytest.mark.long
@every_engine
@every_metric
def test_nearest_rows_come_first(engine: str, metric: Metric, tmp_path: Path) -> None:
    vectors = _vectors(1500)
    index = ENGINES[engine](vectors, metric, tmp_path / "index")
    assert index.rows == 1500
    found = 0
    for number in range(20):
        rows, distances = index.knn(_query(number), 10, allowed=None, ef=200)
        assert rows.dtype == np.int64 and distances.dtype == np.float32
        assert (np.diff(distances) >= 0).all()
        found += len(_nearest(vectors, _query(number), metric, 10) & set(rows.tolist()))
    assert found >= 186  # of 200; int8 may swap close neighbours, a wrong metric finds far fewer


@every_engine
@every_metric
def test_distances_are_in_engine_terms(engine: str, metric: Metric, tmp_path: Path) -> None:
    vectors = _vectors(300)
    index = ENGINES[engine](vectors, metric, tmp_path / "index")
    rows, distances = index.knn(_query(), 5, allowed=None, ef=100)
    exact = rescore(_query(), vectors[rows], metric)
    expected = {"l2": exact**2, "cosine": exact - 1, "ip": exact}[metric]
    assert np.allclose(distances, expected, rtol=0.05, atol=0.05)


@every_engine
def test_bitmap_decides_what_may_return(engine: str, tmp_path: Path) -> None:
    vectors = _vectors(1003)  # not a multiple of 8
    index = ENGINES[engine](vectors, "l2", tmp_path / "index")
    mask = np.random.default_rng(SEED).random(1003) < 0.5
    rows, _ = index.knn(_query(), 50, allowed=pack_allowed(mask), ef=400)
    assert len(rows) == 50 and mask[rows].all()
    rows, _ = index.knn(_query(), 10, allowed=pack_allowed(np.zeros(1003, bool)), ef=400)
    assert len(rows) == 0
    everything, _ = index.knn(_query(), 10, allowed=pack_allowed(np.ones(1003, bool)), ef=400)
    unfiltered, _ = index.knn(_query(), 10, allowed=None, ef=400)
    assert everything.tolist() == unfiltered.tolist()


@every_engine
def test_last_row_can_be_the_only_one(engine: str, tmp_path: Path) -> None:
    vectors = _vectors(201)
    index = ENGINES[engine](vectors, "l2", tmp_path / "index")
    mask = np.zeros(201, bool)
    mask[200] = True
    rows, _ = index.knn(vectors[200], 3, allowed=pack_allowed(mask), ef=201)
    assert rows.tolist() == [200]


@every_engine
def test_k_above_rows_returns_what_there_is(engine: str, tmp_path: Path) -> None:
    index = ENGINES[engine](_vectors(7), "l2", tmp_path / "index")
    rows, distances = index.knn(_query(), 50, allowed=None, ef=50)
    assert sorted(rows.tolist()) == list(range(7)) and len(distances) == 7
    assert len(index.knn(_query(), 0, allowed=None, ef=50)[0]) == 0


@every_engine
def test_empty_index_answers_nothing(engine: str, tmp_path: Path) -> None:
    index = ENGINES[engine](np.empty((0, DIM), np.float32), "l2", tmp_path / "index")
    assert index.rows == 0
    rows, distances = index.knn(_query(), 5, allowed=None, ef=50)
    assert len(rows) == len(distances) == 0


@every_engine
@pytest.mark.parametrize("bad", ["nan", "infinite", "long", "short", "huge"])
def test_bad_queries_are_refused(engine: str, bad: str, tmp_path: Path) -> None:
    index = ENGINES[engine](_vectors(50), "l2", tmp_path / "index")
    query = _query()
    if bad in ("nan", "infinite", "huge"):
        query[3] = {"nan": np.nan, "infinite": np.inf, "huge": 3e38}[bad]
    else:
        query = np.resize(query, DIM + 1 if bad == "long" else DIM - 1)
    with pytest.raises(InvalidVector):
        index.knn(query, 5, allowed=None, ef=50)
    assert len(index.knn(_query(), 5, allowed=None, ef=50)[0]) == 5


@every_engine
def test_equal_vectors_are_equally_far(engine: str, tmp_path: Path) -> None:
    some = _vectors(100)
    vectors = np.concatenate([some, np.repeat(some[:1], 5, axis=0)])
    index = ENGINES[engine](vectors, "l2", tmp_path / "index")
    rows, distances = index.knn(vectors[0], 6, allowed=None, ef=105)
    assert set(rows.tolist()) == {0, 100, 101, 102, 103, 104}
    assert (distances == distances[0]).all()


@every_engine
def test_queries_outside_the_rows_range_still_order_rows(engine: str, tmp_path: Path) -> None:
    vectors = _vectors(400)
    index = ENGINES[engine](vectors, "ip", tmp_path / "index")
    rows, _ = index.knn(vectors[5] * 50, 10, allowed=None, ef=300)
    assert len(set(rows.tolist()) & _nearest(vectors, vectors[5], "ip", 10)) >= 9


@pytest.mark.long
@every_engine
def test_threads_get_the_answers_that_one_thread_gets(engine: str, tmp_path: Path) -> None:
    index = ENGINES[engine](_vectors(800), "l2", tmp_path / "index")
    masks = [pack_allowed(np.random.default_rng(n).random(800) < 0.6) for n in range(4)]

    def ask(number: int) -> list[int]:
        allowed = None if number % 2 else masks[number % 4]
        ef = 40 + number % 7
        return index.knn(_query(number % 40), 10, allowed=allowed, ef=ef)[0].tolist()

    alone = [ask(n) for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(200))) == alone


@pytest.mark.parametrize("engine", ["scan", "hnsw_float32", "hnsw_bf16", "hnsw_int8", "hnswlib"])
def test_files_that_are_no_index_are_refused(engine: str, tmp_path: Path) -> None:
    """Cut files only: other damage is caught by the manifest above, before any engine sees a byte."""
    path = tmp_path / "index"
    ENGINES[engine](_vectors(300), "l2", path).close()
    content = path.read_bytes()
    cut = tmp_path / "cut"
    for keep in (0, 1, len(content) // 2):
        cut.write_bytes(content[:keep])
        with pytest.raises(StoreDamaged):
            _open_again(engine, cut)


def _open_again(engine: str, path: Path) -> AnnIndex:
    codes = measure_codes(_vectors(300), "l2")
    if engine == "hnswlib":
        from tests.engines.hnswlib import HnswlibIndex

        return HnswlibIndex.open(path, "l2", DIM)
    if engine == "scan":
        return ScanIndex.open(path, "l2", codes)
    storage: dict[str, Storage] = {"hnsw_float32": "float32", "hnsw_bf16": "bf16", "hnsw_int8": "int8"}
    return FaissHnswIndex.open(path, "l2", storage[engine], codes)


@every_metric
def test_scan_bounds_hold_for_every_row(metric: Metric, tmp_path: Path) -> None:
    """The proof of exactness rests on it: no row's scan distance is off by more than the bound."""
    vectors = _vectors(2000)
    scan = _scan(vectors, metric, tmp_path / "codes")
    assert isinstance(scan, ScanIndex)
    for number in range(20):
        query = _query(number)
        rows, found = scan.knn(query, 2000, allowed=None, ef=0)
        exact = to_engine(rescore(query, vectors[rows], metric), metric)
        sure = scan.error_bound(query, proven=True)
        likely = scan.error_bound(query, proven=False)
        assert likely <= sure
        assert all(f <= scan.reach(float(e), sure) for f, e in zip(found, exact, strict=True))
        assert all(e <= scan.reach(float(f), sure) for f, e in zip(found, exact, strict=True))
        beyond = sum(f > scan.reach(float(e), likely) for f, e in zip(found, exact, strict=True))
        assert beyond <= 2
