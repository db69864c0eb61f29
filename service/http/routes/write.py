"""Writing: /v1/upsert, /v1/delete, /v1/activate, /v1/deactivate. 200 means durable and visible."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request

from index_store.types import Ack, Id, ItemDelete
from item_rules.ids import int64_fault
from service.app.ingest import Ingester, Intake, NewItem
from service.errors import Reject
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse
from service.http.wire.body import decode_json, require_utf8
from service.http.wire.schemas import IdsIn, UpsertIn
from service.http.wire.upsert import IntakeReader
from service.http.wire.values import in_range, read_ids, read_source_version

_INLINE_BYTES_MAX = 262_144
"""Larger bodies are decoded item by item on a thread, so that searches get their turn in between."""

_TOLD_CHARS_MAX = 1024


class WriteRoutes:
    """Upsert, delete, activate, deactivate. 200 means stored and visible to every later search."""

    def __init__(self, dependencies: Dependencies, ingester: Ingester, reader: IntakeReader) -> None:
        self._dependencies = dependencies
        self._ingester = ingester
        self._reader = reader
        self._upsert_decoder = msgspec.json.Decoder(UpsertIn)
        self._ids_decoder = msgspec.json.Decoder(IdsIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.WRITE))
        router.add_api_route("/v1/upsert", self.post_upsert, methods=["POST"])
        router.add_api_route("/v1/delete", self.post_delete, methods=["POST"])
        router.add_api_route("/v1/activate", self.post_activate, methods=["POST"])
        router.add_api_route("/v1/deactivate", self.post_deactivate, methods=["POST"])
        return router

    async def post_upsert(self, request: Request, partial: Annotated[bool, Query()] = False) -> JsonResponse:
        """Store items, or with `partial` those of them that are right. Raises BatchRejected."""
        body = await self._dependencies.read_body(request, self._dependencies.settings.upsert_bytes_max)
        if len(body) <= _INLINE_BYTES_MAX:
            intake = self._read_upsert(body)
        else:
            intake = await asyncio.get_running_loop().run_in_executor(
                self._dependencies.readers, self._read_upsert, body
            )
        return _written(*await self._ingester.ingest(intake, partial=partial))

    def _read_upsert(self, body: bytes) -> Intake:
        require_utf8(body)  # what is decoded later, or never, would not tell
        return self._reader.read(decode_json(self._upsert_decoder, body))

    async def post_delete(self, request: Request) -> JsonResponse:
        """Delete ids; unknown ones are no error."""
        body = await self._ids_body(request)
        collection = self._dependencies.collection(body.collection)
        ids = read_ids(body.ids, collection, "ids")
        deletes = [ItemDelete(id, body.source_version) for id in ids]
        return await self._ingest(Intake(collection.name, deletes=deletes))

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
        return await self._ingest(Intake(collection.name, items=items))

    async def _ids_body(self, request: Request) -> IdsIn:
        body = await self._dependencies.read_json(request, self._ids_decoder)
        in_range("ids", len(body.ids), 0, self._dependencies.settings.upsert_items_max)
        read_source_version(body.source_version)
        return body

    async def _ingest(self, intake: Intake) -> JsonResponse:
        return _written(*await self._ingester.ingest(intake, partial=False))


def _written(ack: Ack, rejects: Sequence[Reject]) -> JsonResponse:
    return JsonResponse(
        {
            "upserted": ack.upserted,
            "deleted": ack.deleted,
            "stale_ignored": ack.stale_ignored,
            "rejected": [_rejected(each) for each in rejects],
            "unknown_ids": ack.unknown_ids,
            "seq": ack.seq,
            "version": ack.embedding_version,
            "vanished": ack.vanished,
            "reappeared": ack.reappeared,
        }
    )


def _rejected(reject: Reject) -> dict[str, Any]:
    return {
        "id": reject.id if _is_encodable(reject.id) else None,
        "code": reject.code,
        "detail": reject.detail,
        "loc": ["body", *reject.loc],
    }


def _is_encodable(id: Id | None) -> bool:
    """An answer has no room for every number and every text; `loc` says which one it was."""
    if isinstance(id, int):
        return int64_fault(id) is None
    return id is None or len(id) <= _TOLD_CHARS_MAX
