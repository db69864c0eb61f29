"""How many items pass a filter, and which values they have."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from index_store.listings import CountResult, FacetsRequest, FacetsResult, ItemsRequest
from index_store.port import ItemSource
from index_store.types import Filter, Ids
from service.app.listing.scan_queue import ScanQueue
from service.errors import DeadlineExceeded

SCAN_ROWS = 10_000
"""Of one turn: some 50 ms of processor time with a filter."""
_COUNTED_A_ROW = 1 / 400
"""What counting a row in memory weighs; 1 is reading one from the store."""
_LIVE_GUESSED = 100_000


def passes_of(request: FacetsRequest) -> int:
    """Return how often facets look at all live items."""
    return 1 + (request.keys_max if request.keys is None else len(request.keys))


class ItemCounts:
    """Event loop only; everything that takes time has its turn in the scan queue."""

    def __init__(
        self, items: ItemSource, scans: ScanQueue, *, deadline_ms: int, clock: Callable[[], float]
    ) -> None:
        """deadline_ms: of a count that reads the store, between two turns."""
        self._items = items
        self._scans = scans
        self._deadline_s = deadline_ms / 1000
        self._clock = clock
        self._live: dict[str, int] = {}

    async def count(self, collection: str, condition: Filter | None, caller: str) -> CountResult:
        """Return how many live items pass. Raises InvalidFilter, Overloaded, Unavailable."""
        found = await self._scans.run(
            lambda: self._items.count_items(collection, condition), self.rows_weighed(collection, 1), caller
        )
        if condition is None:
            self._live[collection] = found.live
        return found

    async def facets(self, collection: str, request: FacetsRequest, caller: str) -> FacetsResult:
        """Return which values live items have. Raises as `count`."""
        rows = self.rows_weighed(collection, passes_of(request))
        return await self._scans.run(lambda: self._items.count_values(collection, request), rows, caller)

    async def count_hidden(self, collection: str, condition: Filter | None, caller: str) -> int:
        """Return how many stored items pass that no search shows. Reads every row of the collection, in
        turns: each item that exists all the while is counted once. Raises as `count`, DeadlineExceeded."""
        request = ItemsRequest(filter=condition, is_live=False)
        ends_at = self._clock() + self._deadline_s
        return sum(
            [len(ids) async for ids in self.matching_ids(collection, request, caller, ends_at=ends_at)]
        )

    async def matching_ids(
        self,
        collection: str,
        request: ItemsRequest,
        caller: str,
        *,
        is_admitted: bool = False,
        ends_at: float = math.inf,
    ) -> AsyncIterator[Ids]:
        """Yield the ids of all stored items that `request` is for, in order, as each turn finds some.
        is_admitted: also the first turn waits however long the queue is. ends_at: no turn begins after this.
        Raises as `count`, DeadlineExceeded."""
        request = replace(request, rows_max=SCAN_ROWS)
        while True:
            asked = request
            found = await self._scans.run(
                lambda: self._items.list_ids(collection, asked),  # noqa: B023  # done before the next turn
                SCAN_ROWS,
                caller,
                is_admitted=is_admitted,
            )
            is_admitted = True
            yield found.ids
            if found.next_after is None:
                return
            if self._clock() > ends_at:
                raise DeadlineExceeded("It reads the whole collection: list the items page by page instead.")
            request = replace(request, after=found.next_after)

    def rows_weighed(self, collection: str, passes: int) -> float:
        """Return how many rows read from the store weigh as much as to look at all live items so many
        times."""
        return 1.0 + passes * _COUNTED_A_ROW * self._live.get(collection, _LIVE_GUESSED)
