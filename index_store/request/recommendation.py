"""Searches by several liked items, each for itself. No behaviour, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

LIKES_WORK_MAX = 2_000_000
"""Distances that one may come to, about a second: 100 liked items have 200 results, 10 have 10,000."""

LikesPoint: TypeAlias = tuple[float, int | str]
"""Distance and id of the last item that was found for a liked one."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to find. best: the items nearest to any liked one; each: in turns what is nearest to each of them.
    Either way without items that are nearer to any disliked one than to every liked one.

    likes: (n, dim) float32, one at least. weights: (n,), above 0: in `best` a distance is divided by it, so
    that 2 reaches twice as far; in `each` the heaviest comes first. unlikes: (m, dim) float32, m may be 0."""

    mode: Literal["best", "each"]
    likes: npt.NDArray[np.float32]
    weights: tuple[float, ...]
    unlikes: npt.NDArray[np.float32]

    @property
    def distances_of_a_hit(self) -> int:
        """How many distances each hit may come to: each list gives as many rows as there are hits."""
        return len(self.likes) * (len(self.likes) + len(self.unlikes))


class LikesPage(NamedTuple):
    """Where a page of these ended. last: which liked item its last one was found for. ends: of each liked
    item, the last that was found for it."""

    last: int
    ends: tuple[LikesPoint | None, ...]
