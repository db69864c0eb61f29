"""The walk of an HNSW graph over the arrays of a FAISS index: same links, same nearest, less waiting.

Malkov and Yashunin (arXiv 1603.09320), algorithms 2 and 5: down the upper layers greedily, then best first
through the lowest one, the `ef` nearest kept. FAISS waits for each vector; here the next ones are asked for
while one is compared (docs/decisions/0035).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import faiss
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from index_store.ann.compiled import LINE_BYTES, compiled, fetch
from index_store.ann.faiss_files import FaissIndex
from index_store.ann.port import Neighbours

Codes: TypeAlias = npt.NDArray[Any]
"""(rows, dim): float32, bf16 in uint16, or int8 + 128 in uint8."""

_TYPES = {4: np.float32, 2: np.uint16, 1: np.uint8}
_LINKS_MAX = 256

_ROWS_AHEAD = 8
_BYTES_AHEAD = 6144
"""How many vectors are asked for ahead: the best of 2, 4 and 8, for 384 bytes a row and for 1,536."""

# A place in the pool is one number, so that one comparison sorts: distance in 32 bits, row in 31, and whether
# its links were followed in the last.
_FOLLOWED = np.uint64(1)
_ROW = np.uint64(0xFFFFFFFE)
_NOTHING = np.uint64(0)
_FARTHEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIGN = np.uint64(0x80000000)
_WORD = np.uint64(0xFFFFFFFF)


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

    def nearest(self, query: Codes, is_l2: bool, ef: int) -> Neighbours:
        """Return the rows and distances of the `ef` nearest that the links lead to, by (distance, row).

        query: (dim,), as the codes are (bf16: float32). Distances: l2 squared, else minus the product."""
        found: Neighbours = _walk(
            self.codes, self.flat, self.starts, self.links, self.levels, self.entry, self.top,
            query, is_l2, ef,
        )  # fmt: skip
        return found


def graph_of(index: FaissIndex) -> Graph:
    """index: an IndexHNSW that does not grow any more."""
    hnsw, storage = index.hnsw, faiss.downcast_index(index.storage)
    rows, dim, size = int(index.ntotal), int(index.d), int(storage.code_size)
    flat = faiss.rev_swig_ptr(storage.codes.data(), rows * size)
    starts = faiss.rev_swig_ptr(hnsw.offsets.data(), rows + 1)
    levels = faiss.vector_to_array(hnsw.cum_nneighbor_per_level).astype(np.int64)
    assert levels[1] <= _LINKS_MAX, f"{levels[1]} links a row"
    return Graph(
        index=index,
        codes=flat.view(_TYPES[size // dim]).reshape(rows, dim),
        flat=flat,
        starts=starts,
        links=faiss.rev_swig_ptr(hnsw.neighbors.data(), int(starts[-1])),
        levels=levels,
        entry=int(hnsw.entry_point),
        top=int(hnsw.max_level),
    )


def warm() -> None:
    """Compile, or read from disk, all that a walk may need: seconds the first time on a machine."""
    starts, links, levels = np.array([0, 2], np.uint64), np.full(2, -1, np.int32), np.array([0, 2])
    for kind in _TYPES.values():
        codes = np.ones((1, 4), kind)
        query = codes[0].astype(np.float32) if kind == np.uint16 else codes[0]
        flat = codes.reshape(-1).view(np.uint8)
        Graph(None, codes, flat, starts, links, levels, 0, 0).nearest(query, True, 1)


def _distance(codes: Codes, row: np.uint64, query: Codes, is_l2: bool) -> np.float32:
    """The distance of a row: l2 squared, else minus the product."""
    raise NotImplementedError("compiled code only")


@overload(_distance, inline="never", jit_options={"fastmath": {"reassoc", "nsz", "contract"}})  # type: ignore[untyped-decorator]
def _distance_of(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:  # noqa: ARG001
    def of_int8(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:
        total = np.int32(0)
        if is_l2:
            for i in range(query.shape[0]):
                apart = np.int32(codes[row, i]) - np.int32(query[i])
                total += apart * apart
            return np.float32(total)
        for i in range(query.shape[0]):
            total += (np.int32(codes[row, i]) - np.int32(128)) * (np.int32(query[i]) - np.int32(128))
        return np.float32(-total)

    def of_bf16(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:
        total = np.float32(0)
        if is_l2:
            for i in range(query.shape[0]):
                apart = np.uint32(np.uint32(codes[row, i]) << np.uint32(16)).view(np.float32) - query[i]
                total += apart * apart
            return total
        for i in range(query.shape[0]):
            total += np.uint32(np.uint32(codes[row, i]) << np.uint32(16)).view(np.float32) * query[i]
        return -total

    def of_float32(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:
        total = np.float32(0)
        if is_l2:
            for i in range(query.shape[0]):
                apart = codes[row, i] - query[i]
                total += apart * apart
            return total
        for i in range(query.shape[0]):
            total += codes[row, i] * query[i]
        return -total

    return {types.uint8: of_int8, types.uint16: of_bf16}.get(codes.dtype, of_float32)


@compiled
def _key(distance: Any, row: Any) -> Any:
    """Distance and row as one number that sorts as they do."""
    bits = np.uint64(np.float32(distance).view(np.uint32))
    bits ^= _WORD if bits & _SIGN else _SIGN
    return (bits << np.uint64(32)) | (row << np.uint64(1))


@compiled
def _row_of(key: Any) -> Any:
    return (key & _ROW) >> np.uint64(1)


@compiled
def _distance_in(key: Any) -> Any:
    bits = key >> np.uint64(32)
    return np.uint32(bits ^ (_SIGN if bits & _SIGN else _WORD)).view(np.float32)


@compiled
def _descend(
    codes: Any, starts: Any, links: Any, levels: Any, entry: Any, top: Any, query: Any, is_l2: Any
) -> Any:
    """The row of the lowest layer to begin at."""
    row = np.uint64(entry)
    nearest = _distance(codes, row, query, is_l2)
    for level in range(top, 0, -1):
        is_moving = True
        while is_moving:
            is_moving = False
            start = np.int64(starts[row])
            best = row
            for place in range(start + levels[level], start + levels[level + 1]):
                link = links[place]
                if link < 0:
                    break
                found = _distance(codes, np.uint64(link), query, is_l2)
                if found < nearest:
                    nearest, best, is_moving = found, np.uint64(link), True
            row = best
    return row


@compiled
def _fetch_row(flat: Any, row: Any, row_bytes: Any) -> None:
    start = np.int64(row) * row_bytes
    for at in range(start, start + row_bytes, LINE_BYTES):
        fetch(flat, at)


@compiled
def _fetch_links(pool: Any, at: Any, size: Any, starts: Any, links: Any, degree: Any) -> None:
    """Ask for the links of the nearest candidate from `at` on."""
    while at < size and pool[at] & _FOLLOWED:
        at += 1
    if at < size:
        start = np.int64(starts[_row_of(pool[at])])
        for place in range(start, start + degree, LINE_BYTES // 4):
            fetch(links, place)


@compiled
def _insert(pool: Any, size: Any, ef: Any, key: Any) -> Any:
    """Put a key in its place among `size` sorted ones, of which `ef` at most are kept. Return its place."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] <= key:
            low = middle + 1
        else:
            high = middle
    for place in range(min(size, ef - 1), low, -1):
        pool[place] = pool[place - 1]
    pool[low] = key
    return low


