"""What fit_confidence counts: area under the ROC curve, calibration error, and the fit itself."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration_math import area, calibration_error, chances, fitted


def test_area_counts_pairs_in_order_and_ties_by_half() -> None:
    values = np.array([0.9, 0.4, 0.4, 0.1])
    assert area(values, np.array([True, True, False, False])) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert area(values, np.array([False, False, True, True])) == pytest.approx(0.5 / 4)


def test_calibration_error_is_how_far_shares_lie_from_what_was_said() -> None:
    said = np.array([0.75, 0.75, 0.75, 0.75, 0.05, 1.0])
    is_right = np.array([True, True, True, False, False, True])
    assert calibration_error(said, is_right, np.ones(6)) == pytest.approx(0.05 / 6)
    assert calibration_error(said, ~is_right, np.ones(6)) == pytest.approx((4 * 0.5 + 0.95 + 1) / 6)
    halved = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert calibration_error(said, ~is_right, halved) == pytest.approx((4 * 0.5 + 0.95) / 5)


def test_a_fit_finds_what_the_answers_were_drawn_by() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((20_000, 2)) * (1.0, 5.0)
    odds = 2.0 * rows[:, 0] - 0.5 * rows[:, 1] + 1.0
    is_right = rng.random(len(rows)) < chances(odds)
    found = fitted(rows, is_right, np.ones(len(rows)))
    assert found == pytest.approx([2.0, -0.5, 1.0], abs=0.15)
    said = chances(rows @ found[:-1] + found[-1])
    assert calibration_error(said, is_right, np.ones(len(rows))) < 0.02
