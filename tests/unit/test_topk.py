"""Exact distances mean what pgvector's operators mean, and the order of answers is total."""

from __future__ import annotations

import numpy as np
import pytest

from index_store.ann.rerank import engine_vectors, rescore, select
from index_store.types import Metric

ROWS = np.random.default_rng(7).normal(size=(500, 384)).astype(np.float32)


def test_distances_are_those_of_the_definition() -> None:
    a, b = ROWS[0].astype(np.float64), ROWS[1].astype(np.float64)
    cos = a @ b / np.sqrt((a @ a) * (b @ b))
    for metric, expected in (("l2", np.sqrt(((a - b) ** 2).sum())), ("cosine", 1 - cos), ("ip", -(a @ b))):
        assert rescore(ROWS[0], ROWS[1:2], metric)[0] == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


def test_an_angle_means_the_same_in_every_metric() -> None:
    a = np.array([1.0, 0.0], np.float32)
    b = np.array([[0.6, 0.8]], np.float32)
    assert rescore(a, b, "l2")[0] == pytest.approx(0.894427, abs=1e-6)
    assert rescore(a, b, "cosine")[0] == pytest.approx(0.4, abs=1e-6)
    assert rescore(a, b, "ip")[0] == pytest.approx(-0.6, abs=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_identical_vectors_are_at_distance_zero(metric: Metric) -> None:
    assert all(rescore(row, row[None, :], metric)[0] == 0.0 for row in ROWS)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_a_distance_does_not_depend_on_the_batch(metric: Metric) -> None:
    together = rescore(ROWS[3], ROWS, metric)
    alone = [rescore(ROWS[3], ROWS[n : n + 1], metric)[0] for n in range(len(ROWS))]
    assert together.tolist() == alone


@pytest.mark.parametrize("ids", [np.array([9, 3, 7, 1]), np.array(["b", "a", "é", "B"], dtype=object)])
def test_ties_go_by_id(ids: np.ndarray) -> None:
    distances = np.array([0.5, 0.5, 0.5, 0.1])
    chosen = select(distances, ids, 3)
    assert ids[chosen].tolist() == [ids[3], *sorted(ids[:3].tolist())[:2]]


def test_select_agrees_with_a_full_sort() -> None:
    random = np.random.default_rng(11)
    for _ in range(50):
        distances = random.integers(0, 20, 200) / 7.0  # many ties
        ids = random.permutation(200)
        k = int(random.integers(0, 220))
        expected = sorted(range(200), key=lambda n: (distances[n], ids[n]))[:k]
        assert select(distances, ids, k).tolist() == expected


def test_engines_hold_unit_rows_for_cosine_only() -> None:
    assert np.allclose(np.linalg.norm(engine_vectors(ROWS, "cosine"), axis=1), 1.0, atol=1e-6)
    assert engine_vectors(ROWS, "l2") is ROWS
