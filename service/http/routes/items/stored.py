"""Items as they are stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.convertors import Convertor, register_url_convertor

from index_store.types import GenerationStatus, Ids, StoredItem
from item_rules.ids import INT64_MAX, INT64_MIN
from service.collections import Collection
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse
from service.http.wire.problems import HttpRefusal
from service.http.wire.values import read_id


class _AnyText(Convertor[str]):
    """An id may hold a line feed, which the framework's own `path` leaves out."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class ItemRoutes:
    """GET /v1/items/{id}: one item as it is stored."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies

    def router(self) -> APIRouter:
        """See RouteGroup."""
        register_url_convertor("text", _AnyText())
        router = APIRouter(dependencies=self._dependencies.requires(Role.SEARCH))
        router.add_api_route("/v1/items/{id:text}", self.get_item, methods=["GET"])
        return router

    async def get_item(
        self,
        id: str,
        collection: str | None = None,
        include: Annotated[Literal["vector"] | None, Query()] = None,
    ) -> JsonResponse:
        """Answer with one item as the current generation holds it. Raises HttpRefusal 404."""
        found = self._dependencies.collection(collection)
        wanted = read_id(_path_id(id, found), found, "id")
        status, item = await self._dependencies.run_blocking(lambda: self._look_up(found.name, [wanted]))
        if item is None or status is None:
            raise HttpRefusal(404, "unknown_item", f"There is no item {id[:64]!r} in {found.name!r}.")
        document: dict[str, Any] = {
            found.id_field: item.id,
            "active": item.active,
            "live": item.is_live,
            "metadata": item.metadata,
            "source_version": item.source_version,
            "content_hash": item.content_hash.hex() if item.content_hash else None,
            "seq": item.seq,
            "embedding_version": status.embedding_version,
        }
        if include == "vector":
            document["vector"] = item.vector
        return JsonResponse(document)

    def _look_up(self, collection: str, ids: Ids) -> tuple[GenerationStatus | None, StoredItem | None]:
        index = self._dependencies.index
        return index.status(collection).current, index.get(collection, ids)[0]


def _path_id(text: str, collection: Collection) -> int | str:
    """A path has no types: digits name an int64 id where the collection has those."""
    if collection.id_type == "string":
        return text
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 19 and INT64_MIN <= int(text) <= INT64_MAX:
        return int(text)
    return text
