"""Inner loops over rows, compiled by numba to machine code that runs without the interpreter's lock.

A graph walk through FAISS waits for each vector, and a dozen numpy calls then sift what it found. These ask
for rows ahead and come back once (docs/decisions/0035). Nothing is checked here: the modules beside this one
do that, and nobody else calls it.

All of it in one file: the machine code is kept on disk, and made anew only when its own file has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

Codes: TypeAlias = npt.NDArray[Any]
"""(rows, dim): float32, bf16 in uint16, or int8 + 128 in uint8."""

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

_LINE_BYTES = 64


def compiled(function: Compiled) -> Compiled:
    """Compile at the first call with each kind of arguments; kept beside this file, or in NUMBA_CACHE_DIR.
    float32 sums may be added up in any order."""
    return _compiled(function, {"reassoc", "nsz", "contract"})


def exactly_compiled(function: Compiled) -> Compiled:
    """The same, but floating point as written: the same bits wherever it runs."""
    return _compiled(function, set())


def _compiled(function: Compiled, liberties: set[str]) -> Compiled:
    options = {"nogil": True, "fastmath": liberties, "error_model": "numpy"}
    try:
        made: Compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: compiled anew by each process
        made = numba.njit(**options)(function)
    return made


@intrinsic  # type: ignore[untyped-decorator]
def fetch(_context: Any, array: Any, place: Any) -> Any:  # noqa: ARG001
    """Ask for the cache line of element `place` of a contiguous array of any shape, without waiting for it.
    Any place: nothing is read."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        at = builder.bitcast(builder.gep(made.data, [arguments[1]]), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        to_read, into_first_cache, data = word(0), word(3), word(1)
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        builder.call(prefetch, [at, to_read, into_first_cache, data])
        return context.get_dummy_value()

    return types.void(array, types.int64), emit


LINKS_MAX = 256

_ROWS_AHEAD = 8
_BYTES_AHEAD = 6144
"""How many vectors are asked for ahead: the best of 2, 4 and 8, for 384 bytes a row and for 1,536."""

L2, COSINE, IP = 0, 1, 2
"""Metrics of `scores`."""

# A place in the pool is one number, so that one comparison sorts: distance in 32 bits, row in 31, and whether
# its links were followed in the last.
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
def _fetch_row(array: Any, row: Any, width: Any, a_line: Any) -> None:
    """Ask for the `width` elements of a row, of which `a_line` share a cache line."""
    start = np.int64(row) * width
    for at in range(start, start + width, a_line):
        fetch(array, at)


