"""What is asked of every FAISS index: write, map back, one search; with errors that say what happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from index_store import hints
from index_store.ann.port import Neighbours
from index_store.ann.rerank import Matrix
from index_store.errors import StoreDamaged, WriteFailed
from index_store.types import Metric

FaissIndex: TypeAlias = Any
"""faiss ships no types."""


def faiss_metric(metric: Metric) -> int:
    """Return the FAISS metric. Cosine is the inner product of the unit vectors that engines hold."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def open_mapped(path: Path) -> FaissIndex:
    """Map an index read-only, shared by all processes that map the same file.

    The file must never be changed in place: truncating it kills processes that search it. `add` on what this
    returns aborts the process; engines that hold it have no such method. The old flag, IO_FLAG_MMAP, does
    not share. Raises StoreDamaged.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as exc:
        raise StoreDamaged(
            f"{path.name} is not an index that this FAISS can open: {exc}", hints.rebuild(path)
        ) from exc


def write_index(index: FaissIndex, path: Path) -> None:
    """Write an index to a new file. Raises WriteFailed (disk full, no such folder)."""
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as exc:
        raise WriteFailed(f"cannot write {path}: {exc}", hints.look_at_disk(path)) from exc


def code_bytes(index: FaissIndex) -> npt.NDArray[np.uint8]:
    """Return the codes of a flat index, row after row, where they lie; the caller holds their owner."""
    flat = faiss.downcast_index(index)
    found: npt.NDArray[np.uint8] = faiss.rev_swig_ptr(flat.codes.data(), flat.ntotal * flat.code_size)
    return found


def search_one(index: FaissIndex, row: Matrix, k: int, params: FaissIndex | None) -> Neighbours:
    """Return up to k rows for one query and FAISS's own scores, best first; both arrays are the caller's.

    row: (1, dim) C-contiguous float32. Calls the native function below FAISS's Python wrapper, which spends
    5 µs on checks that were made already and on keeping every caller's options open.
    """
    found, scores = np.empty(k, np.int64), np.empty(k, np.float32)
    index.search_c(1, faiss.swig_ptr(row), k, faiss.swig_ptr(scores), faiss.swig_ptr(found), params)
    if found[-1] >= 0:
        return found, scores
    short = int(np.count_nonzero(found >= 0))
    return found[:short], scores[:short]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS search in this thread alone, as the workers do: handing one query's work to others costs
    many times the work itself where they are busy (a scan of 1.4 ms took 27)."""
    before = int(faiss.omp_get_max_threads())
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
