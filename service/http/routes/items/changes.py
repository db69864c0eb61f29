"""Changes of stored items, by ids or by filter: deleted, shown, hidden, other metadata. 200 means durable and
visible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from fastapi import APIRouter, Request

from index_store.types import Id
from item_rules.metadata import metadata_fault
from service.app.ingest import Ingester
from service.app.listing.filter_writes import Action, FilterSurvey, FilterWrite, FilterWrites
from service.collections import Collection
from service.errors import InvalidInput, StoppedHalfway
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.body import check_depth
from service.http.wire.items.filter_answers import changed, surveyed
from service.http.wire.items.item_requests import ItemsChangeIn, MetadataIn
from service.http.wire.items.written import written
from service.http.wire.values import check_lifetime, in_range, not_one_of, read_ids, read_source_version

C = TypeVar("C", bound=ItemsChangeIn)


class ParsedChange(NamedTuple):
    """ids: None where the filter says which items."""

    write: FilterWrite
    ids: Sequence[Id] | None
    is_dry_run: bool


class ChangeRoutes:
    """Delete, activate, deactivate, metadata. 200 means stored and visible to every later search."""

    def __init__(self, dependencies: Dependencies, ingester: Ingester, filter_writes: FilterWrites) -> None:
        self._dependencies = dependencies
        self._ingester = ingester
        self._filter_writes = filter_writes
        self._decoder = msgspec.json.Decoder(ItemsChangeIn)
        self._metadata_decoder = msgspec.json.Decoder(MetadataIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.WRITE))
        router.add_api_route("/v1/delete", self.post_delete, methods=["POST"])
        router.add_api_route("/v1/activate", self.post_activate, methods=["POST"])
        router.add_api_route("/v1/deactivate", self.post_deactivate, methods=["POST"])
        router.add_api_route("/v1/metadata", self.post_metadata, methods=["POST"])
        return router

    async def post_delete(self, request: Request) -> JsonResponse:
        """Delete items; unknown ids are no error."""
        return await self._change(request, "delete", self._decoder)

    async def post_activate(self, request: Request) -> JsonResponse:
        """Let items be found again; the answer lists ids that are unknown."""
        return await self._change(request, "activate", self._decoder)

    async def post_deactivate(self, request: Request) -> JsonResponse:
        """Hide items from searches without deleting them; the answer lists ids that are unknown."""
        return await self._change(request, "deactivate", self._decoder)

    async def post_metadata(self, request: Request) -> JsonResponse:
        """Replace metadata, or put keys over them; the answer lists ids that are unknown."""
        return await self._change(request, "metadata", self._metadata_decoder)

    async def _change(
        self, request: Request, action: Action, decoder: msgspec.json.Decoder[C]
    ) -> JsonResponse:
        asked = await self._dependencies.read_as(request, decoder, partial(self._read, action))
        if asked.ids is None:
            return await self._change_by_filter(request, asked.write, is_dry_run=asked.is_dry_run)
        done = await self._dependencies.write_intake(request, self._ingester, asked.write.intake(asked.ids))
        return JsonResponse(written(*done))

    async def _change_by_filter(
        self, request: Request, write: FilterWrite, *, is_dry_run: bool
    ) -> JsonResponse:
        exchange = exchange_of(request)
        exchange.note_work(write.collection, by_filter=True, dry_run=is_dry_run)
        if is_dry_run:
            survey = await self._filter_writes.survey(write, exchange.caller)
            exchange.note_counts(matched=survey.matched)
            return JsonResponse(surveyed(survey))

        def charge(survey: FilterSurvey) -> None:
            exchange.note_counts(matched=survey.matched)
            items = max(1, survey.matched)
            exchange.rate_limit = self._dependencies.quotas.charge_write(exchange.caller, items)

        try:
            survey, result = await self._filter_writes.apply(write, exchange.caller, charge)
        except StoppedHalfway as exc:
            exchange.note_counts(matched=exc.matched, done=exc.done)
            raise
        exchange.note_counts(matched=survey.matched, done=result.done, rejected=result.rejected)
        return JsonResponse(changed(survey, result))

    def _read(self, action: Action, body: ItemsChangeIn) -> ParsedChange:
        """Raises InvalidInput, HttpRefusal 404."""
        read_source_version(body.source_version)
        collection = self._dependencies.collection(body.collection)
        if (body.ids is None) == (body.filter is None):
            raise not_one_of({"ids": body.ids, "filter": body.filter})
        write = self._read_write(collection, action, body)
        ids = None if body.ids is None else self._read_ids(collection, body.ids, body)
        return ParsedChange(write, ids, body.dry_run)

    def _read_write(self, collection: Collection, action: Action, body: ItemsChangeIn) -> FilterWrite:
        """Raises InvalidInput."""
        if body.ids is None:
            check_depth(body.filter, "filter")
            if not body.filter and not body.all_items:
                raise InvalidInput("filter", "is empty, which is every item: say all_items if that is meant")
        if body.all_items and (body.ids is not None or body.filter):
            raise InvalidInput("all_items", "goes with an empty filter only")
        metadata = merge = None
        if isinstance(body, MetadataIn):
            metadata, merge = body.replace, body.merge
            if (metadata is None) == (merge is None):
                raise not_one_of({"merge": merge, "replace": metadata})
            field, given = ("merge", merge) if metadata is None else ("replace", metadata)
            fault = metadata_fault(given, self._dependencies.settings.metadata_bytes_max)
            if fault is not None:
                raise InvalidInput(field, fault)
            check_lifetime(given or {}, collection, field)
        return FilterWrite(
            collection.name, action, body.filter or None, metadata, merge, body.source_version, body.confirm
        )

    def _read_ids(self, collection: Collection, ids: Sequence[Id], body: ItemsChangeIn) -> Sequence[Id]:
        for field, is_given in (("dry_run", body.dry_run), ("confirm", body.confirm is not None)):
            if is_given:
                raise InvalidInput(field, "goes with a filter only")
        in_range("ids", len(ids), 0, self._dependencies.settings.upsert_items_max)
        return read_ids(ids, collection, "ids")
