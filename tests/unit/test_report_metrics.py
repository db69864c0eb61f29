"""Overlap, rank-biased overlap, nDCG and recall against examples worked by hand."""

from __future__ import annotations

import pytest

from service.app.report.ranking_metrics import (
    ndcg_at,
    overlap_at,
    percentile,
    rank_biased_overlap,
    recall_at,
)


@pytest.mark.parametrize(
    ("k", "before", "after", "expected"),
    [
        (1, "abc", "acb", 1.0),
        (2, "abc", "acb", 0.5),
        (3, "abc", "acb", 1.0),
        (3, "abc", "xyz", 0.0),
        (10, "abcd", "ab", 0.5),
        (10, "", "", 1.0),
        (10, "a", "", 0.0),
    ],
)
def test_overlap(k: int, before: str, after: str, expected: float) -> None:
    assert overlap_at(k, list(before), list(after)) == expected
    assert overlap_at(k, list(after), list(before)) == expected


@pytest.mark.parametrize(
    ("before", "after", "p", "expected"),
    [
        # A_1 = 1, A_2 = 1/2, A_3 = 1: .1/.9 (.9 + .405 + .729) + 1 * .729
        ("abc", "acb", 0.9, 0.1 / 0.9 * (0.9 + 0.5 * 0.81 + 0.729) + 0.729),
        ("abc", "abc", 0.9, 1.0),
        ("abc", "xyz", 0.9, 0.0),
        ("", "", 0.9, 1.0),
        ("abc", "", 0.9, 0.0),
        # One is a prefix of the other: agreement is extrapolated, so nothing speaks against 1.
        ("ab", "abcd", 0.9, 1.0),
        # s = 1, l = 2, nothing common at 1, "a" common at 2: (1-p)/p * (1/2 p^2) + ((1 - 0)/2 + 0) p^2
        ("a", "xa", 0.5, 1.0 * (0.5 * 0.25) + 0.5 * 0.25),
    ],
)
def test_rank_biased_overlap(before: str, after: str, p: float, expected: float) -> None:
    assert rank_biased_overlap(list(before), list(after), p) == pytest.approx(expected, abs=1e-12)
    assert rank_biased_overlap(list(after), list(before), p) == pytest.approx(expected, abs=1e-12)


def test_ndcg_as_in_the_usual_example() -> None:
    """Gains 3 2 3 0 1 2 of an ideal 3 3 3 2 2 2: DCG 6.861, ideal 8.740."""
    grades = {1: 3.0, 2: 2.0, 3: 3.0, 4: 0.0, 5: 1.0, 6: 2.0, 7: 3.0, 8: 2.0}
    assert ndcg_at(6, [1, 2, 3, 4, 5, 6], grades) == pytest.approx(0.785, abs=5e-4)
    assert ndcg_at(6, [1, 3, 7, 2, 6, 8], grades) == pytest.approx(1.0)
    assert ndcg_at(10, [99], grades) == 0.0
    assert ndcg_at(10, [1], {1: 0.0}) == 0.0


def test_recall() -> None:
    grades = {1: 1.0, 2: 2.0, 3: 0.0, 4: 1.0}
    assert recall_at(10, [1, 3, 9], grades) == pytest.approx(1 / 3)
    assert recall_at(2, [1, 2, 4], grades) == 1.0
    assert recall_at(10, [], {}) == 0.0


def test_percentiles_by_nearest_rank() -> None:
    values = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [percentile(values, share) for share in (0.05, 0.3, 0.4, 0.5, 1.0)] == [15, 20, 20, 35, 50]
