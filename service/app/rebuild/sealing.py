"""Whether a filled generation is as quick to search as the one that serves: few of its rows are unsealed.

Vectors come faster than graphs are built of them, and rows without a graph are compared one by one. A
promotion before that would make every search slower until maintenance has caught up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from index_store.port import FootprintSource, VectorIndex

log = logging.getLogger(__name__)

UNSEALED_ROWS_MAX = 8192
"""Maintenance seals from 4,096 on; what is written meanwhile comes on top."""
_PATIENCE_S = 1800.0


class FootprintIndex(VectorIndex, FootprintSource, Protocol):
    """What is asked here of an index."""


class Sealing:
    """Used from one thread at a time; blocking."""

    def __init__(self, index: FootprintIndex, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only go forward."""
        self._index = index
        self._clock = clock
        self._fewest: dict[str, tuple[int, float]] = {}

    def is_done(self, collection: str, generation: str) -> bool:
        """Return whether that generation, by its name, has no more rows in memory than the current one or a
        few thousand. True as well when nothing was sealed for half an hour: then nobody seals."""
        rows = {each.generation: each.delta_rows for each in self._index.footprints(collection)}
        current = self._index.status(collection).current
        allowed = max(UNSEALED_ROWS_MAX, rows.get(current.generation, 0) if current else 0)
        unsealed = rows.get(generation, 0)
        fewest, at = self._fewest.get(generation, (unsealed + 1, 0.0))
        if unsealed < fewest:
            fewest, at = unsealed, self._clock()
            self._fewest[generation] = fewest, at
        if unsealed > allowed and self._clock() < at + _PATIENCE_S:
            return False
        if unsealed > allowed:
            log.warning("nobody_seals", extra={"collection": collection, "unsealed_rows": unsealed})
        self._fewest.pop(generation, None)
        return True
