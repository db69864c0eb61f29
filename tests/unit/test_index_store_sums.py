"""Sums of codes and of floats: the same ones whatever instructions take them, at any length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from index_store.ann.compiled.kernels import distances_of, scan, squares_of
from index_store.ann.rerank import is_any_near, rescore
from index_store.ann.sq8 import ScanIndex, add_codes, measure_codes, new_codes
from index_store.types import Metric, Vector

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


def in_eight_sums(terms: npt.NDArray[np.float64]) -> float:
    lanes = [0.0] * 8
    whole = len(terms) & ~7
    for place, term in enumerate(terms.tolist()):
        lanes[place % 8 if place < whole else 0] += term
    first, second = ((lanes[n] + lanes[n + 1]) + (lanes[n + 2] + lanes[n + 3]) for n in (0, 4))
    return first + second


def exact_distance(query: Vector, row: Vector, metric: Metric) -> float:
    ours, asked = row.astype(np.float64), query.astype(np.float64)
    if metric == "ip":
        return -in_eight_sums(ours * asked)
    if metric == "l2":
        return float(np.sqrt(in_eight_sums((ours - asked) ** 2)))
    unit = [each * (1.0 / np.sqrt(in_eight_sums(each**2))) for each in (ours, asked)]
    return in_eight_sums((unit[0] - unit[1]) ** 2) / 2


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("dim", [1, 3, 8, 13, 384])
def test_exact_distances_are_eight_sums_in_a_fixed_order(dim: int, metric: Metric) -> None:
    random = np.random.default_rng(dim)
    vectors = random.standard_normal((ROWS, dim)).astype(np.float32)
    query = random.standard_normal(dim).astype(np.float32)
    wanted = [exact_distance(query, row, metric) for row in vectors]
    assert rescore(query, vectors, metric).tolist() == wanted
    assert rescore(query, vectors, metric, np.array([4, 0])).tolist() == [wanted[4], wanted[0]]
    assert is_any_near(query, vectors, metric, min(wanted))
    assert not is_any_near(query, vectors, metric, float(np.nextafter(min(wanted), -np.inf)))


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("reach", [0.01, 1.0, 300.0])
def test_least_distances_are_never_above_the_exact_ones(metric: Metric, reach: float) -> None:
    random = np.random.default_rng(5)
    vectors = (random.standard_normal((400, 48)) * reach).astype(np.float32)
    index = new_codes(48, metric)
    codes = measure_codes(vectors, metric)
    add_codes(index, vectors, metric, codes.scale)
    scan_index = ScanIndex(index, metric, codes)
    rows = random.permutation(400)[:300]
    for query in (vectors[7], vectors[8] * 3, random.standard_normal(48).astype(np.float32) * reach):
        exact, least = rescore(query, vectors, metric, rows), scan_index.lower_bounds(query, rows)
        assert (least <= exact).all()
    exact, least = rescore(vectors[7], vectors, metric, rows), scan_index.lower_bounds(vectors[7], rows)
    # Near enough to tell rows apart: a tenth of what lies between the nearest and the farthest.
    assert (exact - least).max() <= 0.1 * np.ptp(exact)