@compiled
def _walk(
    codes: Any, flat: Any, starts: Any, links: Any, levels: Any, entry: Any, top: Any,
    query: Any, is_l2: Any, ef: Any,
) -> Any:  # fmt: skip
    """`Graph.nearest`."""
    row_bytes = flat.shape[0] // codes.shape[0]
    ahead = min(_ROWS_AHEAD, max(2, _BYTES_AHEAD // row_bytes))
    degree = levels[1]
    seen = np.zeros((codes.shape[0] >> 6) + 1, np.uint64)
    waiting = np.empty(_LINKS_MAX, np.uint64)
    pool = np.empty(ef, np.uint64)
    row = _descend(codes, starts, links, levels, entry, top, query, is_l2)
    seen[row >> np.uint64(6)] |= np.uint64(1) << (row & np.uint64(63))
    pool[0] = _key(_distance(codes, row, query, is_l2), row)
    size, at, worst = 1, 0, _FARTHEST
    while at < size:
        if pool[at] & _FOLLOWED:
            at += 1
            continue
        pool[at] |= _FOLLOWED
        start = np.int64(starts[_row_of(pool[at])])
        count = 0
        for place in range(start, start + degree):
            link = links[place]
            if link < 0:
                break
            bit = np.uint64(1) << np.uint64(link & 63)
            if seen[link >> 6] & bit == _NOTHING:
                seen[link >> 6] |= bit
                waiting[count] = np.uint64(link)
                count += 1
        for n in range(min(count, ahead)):
            _fetch_row(flat, waiting[n], row_bytes)
        _fetch_links(pool, at + 1, size, starts, links, degree)
        lowest = size
        for n in range(count):
            if n + ahead < count:
                _fetch_row(flat, waiting[n + ahead], row_bytes)
            key = _key(_distance(codes, waiting[n], query, is_l2), waiting[n])
            if key < worst:
                lowest = min(lowest, _insert(pool, size, ef, key))
                size = min(size + 1, ef)
                if size == ef:
                    worst = pool[ef - 1]
        at = min(at + 1, lowest)
    rows, distances = np.empty(size, np.int64), np.empty(size, np.float32)
    for n in range(size):
        rows[n], distances[n] = np.int64(_row_of(pool[n])), _distance_in(pool[n])
    return rows, distances
