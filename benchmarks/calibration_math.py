"""A logistic model fitted to judged hits, and how far what it says can be believed. Pure functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
BINS = 10
_STEPS = 50
_RIDGE = 1e-3
"""Of standardised features: keeps those that say nothing near 0."""


def fitted(features: Numbers, is_right: npt.NDArray[np.bool_], weights: Numbers) -> Numbers:
    """Return the coefficients of each feature and, last, the constant, by which log odds fit best.
    features: (n, f); is_right, weights: (n,)."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    rows = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    ridge = np.eye(rows.shape[1]) * _RIDGE * weights.sum()
    ridge[-1, -1] = 0.0
    found = np.zeros(rows.shape[1])
    for _ in range(_STEPS):  # Newton's
        shares = chances(rows @ found)
        slopes = weights * shares * (1 - shares) + 1e-9
        gradient = rows.T @ (weights * (shares - is_right)) + ridge @ found
        found -= np.linalg.solve((rows * slopes[:, None]).T @ rows + ridge, gradient)
    own: Numbers = found[:-1] / spread
    return np.append(own, found[-1] - own @ mean)


def chances(odds: Numbers) -> Numbers:
    """Return the probabilities of log odds."""
    found: Numbers = 1.0 / (1.0 + np.exp(-odds))
    return found


def area(values: Numbers, is_right: npt.NDArray[np.bool_]) -> float:
    """Return how often a right one has the higher value than a wrong one, ties by half: the area under the
    ROC curve."""
    wrong = np.sort(values[~is_right])
    right = values[is_right]
    below = wrong.searchsorted(right, "left") + wrong.searchsorted(right, "right")
    return float(below.mean() / 2 / len(wrong))


def calibration_error(values: Numbers, is_right: npt.NDArray[np.bool_], weights: Numbers) -> float:
    """Return how far probability and share lie apart, by `BINS` bins of equal width (ECE)."""
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    off = np.bincount(bins, weights * (values - is_right), BINS)
    return float(np.abs(off).sum() / weights.sum())
