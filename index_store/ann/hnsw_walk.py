"""The walk of an HNSW graph over the arrays of a FAISS index: same links, same nearest, less waiting.

Malkov and Yashunin (arXiv 1603.09320), algorithms 2 and 5: down the upper layers greedily, then best first
through the lowest one, the `ef` nearest kept. FAISS waits for each vector; here the next ones are asked for
while one is compared (docs/decisions/0035).
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from index_store.ann.compiled.kernels import LINKS_MAX, Codes, walk
from index_store.ann.faiss_files import FaissIndex, code_bytes
from index_store.ann.port import Neighbours

_TYPES = {4: np.float32, 2: np.uint16, 1: np.uint8}


@dataclass(frozen=True, slots=True)
class Graph:
    """A FAISS HNSW index of at least one row, as arrays where they lie in its memory or file. Immutable: any
    thread may walk it.

    index: their owner. flat: the bytes of `codes`. starts: where a row's links begin in `links`. levels:
    where those of each level begin among them."""

    index: FaissIndex
    codes: Codes
    flat: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.uint64]
    links: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int64]
    entry: int
    top: int

    def walk(self, query: Codes, is_l2: bool, ef: int) -> Neighbours:
        """Return the rows and distances of the `ef` nearest that the links lead to, by (distance, row).

        query: (dim,) float32; for int8 codes int16, 128 added as to them. Distances: l2 squared, else minus
        the product."""
        found: Neighbours = walk(
            self.codes, self.flat, self.starts, self.links, self.levels, self.entry, self.top,
            query, is_l2, ef,
        )  # fmt: skip
        return found


def graph_of(index: FaissIndex) -> Graph:
    """index: an IndexHNSW that does not grow any more."""
    hnsw, flat = index.hnsw, code_bytes(index.storage)
    rows, dim = int(index.ntotal), int(index.d)
    starts = faiss.rev_swig_ptr(hnsw.offsets.data(), rows + 1)
    levels = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    assert levels[1] <= LINKS_MAX, f"{levels[1]} links a row"
    return Graph(
        index=index,
        codes=flat.view(_TYPES[len(flat) // (rows * dim)]).reshape(rows, dim),
        flat=flat,
        starts=starts,
        links=faiss.rev_swig_ptr(hnsw.neighbors.data(), int(starts[-1])),
        levels=levels,
        entry=int(hnsw.entry_point),
        top=int(hnsw.max_level),
    )
