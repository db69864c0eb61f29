"""A prepared directory of sealed vectors, services over it, and the raw hnswlib they are compared with."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
import numpy.typing as npt

from benchmarks.http_load import one_by_one, post
from benchmarks.http_server import Server, serving
from benchmarks.processes import free_port
from benchmarks.vectors import Dataset
from index_store.ann.rerank import Matrix
from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.worker import Maintenance
from index_store.types import CollectionSpec, ItemWrite, WriteBatch
from service.embedding.catalog.loader import version_of

K = 10
RECALL_MIN = 0.99
MODELS_DIR = Path(".models")
E5 = "builtin:multilingual-e5-small"
_BATCH = 5000
_COLLECTION = """
[collections.bench]
id_field = "id"
dim = {dim}
model = "{model}"
"""
ExactNeighbours = npt.NDArray[np.int64]


def text_model() -> str:
    """The real model where it is built; n-grams cost next to nothing and would make text queries too easy."""
    is_built = any(MODELS_DIR.glob("*multilingual-e5-small*/manifest.json"))
    print("text model: " + (E5 if is_built else "builtin:hashed-ngrams (the real one is not built)"))
    return E5 if is_built else "builtin:hashed-ngrams"


def search_body(vector: npt.NDArray[np.float32]) -> bytes:
    encoded = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return json.dumps({"vector": encoded, "top_k": K}).encode()


def requests_of(data: Dataset) -> list[bytes]:
    return [post("/v1/search", search_body(query)) for query in data.queries]


def prepare(folder: Path, data: Dataset, model: str) -> None:
    """Write all rows under the model's version and seal them, as the service and its maintenance would."""
    dim = data.rows.shape[1]
    (folder / "collections.toml").write_text(_COLLECTION.format(dim=dim, model=model))
    version = version_of(model, MODELS_DIR, modality="text", dim=dim)
    index = EmbeddedIndex(folder / "data", [CollectionSpec("bench", "int64", dim, "l2")])
    index.open()
    began = time.perf_counter()
    index.advance("bench", "begin", version)
    for start in range(0, len(data.rows), _BATCH):
        items = [ItemWrite(start + place, row) for place, row in enumerate(data.rows[start : start + _BATCH])]
        index.write("bench", WriteBatch(items, embedding_version=version))
    index.close()
    written = time.perf_counter()
    if not Maintenance(folder / "data").rebuild():
        raise AssertionError("nothing was sealed")
    sealed = time.perf_counter()
    print(f"{len(data.rows)} rows written in {written - began:.0f} s, sealed in {sealed - written:.0f} s")


@contextmanager
def services(folder: Path, first: bytes, workers: Sequence[int]) -> Iterator[list[Server]]:
    """One service for each number of workers, all over the prepared directory."""
    with ExitStack() as stack:
        yield [stack.enter_context(_service(folder, first, count)) for count in workers]


@contextmanager
def _service(folder: Path, first: bytes, workers: int) -> Iterator[Server]:
    port = free_port()
    environ = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "KEYLESS_WRITES": "loopback",
        "DATA_DIR": str(folder / "data"),
        "COLLECTIONS_FILE": str(folder / "collections.toml"),
        "MODELS_DIR": str(MODELS_DIR.absolute()),
        "WORKERS": str(workers),
        "MAINTENANCE": "off",  # the rows are sealed; a build in between would hit one contender alone
    }
    with serving("service", [], environ, port, folder / f"service-{workers}.log", first) as server:
        for _ in one_by_one(port, [first] * 50):
            pass
        yield server


@dataclass(frozen=True, slots=True)
class Raw:
    """hnswlib in this process, one thread, at the least ef that reaches a recall."""

    index: hnswlib.Index
    ef: int
    recall: float

    def nearest(self, query: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
        labels: npt.NDArray[np.uint64] = self.index.knn_query(query, k=K, num_threads=1)[0][0]
        return labels


def build_raw(data: Dataset) -> hnswlib.Index:
    began = time.perf_counter()
    index = hnswlib.Index(space="l2", dim=data.rows.shape[1])
    index.init_index(max_elements=len(data.rows), M=16, ef_construction=200, random_seed=5)
    index.add_items(data.rows, np.arange(len(data.rows)))
    print(f"raw hnswlib built in {time.perf_counter() - began:.0f} s")
    return index


def tuned(index: hnswlib.Index, data: Dataset, truth: ExactNeighbours, recall_min: float) -> Raw:
    for ef in (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 200, 256, 320, 400, 512):
        index.set_ef(ef)
        found = index.knn_query(data.queries, k=K, num_threads=1)[0]
        recall = recall_of(found.astype(np.int64), truth)
        if recall >= recall_min:
            break
    return Raw(index, ef, recall)


def exact(data: Dataset) -> ExactNeighbours:
    """(queries, K) rows by exact comparison of unit vectors."""
    found = np.empty((len(data.queries), K), dtype=np.int64)
    for start in range(0, len(data.queries), 200):
        close: Matrix = data.queries[start : start + 200] @ data.rows.T
        top = np.argpartition(-close, K, axis=1)[:, :K]
        found[start : start + 200] = top
    return found


def recall_of(found: npt.NDArray[np.int64], truth: ExactNeighbours) -> float:
    shared = [len(set(mine) & set(true)) for mine, true in zip(found.tolist(), truth.tolist(), strict=True)]
    return float(np.mean(shared)) / K


def recall_over_the_wire(server: Server, requests: Sequence[bytes], truth: ExactNeighbours) -> float:
    found = [
        [hit["id"] for hit in json.loads(body)["results"]] for _, body in one_by_one(server.port, requests)
    ]
    return recall_of(np.array(found), truth)
