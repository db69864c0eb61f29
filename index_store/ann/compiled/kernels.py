"""Compiled searches of codes: along a graph's links, or row by row.

A graph walk through FAISS waits for each vector. These ask for rows ahead (docs/decisions/0035). Nothing is
checked here: the modules of `ann` that call it do that.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import overload

from index_store.ann.compiled.code_sums import (
    LANES,
    sum_of_centred_products,
    sum_of_products,
    sum_of_squares,
)
from index_store.ann.compiled.jit import LINE_BYTES, compiled, fetch, make_room

Codes: TypeAlias = npt.NDArray[Any]
"""(rows, dim): float32, bf16 in uint16, or int8 + 128 in uint8."""

LINKS_MAX = 256

_ROWS_AHEAD = 8
_BYTES_AHEAD = 6144
"""How many vectors are prefetched: the best of 2, 4 and 8, for 384 bytes a row and for 1,536."""

# An entry of the pool is one number, so that one comparison sorts: distance in 32 bits, row in 31, and in the
# last whether its links were followed.
_FOLLOWED = np.uint64(1)
_ROW = np.uint64(0xFFFFFFFE)
_FARTHEST = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIGN = np.uint64(0x80000000)
_WORD = np.uint64(0xFFFFFFFF)


def _distance(codes: Codes, row: np.uint64, query: Codes, is_l2: bool) -> np.float32:
    """The distance of a row: l2 squared, else minus the product."""
    raise NotImplementedError("compiled code only")


@overload(_distance, inline="never", jit_options={"fastmath": {"reassoc", "nsz", "contract"}})  # type: ignore[untyped-decorator]
def _distance_of(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:  # noqa: ARG001
    def of_int8(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:
        # Every step told to stay narrow: else numba widens to 64 bits, at half the speed.
        total = np.int32(0)
        if is_l2:
            for i in range(query.shape[0]):
                apart = np.int16(np.int16(codes[row, i]) - np.int16(query[i]))
                total = np.int32(total + np.int32(np.int32(apart) * np.int32(apart)))
            return np.float32(total)
        for i in range(query.shape[0]):
            ours, asked = np.int16(codes[row, i] - np.int16(128)), np.int16(query[i] - np.int16(128))
            total = np.int32(total - np.int32(np.int32(ours) * np.int32(asked)))
        return np.float32(total)

    def of_int8_widely(codes: Any, row: Any, query: Any, is_l2: Any) -> Any:
        start, whole = np.int64(row) * codes.shape[1], query.shape[0] // LANES * LANES
        total = np.int32(0)
        if is_l2:
            if whole:
                total = sum_of_squares(codes, start, query, whole)
            for i in range(whole, query.shape[0]):
                apart = np.int32(codes[row, i]) - np.int32(query[i])
                total = np.int32(total + np.int32(apart * apart))
            return np.float32(total)
        if whole:
            total = sum_of_centred_products(codes, start, query, whole)
        for i in range(whole, query.shape[0]):
            ours, asked = np.int32(codes[row, i]) - np.int32(128), np.int32(query[i]) - np.int32(128)
            total = np.int32(total + np.int32(ours * asked))
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

    of_codes = of_int8_widely if LANES else of_int8
    return {types.uint8: of_codes, types.uint16: of_bf16}.get(codes.dtype, of_float32)


@compiled
def _key(apart: Any, row: Any) -> Any:
    """Distance and row as one number that sorts as they do."""
    bits = np.uint64(np.float32(apart).view(np.uint32))
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
def _insert(pool: Any, size: Any, ef: Any, key: Any) -> Any:
    """Insert a key among `size` sorted ones, of which `ef` at most are kept. Return its position."""
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] <= key:
            low = middle + 1
        else:
            high = middle
    make_room(pool, low, min(size, ef - 1))
    pool[low] = key
    return low


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
            for position in range(start + levels[level], start + levels[level + 1]):
                link = links[position]
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
        for position in range(start, start + degree, LINE_BYTES // 4):
            fetch(links, position)


@compiled
def walk(
    codes: Any, flat: Any, starts: Any, links: Any, levels: Any, entry: Any, top: Any,
    query: Any, is_l2: Any, ef: Any,
) -> Any:  # fmt: skip
    """`Graph.nearest`."""
    row_bytes = flat.shape[0] // codes.shape[0]
    ahead = min(_ROWS_AHEAD, max(2, _BYTES_AHEAD // row_bytes))
    degree = levels[1]
    seen = np.zeros((codes.shape[0] >> 6) + 1, np.uint64)
    waiting = np.empty(LINKS_MAX, np.uint64)
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
        for position in range(start, start + degree):
            link = links[position]
            if link < 0:
                break
            bit = np.uint64(1) << np.uint64(link & 63)
            if seen[link >> 6] & bit == np.uint64(0):
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
    return _unpacked(pool, size)


@compiled
def _unpacked(pool: Any, size: Any) -> Any:
    rows, distances = np.empty(size, np.int64), np.empty(size, np.float32)
    for n in range(size):
        rows[n], distances[n] = np.int64(_row_of(pool[n])), _distance_in(pool[n])
    return rows, distances


@compiled
def scan(codes: Any, squares: Any, query: Any, allowed: Any, k: Any) -> Any:
    """The k nearest rows of int8 codes among those whose bit is set; allowed: a bitmap, empty for all.

    query: int8 codes, in int16. squares: `squares_of` the rows for l2, empty for products: one product a row
    takes less than the squares of differences, and memory gives a row in 11 ns (384 dimensions)."""
    heap = np.empty(k, np.uint64)
    size, worst, admits_all, is_l2 = 0, _FARTHEST, len(allowed) == 0, len(squares) > 0
    total, own = np.int32(0), np.int32(0)
    for i in range(len(query)):
        total = np.int32(total + np.int32(query[i]))
        own = np.int32(own + np.int32(query[i]) * np.int32(query[i]))
    for n in range(len(codes)):
        if not admits_all and (allowed[n >> 3] >> np.uint8(n & 7)) & 1 == 0:
            continue
        row = np.uint64(n)
        product = np.int32(_product(codes, row, query) - 128 * total)
        apart = np.int32(squares[n] + own - 2 * product) if is_l2 else np.int32(-product)
        key = _key(np.float32(apart), row)
        if key < worst:
            if size < k:
                size += 1
                _rise(heap, size - 1, key)
            else:
                _sink(heap, size, key)
            if size == k:
                worst = heap[0]
    for left in range(size - 1, 0, -1):
        farthest = heap[0]
        _sink(heap, left, heap[left])
        heap[left] = farthest
    return _unpacked(heap, size)


def _product(codes: Codes, row: np.uint64, query: Codes) -> np.int32:
    """The product of a row's codes, as they are stored, with int16 numbers."""
    raise NotImplementedError("compiled code only")


