"""The exact answer, a sealed index's answer, and tables, for bench_quality."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from index_store.engine.index import EmbeddedIndex
from index_store.maintenance.worker import Maintenance
from index_store.types import CollectionSpec, ItemWrite, SearchRequest, WriteBatch
from service.app.report.ranking_metrics import interval_of_means

K = 10
OFF_MAX = 0.005
"""How far a figure of the index's answers may be from that of the exact ones."""
Rows: TypeAlias = list[dict[str, Any]]
Vectors: TypeAlias = npt.NDArray[np.float32]
Places: TypeAlias = npt.NDArray[np.int64]


def nearest(queries: Vectors, base: Vectors) -> Places:
    """Return the K nearest of `base`, as places in it."""
    return np.argsort(-(queries @ base.T), axis=1, kind="stable")[:, :K]


def by_index(queries: Vectors, base: Vectors) -> Places:
    """Return what a sealed index over `base` answers, as places in it."""
    spec = CollectionSpec("bench", "int64", base.shape[1], "cosine")
    items = [ItemWrite(place, row) for place, row in enumerate(base)]
    with sealed_index(spec, "quality", items) as index:
        found = index.search(spec.name, [SearchRequest(vector=query, k=K) for query in queries])
    return np.array([[hit.id for hit in each.hits] for each in found])


@contextmanager
def sealed_index(spec: CollectionSpec, version: str, items: Sequence[ItemWrite]) -> Iterator[EmbeddedIndex]:
    """Open an index of one collection in which all `items` are sealed; it is gone after the block.
    version: the embedding version of the items."""
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), [spec])
        index.open()
        index.advance(spec.name, "begin", version)
        index.write(spec.name, WriteBatch(items, embedding_version=version))
        index.close()
        if Maintenance(Path(folder)).rebuild() is None:
            raise AssertionError("nothing was sealed")
        index = EmbeddedIndex(Path(folder), [spec])
        index.open()
        try:
            yield index
        finally:
            index.close()


def worst_off(differences: Iterable[float]) -> float:
    return float(np.abs(np.fromiter(differences, np.float64)).max())


def with_interval(values: npt.NDArray[Any], *, signed: bool = False) -> str:
    """Return the mean of `values`, with where 95 % of the means of drawn samples lie."""
    found = values.astype(np.float64)
    low, high = interval_of_means(found[:, None])[:, 0]
    sign = "+" if signed else ""
    return f"{found.mean():{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
