"""Stored items of the current generation, listed."""

from __future__ import annotations

from collections.abc import Mapping

from index_store.engine.collection import Collection
from index_store.engine.validation import check_id
from index_store.errors import InvalidRequest
from index_store.filter.cache import compiled_filter
from index_store.query.stored_items import read_item_page
from index_store.types import ItemsRequest, ItemsResult


class ItemReader:
    """Fits `index_store.port.ItemSource`. Safe from any thread."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        """collections: raises UnknownCollection for a name that it does not have."""
        self._collections = collections

    def list_items(self, collection: str, request: ItemsRequest) -> ItemsResult:
        """See `ItemSource`."""
        found = self._collections[collection]
        condition = None if request.filter is None else compiled_filter(request.filter)
        if request.after is not None:
            check_id(request.after, found.spec, "after")
        if request.items_max < 1 or request.rows_max < 1:
            raise InvalidRequest("items_max and rows_max must be 1 or more", "items_max")
        with found.members() as members:
            current = members.current
            if current is None:
                return ItemsResult((), None, "", 0)
            with current.store.reading() as connection:
                page = read_item_page(connection, request, condition)
            if page.damaged:
                current.store.read(page.damaged)  # which notes what is wrong with them
        items = [row.as_item() for row in page.rows]
        return ItemsResult(items, page.next_after, current.embedding_version, page.seq)