@overload(_product, inline="never")  # type: ignore[untyped-decorator]
def _product_of(codes: Any, row: Any, query: Any) -> Any:  # noqa: ARG001
    def plainly(codes: Any, row: Any, query: Any) -> Any:
        total = np.int32(0)
        for i in range(query.shape[0]):
            ours = np.int16(codes[row, i])  # 16 bits a side: else numba widens to 32, at half the speed
            total = np.int32(total + np.int32(np.int32(ours) * np.int32(query[i])))
        return total

    def widely(codes: Any, row: Any, query: Any) -> Any:
        whole = query.shape[0] // LANES * LANES
        total = np.int32(0)
        if whole:
            total = sum_of_products(codes, np.int64(row) * codes.shape[1], query, whole)
        for i in range(whole, query.shape[0]):
            total = np.int32(total + np.int32(np.int32(codes[row, i]) * np.int32(query[i])))
        return total

    return widely if LANES else plainly


@compiled
def squares_of(codes: Any) -> Any:
    """The square of each row's length, in int8 codes."""
    out = np.empty(len(codes), np.int32)
    for n in range(len(codes)):
        total = np.int32(0)
        for i in range(codes.shape[1]):
            code = np.int16(np.int16(codes[np.uint64(n), i]) - np.int16(128))
            total = np.int32(total + np.int32(np.int32(code) * np.int32(code)))
        out[n] = total
    return out


@compiled
def distances_of(codes: Any, flat: Any, query: Any, is_l2: Any, rows: Any) -> Any:
    """The distance of each of these rows."""
    row_bytes = codes.shape[1]
    out = np.empty(len(rows), np.float32)
    for n in range(len(rows)):
        if n + _ROWS_AHEAD < len(rows):
            _fetch_row(flat, rows[n + _ROWS_AHEAD], row_bytes)
        out[n] = _distance(codes, np.uint64(rows[n]), query, is_l2)
    return out


@compiled
def _rise(heap: Any, position: Any, key: Any) -> None:
    """Put a key into a heap whose largest is first; `position` is its free end."""
    while position and heap[(position - 1) >> 1] < key:
        heap[position] = heap[(position - 1) >> 1]
        position = (position - 1) >> 1
    heap[position] = key


@compiled
def _sink(heap: Any, size: Any, key: Any) -> None:
    """Put a key into a heap of `size` in place of its largest."""
    position = 0
    while 2 * position + 1 < size:
        larger = 2 * position + 1
        if larger + 1 < size and heap[larger + 1] > heap[larger]:
            larger += 1
        if heap[larger] <= key:
            break
        heap[position] = heap[larger]
        position = larger
    heap[position] = key


def warm() -> None:
    """Make, or read from disk, all that a search may call: seconds the first time on a machine.

    Compiled code is made for arrays that can be written to and again for those that can't."""
    links = (np.array([0, 2], np.uint64), np.full(2, -1, np.int32), np.array([0, 2]), 0, 0)
    for codes in (np.ones((1, 4), np.float32), np.ones((1, 4), np.uint16), np.ones((1, 4), np.uint8)):
        query = codes[0].astype(np.int16 if codes.dtype == np.uint8 else np.float32)
        walk(codes, codes.reshape(-1).view(np.uint8), *links, query, True, 1)
    for is_writable in (True, False):
        bits, codes = np.ones(1, np.uint8), np.ones((1, 4), np.uint8)
        bits.setflags(write=is_writable)
        scan(codes, squares_of(codes), np.ones(4, np.int16), bits, 1)
        distances_of(codes, codes[0], np.ones(4, np.int16), True, np.zeros(1, np.int64))
