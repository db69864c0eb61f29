"""Sums of int8 codes: the same integers whatever instructions take them, at any length."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.ann.compiled.kernels import distances_of, scan, squares_of

ROWS = 9


@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 384, 385, 1536])
def test_sums_are_those_of_whole_numbers(dim: int) -> None:
    random = np.random.default_rng(dim)
    codes = random.integers(0, 256, (ROWS, dim)).astype(np.uint8)
    codes[0], codes[1] = 0, 255
    asked = random.integers(0, 256, dim).astype(np.int16)
    for query in (asked, np.zeros(dim, np.int16), np.full(dim, 255, np.int16)):
        wide = codes.astype(np.int64)
        squares = ((wide - query) ** 2).sum(axis=1)
        products = ((wide - 128) * (query.astype(np.int64) - 128)).sum(axis=1)
        every = np.arange(ROWS)
        found = distances_of(codes, codes.reshape(-1), query, True, every)
        assert np.array_equal(found, squares.astype(np.float32))
        found = distances_of(codes, codes.reshape(-1), query, False, every)
        assert np.array_equal(found, -products.astype(np.float32))
        centred = np.clip(query - 128, -127, 127).astype(np.int16)
        apart = ((wide - 128 - centred) ** 2).sum(axis=1)
        rows, distances = scan(codes, squares_of(codes), centred, np.empty(0, np.uint8), ROWS)
        assert np.array_equal(distances, apart[rows].astype(np.float32))
        assert sorted(rows.tolist()) == every.tolist() and np.array_equal(distances, np.sort(distances))
