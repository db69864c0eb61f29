"""Our walk of a FAISS graph finds what FAISS's own finds: same links, same breadth."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from index_store.ann.compiled import exact_kernels, kernels
from index_store.ann.faiss_files import FaissIndex, open_mapped, search_one, write_index
from index_store.ann.hnsw import GraphShape, Storage, grow_graph, new_graph, swap_storage
from index_store.ann.hnsw_walk import graph_of
from index_store.ann.rerank import engine_vectors
from index_store.ann.sq8 import encode_query, measure_codes
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.worker import Maintenance
from index_store.types import CollectionSpec, ItemWrite, Metric, SearchRequest, WriteBatch

SEED = 3_141
DIM = 40
EF = 48


def build(count: int, metric: Metric, storage: Storage, path: Path) -> tuple[FaissIndex, float]:
    """A mapped graph over clustered rows, some of them twice, and the scale of its codes."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((max(1, count // 20), DIM))
    rows = centres[random.integers(len(centres), size=count)] + 0.3 * random.standard_normal((count, DIM))
    rows[count // 2 : count // 2 + count // 50] = rows[: count // 50]
    vectors = rows.astype(np.float32)
    codes = measure_codes(vectors, metric)
    shape = GraphShape(m=8, ef_construction=60)
    graph = new_graph(DIM, metric, shape)
    grow_graph(graph, vectors, metric, shape, codes, lambda _done: None)
    write_index(swap_storage(graph, vectors, metric, storage, codes), path)
    return open_mapped(path), codes.scale


@pytest.mark.long
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("storage", ["float32", "bf16", "int8"])
def test_finds_the_rows_that_faiss_finds(tmp_path: Path, metric: Metric, storage: Storage) -> None:
    print(f"seed {SEED}")
    index, scale = build(3_000, metric, storage, tmp_path / "graph")
    graph, params = graph_of(index), faiss.SearchParametersHNSW(efSearch=EF)
    same = 0
    for query in np.random.default_rng(SEED + 1).standard_normal((100, DIM)).astype(np.float32):
        row = engine_vectors(query[None, :], metric)
        if storage == "int8":
            row, _ = encode_query(row, metric, scale)
        theirs, scores = search_one(index, row, 10, params)
        asked = (row[0] + 128).astype(np.int16) if storage == "int8" else row[0]
        rows, distances = graph.walk(asked, metric == "l2", EF)
        assert len(rows) == len(set(rows.tolist())) == EF
        assert (np.diff(distances) >= 0).all()
        ours = dict(zip(rows.tolist(), distances.tolist(), strict=True))
        both = [row for row in theirs.tolist() if row in ours]
        np.testing.assert_allclose(
            [ours[row] for row in both],
            [
                score if metric == "l2" else -score
                for row, score in zip(theirs, scores, strict=True)
                if row in ours
            ],
            rtol=1e-4,
            atol=1e-4,
        )
        same += len(set(theirs.tolist()) & set(rows[:10].tolist()))
    # Where distances tie at the end of the pool, the two go on from different rows.
    assert same >= 980, f"{same} of 1,000"


def test_equal_distances_come_in_the_order_of_rows(tmp_path: Path) -> None:
    index, _ = build(1_000, "l2", "float32", tmp_path / "graph")
    rows, distances = graph_of(index).walk(graph_of(index).codes[3].copy(), True, EF)
    assert rows[:2].tolist() == [3, 503]
    assert distances[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_graph_of_fewer_rows_than_asked_for_gives_them_all(tmp_path: Path, count: int) -> None:
    index, _ = build(count, "l2", "float32", tmp_path / "graph")
    rows, _ = graph_of(index).walk(np.zeros(DIM, np.float32), True, EF)
    assert sorted(rows.tolist()) == list(range(count))


def test_negative_and_positive_products_sort_together(tmp_path: Path) -> None:
    index, _ = build(2_000, "ip", "float32", tmp_path / "graph")
    graph = graph_of(index)
    query = graph.codes[7].copy()
    rows, distances = graph.walk(query, False, 2_000)
    assert distances[0] < 0 < distances[-1]
    np.testing.assert_allclose(distances, -(graph.codes[rows] @ query), rtol=1e-4, atol=1e-3)


def test_no_search_waits_for_a_compiler(tmp_path: Path) -> None:
    """Arrays that can't be written to, such as a request's bytes, find their machine code made."""
    kernels.warm()
    exact_kernels.warm()
    known = [
        len(kernel.signatures)
        for kernel in (kernels.walk, kernels.scan, exact_kernels.find, exact_kernels.scores)
    ]
    spec = CollectionSpec("items", "int64", DIM, "l2")
    rows = np.random.default_rng(SEED).standard_normal((4_000, DIM)).astype(np.float32)
    index = EmbeddedIndex(tmp_path, [spec])
    index.open()
    index.advance("items", "begin", "v1")
    items = [ItemWrite(n, row, active=True) for n, row in enumerate(rows)]
    index.write("items", WriteBatch(items=items, embedding_version="v1"))
    Maintenance(tmp_path).rebuild()
    index.close()
    index.open()
    index.write("items", WriteBatch(items=[ItemWrite(7, rows[8], active=True)], embedding_version="v1"))
    query = np.frombuffer(rows[5].tobytes(), np.float32)
    excluded = np.frombuffer(np.arange(300).tobytes(), np.int64)
    for asked in (
        SearchRequest(query, 10),
        SearchRequest(query, 10, exclude_ids=excluded),
        SearchRequest(query, 10, exclude_ids=excluded, exact=True),
        SearchRequest(query, 300, exact=True),
        SearchRequest(query, 10, filter={"colour": {"$exists": False}}),
    ):
        assert len(index.search("items", [asked])[0].hits) == asked.k
    index.close()
    assert known == [
        len(kernel.signatures)
        for kernel in (kernels.walk, kernels.scan, exact_kernels.find, exact_kernels.scores)
    ]
