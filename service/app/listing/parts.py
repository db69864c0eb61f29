"""What lists, counts and changes many items, as the application takes it."""

from __future__ import annotations

from dataclasses import dataclass

from index_store.port import ItemSource
from service.app.listing.filter_writes import FilterWrites
from service.app.listing.item_counts import ItemCounts
from service.app.listing.scan_queue import ScanQueue


@dataclass(frozen=True, slots=True)
class ListingParts:
    """All of one process, over one queue of scans."""

    items: ItemSource
    scans: ScanQueue
    counts: ItemCounts
    filter_writes: FilterWrites
