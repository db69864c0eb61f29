"""Writing: /v1/upsert. 200 means durable and visible."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request

from service.app.ingest import Ingester, Intake
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse
from service.http.wire.body import decode_json, read_in_turn, require_utf8
from service.http.wire.items.written import written
from service.http.wire.schemas import UpsertIn
from service.http.wire.upsert import IntakeReader

_RAW_LISTS = frozenset(("items", "delete_ids"))


class WriteRoutes:
    """Upsert. 200 means stored and visible to every later search."""

    def __init__(self, dependencies: Dependencies, ingester: Ingester, reader: IntakeReader) -> None:
        self._dependencies = dependencies
        self._ingester = ingester
        self._reader = reader
        self._upsert_decoder = msgspec.json.Decoder(UpsertIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.WRITE))
        router.add_api_route("/v1/upsert", self.post_upsert, methods=["POST"])
        return router

    async def post_upsert(self, request: Request, partial: Annotated[bool, Query()] = False) -> JsonResponse:
        """Store items, or with `partial` those of them that are right. Raises BatchRejected."""
        body = await self._dependencies.read_body(request, self._dependencies.settings.upsert_bytes_max)
        intake = await read_in_turn(body, lambda: self._read_upsert(body), self._dependencies.readers)
        done = await self._dependencies.write_intake(request, self._ingester, intake, partial=partial)
        return JsonResponse(written(*done))

    def _read_upsert(self, body: bytes) -> Intake:
        require_utf8(body)  # what is decoded later, or never, would not tell
        return self._reader.read(decode_json(self._upsert_decoder, body, _RAW_LISTS))
