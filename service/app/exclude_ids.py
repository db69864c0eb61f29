"""Ids that a search leaves out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from index_store.types import Id, Ids


def plain_ids(ids: Ids | npt.NDArray[np.int64]) -> Sequence[Id]:
    """Return ids as they are in Python."""
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def joined_ids(ids: Ids | npt.NDArray[np.int64], more: Sequence[Id]) -> Ids | npt.NDArray[np.int64]:
    """Return both, in the form that the index takes ids of this kind in."""
    if not more:
        return ids
    both = [*plain_ids(ids), *more]
    return both if isinstance(more[0], str) else np.array(both, np.int64)
