"""Changes of stored items: /v1/delete, /v1/activate, /v1/deactivate. 200 means durable and visible."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request

from index_store.types import ItemDelete
from service.app.ingest import Ingester, Intake, NewItem
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, ingest_audited
from service.http.wire.items.written import written
from service.http.wire.schemas import IdsIn
from service.http.wire.values import in_range, read_ids, read_source_version


class ChangeRoutes:
    """Delete, activate, deactivate. 200 means stored and visible to every later search."""

    def __init__(self, dependencies: Dependencies, ingester: Ingester) -> None:
        self._dependencies = dependencies
        self._ingester = ingester
        self._ids_decoder = msgspec.json.Decoder(IdsIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.WRITE))
        router.add_api_route("/v1/delete", self.post_delete, methods=["POST"])
        router.add_api_route("/v1/activate", self.post_activate, methods=["POST"])
        router.add_api_route("/v1/deactivate", self.post_deactivate, methods=["POST"])
        return router

    async def post_delete(self, request: Request) -> JsonResponse:
        """Delete ids; unknown ones are no error."""
        body = await self._ids_body(request)
        collection = self._dependencies.collection(body.collection)
        ids = read_ids(body.ids, collection, "ids")
        deletes = [ItemDelete(id, body.source_version) for id in ids]
        return await self._ingest(request, Intake(collection.name, deletes=deletes))

    async def post_activate(self, request: Request) -> JsonResponse:
        """Let ids be found again; the answer lists those that are unknown."""
        return await self._set_active(request, active=True)

    async def post_deactivate(self, request: Request) -> JsonResponse:
        """Hide ids from searches without deleting them; the answer lists those that are unknown."""
        return await self._set_active(request, active=False)

    async def _set_active(self, request: Request, *, active: bool) -> JsonResponse:
        body = await self._ids_body(request)
        collection = self._dependencies.collection(body.collection)
        items = [
            NewItem(place, id, active=active, source_version=body.source_version)
            for place, id in enumerate(read_ids(body.ids, collection, "ids"))
        ]
        return await self._ingest(request, Intake(collection.name, items=items))

    async def _ids_body(self, request: Request) -> IdsIn:
        body = await self._dependencies.read_json(request, self._ids_decoder)
        in_range("ids", len(body.ids), 0, self._dependencies.settings.upsert_items_max)
        read_source_version(body.source_version)
        return body

    async def _ingest(self, request: Request, intake: Intake) -> JsonResponse:
        return JsonResponse(written(*await ingest_audited(request, self._ingester, intake)))
