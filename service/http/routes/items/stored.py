"""Items as they are stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.convertors import Convertor, register_url_convertor

from index_store.listings import ItemsRequest
from index_store.port import ItemSource
from index_store.types import GenerationStatus, Ids, StoredItem
from service.app.listing.scan_queue import ScanQueue
from service.collections import Collection
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.body import check_depth
from service.http.wire.items.item_cursor import read_item_cursor, write_item_cursor
from service.http.wire.problems import HttpRefusal
from service.http.wire.values import id_of_text, read_id
from service.http.wire.vector_body import read_filter_text

LISTED_MAX = 1000
_ITEM_BYTES, _FLOAT_BYTES = 400, 12
"""About what an item takes in an answer, and each number of its vector."""
_ROWS_AN_ITEM = 4
_BYTES_A_ROW = 1000
"""An item is read, made and written in the time of four rows that are looked at; so many bytes of its vector
in that of one more."""


class _AnyText(Convertor[str]):
    """An id may hold a line feed, which the framework's own `path` leaves out."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class ItemRoutes:
    """GET /v1/items, /v1/items/{id}: items as the current generation holds them."""

    def __init__(self, dependencies: Dependencies, items: ItemSource, scans: ScanQueue) -> None:
        self._dependencies = dependencies
        self._items = items
        self._scans = scans

    def router(self) -> APIRouter:
        """See RouteGroup."""
        register_url_convertor("text", _AnyText())
        router = APIRouter(dependencies=self._dependencies.requires(Role.SEARCH, is_charged=False))
        router.add_api_route("/v1/items", self.get_items, methods=["GET"])
        router.add_api_route("/v1/items/{id:text}", self.get_item, methods=["GET"])
        return router

    async def get_items(
        self,
        request: Request,
        collection: str | None = None,
        filter: str | None = None,
        live: Annotated[Literal["true", "false", "any"], Query()] = "true",
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 100,
        cursor: str | None = None,
        include: Annotated[Literal["vector"] | None, Query()] = None,
    ) -> Response:
        """Answer with the next stored items by id. filter: JSON. live: hidden ones only where asked for.
        Raises HttpRefusal 404, InvalidInput, Overloaded."""
        found = self._dependencies.collection(collection)
        condition = read_filter_text(filter) or None
        if condition is not None:
            check_depth(condition, "filter")
        is_live = None if live == "any" else live == "true"
        after = None if cursor is None else read_item_cursor(found, condition, is_live, cursor)
        bytes_max = self._dependencies.settings.answer_bytes_max
        item_bytes = _ITEM_BYTES
        if include is not None:
            item_bytes += _FLOAT_BYTES * self._dependencies.catalogue.dim(found)
        asked = ItemsRequest(
            after,
            condition,
            is_live,
            items_max=min(limit, max(1, bytes_max // 2 // item_bytes)),
            metadata_bytes_max=bytes_max // 4,  # of which a character takes up to 4 bytes in an answer
        )
        # The rows of the page at least; what a filter has looked at besides is counted when it is known.
        least = asked.items_max * (_ROWS_AN_ITEM + (item_bytes - _ITEM_BYTES) / _BYTES_A_ROW)
        self._dependencies.charge_scan(request, least)
        caller = exchange_of(request).caller
        data, rows = await self._scans.run(
            lambda: self._encoded(found, asked, with_vector=include is not None),
            least + (asked.rows_max if condition is not None else 0),
            caller,
        )
        self._dependencies.quotas.count_search_rows(caller, rows - least)
        return Response(data, media_type="application/json")

    def _encoded(
        self, collection: Collection, asked: ItemsRequest, *, with_vector: bool
    ) -> tuple[bytes, int]:
        """The answer, and how many rows were read for it."""
        page = self._items.list_items(collection.name, asked)
        following = page.next_after
        # One by one: no other thread runs while the encoder does, tens of milliseconds for a page of vectors.
        items = [
            JsonResponse.encoded(_described(collection, each, with_vector=with_vector)) for each in page.items
        ]
        about = {
            "next_cursor": None
            if following is None
            else write_item_cursor(collection, asked.filter, asked.is_live, following),
            "embedding_version": page.embedding_version,
            "seq": page.seq,
        }
        return b'{"items":[%s],%s' % (b",".join(items), JsonResponse.encoded(about)[1:]), page.rows

    async def get_item(
        self,
        request: Request,
        id: str,
        collection: str | None = None,
        include: Annotated[Literal["vector"] | None, Query()] = None,
    ) -> JsonResponse:
        """Answer with one item as the current generation holds it. Raises HttpRefusal 404."""
        self._dependencies.charge_request(request)
        found = self._dependencies.collection(collection)
        wanted = read_id(id_of_text(id, found), found, "id")
        status, item = await self._dependencies.run_blocking(lambda: self._look_up(found.name, [wanted]))
        if item is None or status is None:
            raise HttpRefusal(404, "unknown_item", f"There is no item {id[:64]!r} in {found.name!r}.")
        document = _described(found, item, with_vector=include is not None)
        return JsonResponse({**document, "embedding_version": status.embedding_version})

    def _look_up(self, collection: str, ids: Ids) -> tuple[GenerationStatus | None, StoredItem | None]:
        index = self._dependencies.index
        return index.status(collection).current, index.get(collection, ids)[0]


def _is_shown(collection: Collection, item: StoredItem) -> bool:
    lifetime = collection.lifetime
    return lifetime is None or lifetime.state(item.metadata, lifetime.clock()) is None


def _described(collection: Collection, item: StoredItem, *, with_vector: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        collection.id_field: item.id,
        "active": item.active,
        "live": item.is_live and _is_shown(collection, item),
        "metadata": item.metadata,
        "source_version": item.source_version,
        "content_hash": item.content_hash.hex() if item.content_hash else None,
        "seq": item.seq,
    }
    if with_vector:
        document["vector"] = item.vector
    return document
