"""Stored items of the current generation, listed and counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from index_store.answers.validation import check_id
from index_store.engine.collection import Collection
from index_store.errors import InvalidRequest
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.listings import (
    CountResult,
    FacetsRequest,
    FacetsResult,
    IdsResult,
    ItemsRequest,
    ItemsResult,
)
from index_store.query.execute import unknown_keys
from index_store.query.facets import facets_of, live_rows
from index_store.query.stored_items import read_ids, read_item_page
from index_store.types import Filter
from item_rules.lifetime import span_of


class ItemReader:
    """Fits `index_store.port.ItemSource`. Safe from any thread."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        """collections: raises UnknownCollection for a name that it does not have."""
        self._collections = collections

    def list_items(self, collection: str, request: ItemsRequest) -> ItemsResult:
        """See `ItemSource`."""
        found, condition = self._checked(collection, request)
        with found.members() as members:
            current = members.current
            if current is None:
                return ItemsResult((), None, "", 0)
            with current.store.reading() as connection:
                page = read_item_page(connection, request, condition, span_of(found.spec.lifetime))
            if page.damaged:
                current.store.read(page.damaged)  # which notes what is wrong with them
        items = [row.as_item() for row in page.rows]
        return ItemsResult(items, page.next_after, current.embedding_version, page.seq, page.looked)

    def list_ids(self, collection: str, request: ItemsRequest) -> IdsResult:
        """See `ItemSource`."""
        found, condition = self._checked(collection, request)
        with found.members() as members:
            if members.current is None:
                return IdsResult((), None)
            with members.current.store.reading() as connection:
                return IdsResult(*read_ids(connection, request, condition, span_of(found.spec.lifetime)))

    def count_items(self, collection: str, condition: Filter | None) -> CountResult:
        """See `ItemSource`."""
        return self.count_values(collection, FacetsRequest(condition, keys=())).counted

    def count_values(self, collection: str, request: FacetsRequest) -> FacetsResult:
        """See `ItemSource`."""
        condition = _compiled(request.filter)
        found = self._collections[collection]
        with found.members() as members:
            current = members.current
            if current is None:
                return FacetsResult(CountResult(0, "", 0), ())
            view = current.refresh()
            sources = live_rows(view, condition, span_of(found.spec.lifetime))
            facets = facets_of(sources, request)
            live = sum(int(np.count_nonzero(each.mask)) for each in sources)
            unknown = unknown_keys(view, condition)
            return FacetsResult(CountResult(live, current.embedding_version, view.seq, unknown), facets)

    def _checked(self, collection: str, request: ItemsRequest) -> tuple[Collection, CompiledFilter | None]:
        found = self._collections[collection]
        if request.after is not None:
            check_id(request.after, found.spec, "after")
        if request.items_max < 1 or request.rows_max < 1:
            raise InvalidRequest("items_max and rows_max must be 1 or more", "items_max")
        return found, _compiled(request.filter)


def _compiled(condition: Filter | None) -> CompiledFilter | None:
    return None if condition is None else compiled_filter(condition)