@compiled
def _fetch_links(pool: Any, at: Any, size: Any, starts: Any, links: Any, degree: Any) -> None:
    """Ask for the links of the nearest candidate from `at` on."""
    while at < size and pool[at] & _FOLLOWED:
        at += 1
    if at < size:
        start = np.int64(starts[_row_of(pool[at])])
        for place in range(start, start + degree, _LINE_BYTES // 4):
            fetch(links, place)


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
        for place in range(start, start + degree):
            link = links[place]
            if link < 0:
                break
            bit = np.uint64(1) << np.uint64(link & 63)
            if seen[link >> 6] & bit == np.uint64(0):
                seen[link >> 6] |= bit
                waiting[count] = np.uint64(link)
                count += 1
        for n in range(min(count, ahead)):
            _fetch_row(flat, waiting[n], row_bytes, _LINE_BYTES)
        _fetch_links(pool, at + 1, size, starts, links, degree)
        lowest = size
        for n in range(count):
            if n + ahead < count:
                _fetch_row(flat, waiting[n + ahead], row_bytes, _LINE_BYTES)
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
def scan(codes: Any, query: Any, is_l2: Any, allowed: Any, k: Any) -> Any:
    """The k nearest of all rows, or of those whose bit is set; allowed: a bitmap, empty for all."""
    pool = np.empty(k, np.uint64)
    size, worst, admits_all = 0, _FARTHEST, len(allowed) == 0
    for n in range(len(codes)):
        if not admits_all and (allowed[n >> 3] >> np.uint8(n & 7)) & 1 == 0:
            continue
        row = np.uint64(n)
        key = _key(_distance(codes, row, query, is_l2), row)
        if key < worst:
            _insert(pool, size, k, key)
            size = min(size + 1, k)
            if size == k:
                worst = pool[k - 1]
    return _unpacked(pool, size)


@compiled
def find(keys: Any, order: Any, wanted: Any) -> Any:
    """order[place] of each wanted number in `keys`, which are sorted; -1 for those not there. Fastest when
    they are wanted in order."""
    out = np.empty(len(wanted), np.int64)
    count, at = len(keys), 0
    for n in range(len(wanted)):
        number = wanted[n]
        if n and number < wanted[n - 1]:
            at = 0
        low, high, step = at, at, 1
        while high < count and keys[high] < number:
            low, high, step = high + 1, high + step, step * 2
        high = min(high, count)
        while low < high:
            middle = (low + high) >> 1
            if keys[middle] < number:
                low = middle + 1
            else:
                high = middle
        at = low
        out[n] = order[at] if at < count and keys[at] == number else -1
    return out


@exactly_compiled
def scores(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    """The exact distance of each of these rows, in float64."""
    wide = query.astype(np.float64)
    nothing, lanes = np.zeros(len(wide)), np.empty(8)
    if kind == COSINE:
        wide *= 1.0 / np.sqrt(_squares(query.reshape(1, len(query)), np.uint64(0), 1.0, nothing, lanes))
    out = np.empty(len(rows), np.float64)
    for n in range(len(rows)):
        if n + _ROWS_AHEAD < len(rows):
            _fetch_row(vectors, rows[n + _ROWS_AHEAD], len(wide), _LINE_BYTES // 4)
        row = np.uint64(rows[n])
        if kind == IP:
            out[n] = -_product(vectors, row, wide, lanes)
        elif kind == L2:
            out[n] = np.sqrt(_squares(vectors, row, 1.0, wide, lanes))
        else:
            # Half the squared distance of unit vectors: 1 - cos without the cancellation near 0. Scaled as
            # the query is, by the reciprocal, so that an identical row ends up with identical bits.
            scale = 1.0 / np.sqrt(_squares(vectors, row, 1.0, nothing, lanes))
            out[n] = _squares(vectors, row, scale, wide, lanes) / 2
    return out


@exactly_compiled
def _squares(vectors: Any, row: Any, scale: Any, wide: Any, lanes: Any) -> Any:
    """The sum of (row * scale - wide) ** 2, as eight sums side by side: fast, and in a fixed order."""
    lanes[:] = 0.0
    whole = len(wide) & ~7
    for i in range(0, whole, 8):
        for lane in range(8):
            apart = np.float64(vectors[row, i + lane]) * scale - wide[i + lane]
            lanes[lane] += apart * apart
    for i in range(whole, len(wide)):
        apart = np.float64(vectors[row, i]) * scale - wide[i]
        lanes[0] += apart * apart
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


@exactly_compiled
def _product(vectors: Any, row: Any, wide: Any, lanes: Any) -> Any:
    """The sum of row * wide, likewise."""
    lanes[:] = 0.0
    whole = len(wide) & ~7
    for i in range(0, whole, 8):
        for lane in range(8):
            lanes[lane] += np.float64(vectors[row, i + lane]) * wide[i + lane]
    for i in range(whole, len(wide)):
        lanes[0] += np.float64(vectors[row, i]) * wide[i]
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))


@compiled
def _sort(rows: Any, distances: Any) -> Any:
    """Sort both by distance, in place, by moving single rows: engines found them nearly in order. Return
    whether two are equal."""
    is_tied = False
    for n in range(1, len(rows)):
        row, distance, place = rows[n], distances[n], n
        while place and distances[place - 1] > distance:
            rows[place], distances[place] = rows[place - 1], distances[place - 1]
            place -= 1
        rows[place], distances[place] = row, distance
        is_tied |= place > 0 and distances[place - 1] == distance
    return is_tied


@exactly_compiled
def scores_sorted(query: Any, vectors: Any, rows: Any, kind: Any) -> Any:
    rows = rows.copy()
    distances = scores(query, vectors, rows, kind)
    is_tied = _sort(rows, distances)
    return rows, distances, is_tied


def warm() -> None:
    """Make, or read from disk, all that a search may call: seconds the first time on a machine.

    Compiled code is made for arrays that can be written to and again for those that can't."""
    links = (np.array([0, 2], np.uint64), np.full(2, -1, np.int32), np.array([0, 2]), 0, 0)
    for codes in (np.ones((1, 4), np.float32), np.ones((1, 4), np.uint16), np.ones((1, 4), np.uint8)):
        query = codes[0].astype(np.uint8 if codes.dtype == np.uint8 else np.float32)
        walk(codes, codes.reshape(-1).view(np.uint8), *links, query, True, 1)
    for is_writable in (True, False):
        vectors, bits, numbers = np.ones((1, 4), np.float32), np.ones(1, np.uint8), np.zeros(1, np.int64)
        for array in (vectors, bits, numbers):
            array.setflags(write=is_writable)
        scan(np.ones((1, 4), np.uint8), np.ones(4, np.uint8), True, bits, 1)
        find(numbers, numbers, np.zeros(1, np.int64))
        scores_sorted(np.ones(4, np.float32), vectors, np.zeros(1, np.int64), L2)
        scores(np.ones(4, np.float32), vectors, np.zeros(1, np.int64), L2)
