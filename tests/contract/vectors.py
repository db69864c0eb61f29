"""Collections, vectors and short calls that the `VectorIndex` contract tests share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from index_store.port import BatchSearch, DimSource, SeqSource, VectorIndex
from index_store.types import CollectionSpec, ItemWrite, SearchRequest, Vector, WriteBatch

DIM = 8
SEED = 20_240_611
SPECS = [
    CollectionSpec("numbers", "int64", DIM, "l2"),
    CollectionSpec("names", "string", DIM, "cosine"),
    CollectionSpec("inner", "int64", DIM, "ip"),
]


class AnyIndex(VectorIndex, BatchSearch, SeqSource, DimSource, Protocol):
    """What the service needs of an index."""


def begin_all(index: VectorIndex) -> None:
    for spec in SPECS:
        index.advance(spec.name, "begin", "v1")


def vectors(count: int, seed: int = SEED) -> Vector:
    found: Vector = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return found


def put(index: VectorIndex, items: list[ItemWrite], collection: str = "numbers", version: str = "v1") -> int:
    return index.write(collection, WriteBatch(items, embedding_version=version)).seq


def fill(index: VectorIndex, count: int, collection: str = "numbers") -> Vector:
    data = vectors(count)
    names = collection == "names"
    put(
        index,
        [
            ItemWrite(f"n{i:04}" if names else i, data[i], metadata={"n": i, "even": i % 2 == 0})
            for i in range(count)
        ],
        collection,
    )
    return data


def find(
    index: VectorIndex, query: Vector, k: int = 5, collection: str = "numbers", **more: Any
) -> list[Any]:
    return [hit.id for hit in index.search(collection, [SearchRequest(query, k, **more)])[0].hits]
