"""A sealed segment against brute force, with hidden rows, ties, both id kinds; and against damage."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.hnsw import Storage
from index_store.ann.rerank import Matrix, rescore, select
from index_store.ann.validation import pack_allowed
from index_store.errors import StoreDamaged
from index_store.segment.builder import BuildOptions, RowChunk, build_segment
from index_store.segment.info import SegmentIdentity
from index_store.segment.reader import SegmentReader
from index_store.storage.sealed_directory import new_directory, publish
from index_store.types import Metric
from item_rules.ids import IdKind

SEED = 4711
DIM = 32
GRAPH = BuildOptions(engine="hnsw", queries=64, seed=SEED)
SCAN = BuildOptions(engine="scan", seed=SEED)


def _identity(metric: Metric = "l2", id_kind: IdKind = "int64", dim: int = DIM) -> SegmentIdentity:
    return SegmentIdentity("store", "v1", id_kind, dim, metric, seq=77, model="test")


def _vectors(rows: int) -> Matrix:
    random = np.random.default_rng(SEED)
    latent = random.normal(size=(rows, 8)) @ random.normal(size=(8, DIM))
    return (latent + 0.3 * random.normal(size=(rows, DIM))).astype(np.float32)


def _ids(rows: int, kind: IdKind = "int64") -> list[int] | list[str]:
    numbers = (np.random.default_rng(SEED).permutation(rows) * 5).tolist()
    return numbers if kind == "int64" else [f"상품-{n}" for n in numbers]


def _build(
    parent: Path, vectors: Matrix, options: BuildOptions, metric: Metric = "l2", kind: IdKind = "int64"
) -> Path:
    ids = _ids(len(vectors), kind)
    cut = len(vectors) // 3
    chunks = [
        RowChunk(ids[a:b], np.arange(a, b) + 1, vectors[a:b]) for a, b in ((0, cut), (cut, len(vectors)))
    ]
    directory = new_directory(parent, "segment")
    build_segment(directory, _identity(metric, kind), chunks, options, time.perf_counter)
    publish(directory, parent / "segment")
    return parent / "segment"


def _brute(
    vectors: Matrix, ids: list[int] | list[str], query: Matrix, metric: Metric, k: int
) -> list[object]:
    array = np.array(ids, dtype=np.int64 if isinstance(ids[0], int) else object)
    return array[select(rescore(query, vectors, metric), array, k)].tolist()


@pytest.mark.parametrize("options", [SCAN, GRAPH], ids=["scan", "graph"])
@pytest.mark.parametrize("kind", ["int64", "string"])
def test_rows_keep_their_id_seq_and_vector(tmp_path: Path, options: BuildOptions, kind: IdKind) -> None:
    vectors, ids = _vectors(1300), _ids(1300, kind)
    segment = SegmentReader.open(_build(tmp_path, vectors, options, kind=kind))
    rows = segment.rows_of(ids)
    assert sorted(rows.tolist()) == list(range(1300))
    assert segment.ids_of(rows).tolist() == ids
    assert (segment.vectors[rows] == vectors).all()
    assert segment.seqs[rows].tolist() == list(range(1, 1301))
    assert segment.facts.identity.seq == 77


@pytest.mark.long
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.05])
def test_exact_search_is_brute_force(tmp_path: Path, metric: Metric, share: float) -> None:
    vectors, ids = _vectors(3000), _ids(3000)
    segment = SegmentReader.open(_build(tmp_path, vectors, GRAPH, metric))
    random = np.random.default_rng(SEED)
    for n in range(15):
        query = (vectors[n] + random.normal(size=DIM) * 0.5).astype(np.float32)
        kept = random.random(3000) < share
        mask = np.zeros(3000, bool)
        mask[segment.rows_of(np.array(ids)[kept])] = True
        rows, distances = segment.candidates(query, 25, pack_allowed(mask), exact=True)
        assert segment.ids_of(rows).tolist() == _brute(
            vectors[kept], np.array(ids)[kept].tolist(), query, metric, 25
        )
        assert distances.tolist() == np.sort(rescore(query, vectors[kept], metric))[:25].tolist()


@pytest.mark.long
@pytest.mark.parametrize("options", [SCAN, GRAPH], ids=["scan", "graph"])
def test_never_short_and_never_hidden(tmp_path: Path, options: BuildOptions) -> None:
    """Whatever is hidden, at random or the nearest ones: min(k, allowed) rows, each allowed, each once."""
    vectors = _vectors(4000)
    segment = SegmentReader.open(_build(tmp_path, vectors, options))
    random = np.random.default_rng(SEED)
    for n in range(60):
        query = (vectors[n * 3] + random.normal(size=DIM) * 0.3).astype(np.float32)
        order = np.argsort(rescore(query, segment.vectors, "l2"))
        mask = random.random(4000) < random.choice([0.001, 0.02, 0.3, 0.9, 1.0])
        mask[order[: random.choice([0, 5, 100, 1500, 3990, 4000])]] = False
        k = int(random.choice([1, 10, 25, 300, 5000]))
        rows, distances = segment.candidates(query, k, pack_allowed(mask))
        assert len(rows) == len(set(rows.tolist())) == min(k, int(mask.sum()))
        assert mask[rows].all() and (np.diff(distances) >= 0).all()


@pytest.mark.long
@pytest.mark.parametrize("options", [SCAN, GRAPH], ids=["scan", "graph"])
@pytest.mark.parametrize("kind", ["int64", "string"])
def test_equal_vectors_come_by_id(tmp_path: Path, options: BuildOptions, kind: IdKind) -> None:
    vectors = _vectors(2000)
    vectors[500:900] = vectors[500]  # one product name, 400 ids
    ids = _ids(2000, kind)
    segment = SegmentReader.open(_build(tmp_path, vectors, options, kind=kind))
    rows, distances = segment.candidates(vectors[500], 30, None)
    assert segment.ids_of(rows).tolist() == sorted(ids[500:900])[:30]
    assert (distances == 0).all()


def test_an_empty_segment_and_a_single_row(tmp_path: Path) -> None:
    empty = SegmentReader.open(_build(tmp_path, _vectors(0), SCAN))
    assert len(empty.candidates(_vectors(1)[0], 5, None)[0]) == 0
    assert empty.rows_of([1, 2]).tolist() == [-1, -1]
    (tmp_path / "one").mkdir()
    one = SegmentReader.open(_build(tmp_path / "one", _vectors(1), SCAN))
    assert one.candidates(_vectors(1)[0], 5, None)[0].tolist() == [0]


@pytest.mark.parametrize("bad", ["repeated", "nan", "shape"])
def test_rows_that_cannot_be_are_refused(tmp_path: Path, bad: str) -> None:
    vectors, ids = _vectors(20), list(range(20))
    if bad == "repeated":
        ids[3] = 4
    elif bad == "nan":
        vectors[2, 2] = np.nan
    else:
        vectors = vectors[:, :-1]
    with pytest.raises(ValueError):
        build_segment(tmp_path, _identity(), [RowChunk(ids, np.arange(20), vectors)], SCAN, time.perf_counter)


@pytest.mark.long
@pytest.mark.parametrize("options", [SCAN, GRAPH], ids=["scan", "graph"])
def test_damaged_files_are_refused_before_they_are_mapped(tmp_path: Path, options: BuildOptions) -> None:
    directory = _build(tmp_path, _vectors(600), options)
    random = np.random.default_rng(SEED)
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        for place in random.integers(0, len(content), 25):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            with pytest.raises(StoreDamaged):
                SegmentReader.open(directory)
        for length in (0, 1, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(StoreDamaged):
                SegmentReader.open(directory)
        path.write_bytes(content)
    SegmentReader.open(directory)


def test_a_verified_manifest_spares_reading_the_files_but_no_other(tmp_path: Path) -> None:
    directory = _build(tmp_path, _vectors(300), SCAN)
    sha256 = SegmentReader.open(directory).sha256
    assert SegmentReader.open(directory, sha256).rows == 300
    path = directory / "vectors.f32"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StoreDamaged):
        SegmentReader.open(directory, "another checksum")


@pytest.mark.long
def test_a_segment_goes_on_serving_after_its_directory_is_gone(tmp_path: Path) -> None:
    directory = _build(tmp_path, _vectors(900), GRAPH)
    segment = SegmentReader.open(directory)
    before = segment.candidates(_vectors(900)[5], 10, None)[0].tolist()
    for path in directory.iterdir():
        path.unlink()
    assert segment.candidates(_vectors(900)[5], 10, None)[0].tolist() == before


@pytest.mark.long
def test_threads_get_the_answers_that_one_thread_gets(tmp_path: Path) -> None:
    vectors = _vectors(3000)
    segment = SegmentReader.open(_build(tmp_path, vectors, GRAPH))
    masks = [None, *(pack_allowed(np.random.default_rng(n).random(3000) < 0.9) for n in range(3))]

    def ask(n: int) -> list[int]:
        return segment.candidates(vectors[n], 10 + n % 20, masks[n % 4])[0].tolist()

    alone = [ask(n) for n in range(300)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(300))) == alone


@pytest.mark.long
def test_engines_that_take_equal_time_give_the_scan_which_is_exact(tmp_path: Path) -> None:
    ticks = iter(range(10**9))
    options = BuildOptions(graph_rows_min=100, queries=32, seed=SEED)
    directory = new_directory(tmp_path, "s")
    rows = RowChunk(_ids(1200), np.arange(1200), _vectors(1200))
    build_segment(directory, _identity(), [rows], options, lambda: float(next(ticks)))
    facts = SegmentReader.open(directory).facts
    assert facts.engine == "scan" and facts.storage is None
    assert not (directory / "graph.faiss").exists()


@pytest.mark.long
@pytest.mark.parametrize("storage", ["float32", "bf16", "int8"])
def test_a_wanted_storage_is_built_and_calibrated(tmp_path: Path, storage: Storage) -> None:
    options = BuildOptions(engine="hnsw", storage=storage, queries=64, seed=SEED)
    facts = SegmentReader.open(_build(tmp_path, _vectors(2000), options)).facts
    assert facts.storage == storage
    assert facts.calibration.points[-1].recall[0] >= 0.99
    table = facts.calibration.ef_table(0.99)
    assert (table.ef_for(10) or 0) >= 10 and (table.ef_for(25) or 0) >= 25
