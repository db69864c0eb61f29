"""POST /v1/count and /v1/facets: how many items pass a filter, and which values they have."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from index_store.listings import CountResult, Facet, FacetsRequest
from service.app.listing.item_counts import ItemCounts, passes_of
from service.collections import Collection
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.answers import unknown_key_warnings
from service.http.wire.body import check_depth
from service.http.wire.items.item_requests import CountIn, FacetsIn

B = TypeVar("B", CountIn, FacetsIn)


class CountRoutes:
    """Counts of items, for everyone who may search."""

    def __init__(self, dependencies: Dependencies, counts: ItemCounts) -> None:
        self._dependencies = dependencies
        self._counts = counts
        self._count_decoder = msgspec.json.Decoder(CountIn)
        self._facets_decoder = msgspec.json.Decoder(FacetsIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.SEARCH, is_charged=False))
        router.add_api_route("/v1/count", self.post_count, methods=["POST"])
        router.add_api_route("/v1/facets", self.post_facets, methods=["POST"])
        return router

    async def post_count(self, request: Request) -> Response:
        """Answer with how many items pass. Raises HttpRefusal 404, InvalidFilter, Overloaded."""
        body = await self._dependencies.read_as(request, self._count_decoder, _with_checked_filter)
        collection, condition = self._dependencies.collection(body.collection), body.filter
        caller, rows = exchange_of(request).caller, self._counts.rows_weighed(collection.name, 1)
        if body.hidden:
            rows += await self._dependencies.run_blocking(lambda: self._held(collection))
        self._dependencies.charge_scan(request, rows)
        counted = await self._counts.count(collection.name, condition, caller)
        document: dict[str, Any] = {"count": counted.live}
        if body.hidden:
            document["hidden"] = await self._counts.count_hidden(collection.name, condition, caller)
        return JsonResponse({**document, **_about(collection, counted)})

    def _held(self, collection: Collection) -> int:
        """How many items are stored: so many rows are read to count the hidden ones."""
        current = self._dependencies.index.status(collection.name).current
        return 0 if current is None else current.items

    async def post_facets(self, request: Request) -> Response:
        """Answer with the values of metadata keys among the items that pass. Raises as `post_count`."""
        body = await self._dependencies.read_as(request, self._facets_decoder, _with_checked_filter)
        collection = self._dependencies.collection(body.collection)
        asked = FacetsRequest(
            body.filter,
            None if body.keys is None else list(dict.fromkeys(body.keys)),
            values_max=body.top,
            ranges=body.ranges,
        )
        rows = self._counts.rows_weighed(collection.name, passes_of(asked))
        self._dependencies.charge_scan(request, rows)
        found = await self._counts.facets(collection.name, asked, exchange_of(request).caller)
        return JsonResponse(
            {
                "count": found.counted.live,
                "facets": [_facet(each) for each in found.facets],
                **_about(collection, found.counted),
            }
        )


def _with_checked_filter(body: B) -> B:
    """The filter has a bounded depth; it is None where it has no conditions. Raises InvalidInput."""
    if not body.filter:
        body.filter = None
        return body
    check_depth(body.filter, "filter")
    return body


def _about(collection: Collection, counted: CountResult) -> dict[str, Any]:
    document: dict[str, Any] = {"embedding_version": counted.embedding_version, "seq": counted.seq}
    if counted.unknown_filter_keys:
        document["warnings"] = unknown_key_warnings(collection.name, counted.unknown_filter_keys)
    return document


def _facet(facet: Facet) -> dict[str, Any]:
    return {
        "key": facet.key,
        "count": facet.items,
        "distinct": facet.distinct,
        "others": None if facet.distinct is None else facet.distinct - len(facet.values),
        "values": [{"value": value, "count": items} for value, items in facet.values],
        "ranges": [
            {"from": _plain(each.low), "to": _plain(each.high), "count": each.items} for each in facet.ranges
        ],
    }


def _plain(edge: float) -> int | float:
    return int(edge) if edge.is_integer() and abs(edge) < 1 << 53 else edge
