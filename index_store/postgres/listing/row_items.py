"""Stored items of the current generation, listed and counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from psycopg import errors

from index_store.answers.validation import check_id
from index_store.errors import InvalidRequest, Unavailable
from index_store.filter.cache import CompiledFilter, compiled_filter
from index_store.hints import TRY_AGAIN
from index_store.listings import (
    CountResult,
    FacetsRequest,
    FacetsResult,
    IdsResult,
    ItemsRequest,
    ItemsResult,
)
from index_store.postgres.conditions import EVERYTHING, Condition, all_of, filter_condition, shown_condition
from index_store.postgres.connections import BoundedConnection, Connections
from index_store.postgres.generations import GenerationRecord
from index_store.postgres.listing.facets import ConditionRows, count_rows, read_facets
from index_store.postgres.listing.pages import ItemScan, read_ids, read_page
from index_store.postgres.reading import one_moment, read_items
from index_store.postgres.schema import rows_table
from index_store.postgres.searches.collection_search import read_collection
from index_store.postgres.searches.known_keys import RowKeys
from index_store.types import CollectionSpec, Filter
from item_rules.lifetime import span_of

_TRIES = 5

Found = TypeVar("Found")


class RowItems:
    """Fits `index_store.port.ItemSource`. Safe from any thread."""

    def __init__(
        self, connections: Connections, spec_of: Callable[[str], CollectionSpec], keys: RowKeys
    ) -> None:
        """spec_of: raises UnknownCollection for a name that there is not."""
        self._connections = connections
        self._spec_of = spec_of
        self._keys = keys

    def list_items(self, collection: str, request: ItemsRequest) -> ItemsResult:
        """See `ItemSource`. Raises StoreUnavailable."""
        spec = self._spec_of(collection)
        passes = _checked(spec, request)

        def read(connection: BoundedConnection, current: GenerationRecord) -> ItemsResult:
            page = read_page(_scan(connection, spec, current, passes), request)
            found = read_items(connection, spec, page.ids, current) or {}
            items = [found[item_id] for item_id in page.ids if item_id in found]
            return ItemsResult(items, page.next_after, current.embedding_version, current.head, page.looked)

        return self._read(spec, self._connections.limits.read_s, read) or ItemsResult((), None, "", 0)

    def list_ids(self, collection: str, request: ItemsRequest) -> IdsResult:
        """See `ItemSource`. Raises StoreUnavailable."""
        spec = self._spec_of(collection)
        passes = _checked(spec, request)

        def read(connection: BoundedConnection, current: GenerationRecord) -> IdsResult:
            page = read_ids(_scan(connection, spec, current, passes), request)
            return IdsResult(page.ids, page.next_after)

        return self._read(spec, self._connections.limits.read_s, read) or IdsResult((), None)

    def count_items(self, collection: str, condition: Filter | None) -> CountResult:
        """See `ItemSource`. Raises StoreUnavailable."""
        return self.count_values(collection, FacetsRequest(condition, keys=())).counted

    def count_values(self, collection: str, request: FacetsRequest) -> FacetsResult:
        """See `ItemSource`. Raises StoreUnavailable."""
        spec = self._spec_of(collection)
        compiled = None if request.filter is None else compiled_filter(request.filter)

        def read(connection: BoundedConnection, current: GenerationRecord) -> FacetsResult:
            rows = _live_rows(connection, spec, current, compiled)
            keys = () if compiled is None else compiled.keys
            unknown = [key for key in keys if not self._keys.is_held(connection, current, key)]
            live = count_rows(rows)
            counted = CountResult(live, current.embedding_version, current.head, unknown)
            return FacetsResult(counted, read_facets(rows, request))

        found = self._read(spec, self._connections.limits.write_s, read)
        return found or FacetsResult(CountResult(0, "", 0), ())

    def _read(
        self,
        spec: CollectionSpec,
        limit_s: float,
        read: Callable[[BoundedConnection, GenerationRecord], Found],
    ) -> Found | None:
        """Return what `read` makes of the current generation, by statements that all see the same rows; None
        where there is none."""
        with self._connections.using(limit_s) as connection:
            for _ in range(_TRIES):
                with (
                    suppress(errors.UndefinedTable),
                    one_moment(connection),
                ):  # dropped between two statements
                    current = read_collection(connection, spec).current
                    return None if current is None else read(connection, current)
        raise Unavailable(f"the generations of {spec.name!r} change faster than they can be read", TRY_AGAIN)


def _checked(spec: CollectionSpec, request: ItemsRequest) -> Condition:
    """Return what the filter wants of a row."""
    if request.after is not None:
        check_id(request.after, spec, "after")
    if request.items_max < 1 or request.rows_max < 1:
        raise InvalidRequest("items_max and rows_max must be 1 or more", "items_max")
    return EVERYTHING if request.filter is None else filter_condition(compiled_filter(request.filter).node)


def _scan(
    connection: BoundedConnection, spec: CollectionSpec, current: GenerationRecord, passes: Condition
) -> ItemScan:
    return ItemScan(connection, rows_table(current.number), current.head, passes, _shown(spec))


def _live_rows(
    connection: BoundedConnection,
    spec: CollectionSpec,
    current: GenerationRecord,
    compiled: CompiledFilter | None,
) -> ConditionRows:
    """The rows that searches can return and that pass."""
    live = Condition(
        "seq <= %s AND (until IS NULL OR until > %s) AND active AND vector IS NOT NULL",
        (current.head, current.head),
    )
    passes = EVERYTHING if compiled is None else filter_condition(compiled.node)
    return ConditionRows(connection, rows_table(current.number), all_of([live, passes, _shown(spec)]))


def _shown(spec: CollectionSpec) -> Condition:
    span = span_of(spec.lifetime)
    return EVERYTHING if span is None else shown_condition(span)
