"""How many items pass a filter, and which values they have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from index_store.listings import CountResult, FacetsRequest, FacetsResult, ItemsRequest
from index_store.port import ItemSource
from index_store.types import Filter, Ids
from service.app.listing.scan_queue import ScanQueue

SCAN_ROWS = 10_000
"""Of one turn: some 50 ms of processor time with a filter."""
_COUNTED_A_ROW = 1 / 400
"""What counting a row in memory weighs; 1 is reading one from the store."""
_LIVE_GUESSED = 100_000


class ItemCounts:
    """Event loop only; everything that takes time has its turn in the scan queue."""

    def __init__(self, items: ItemSource, scans: ScanQueue) -> None:
        self._items = items
        self._scans = scans
        self._live: dict[str, int] = {}

    async def count(self, collection: str, condition: Filter | None, caller: str) -> CountResult:
        """Return how many live items pass. Raises InvalidFilter, Overloaded, Unavailable."""
        found = await self._scans.run(
            lambda: self._items.count_items(collection, condition), self._weight(collection, 1), caller
        )
        if condition is None:
            self._live[collection] = found.live
        return found

    async def facets(self, collection: str, request: FacetsRequest, caller: str) -> FacetsResult:
        """Return which values live items have. Raises as `count`."""
        keys = request.keys_max if request.keys is None else len(request.keys)
        return await self._scans.run(
            lambda: self._items.count_values(collection, request), self._weight(collection, 1 + keys), caller
        )

    async def count_hidden(self, collection: str, condition: Filter | None, caller: str) -> int:
        """Return how many stored items pass that no search shows. Reads every row of the collection, in
        turns: each item that exists all the while is counted once."""
        request = ItemsRequest(filter=condition, is_live=False)
        return sum([len(ids) async for ids in self.matching_ids(collection, request, caller)])

    async def matching_ids(
        self, collection: str, request: ItemsRequest, caller: str, *, is_admitted: bool = False
    ) -> AsyncIterator[Ids]:
        """Yield the ids of all stored items that `request` is for, in order, as each turn finds some.
        is_admitted: also the first turn waits however long the queue is. Raises as `count`."""
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
            request = replace(request, after=found.next_after)

    def _weight(self, collection: str, passes: int) -> float:
        return 1.0 + passes * _COUNTED_A_ROW * self._live.get(collection, _LIVE_GUESSED)
