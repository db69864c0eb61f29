"""The deployed product-image calls: multipart in, a bare JSON array out."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from index_store.types import SearchRequest
from service.app.ingest import PictureSource
from service.app.monitoring.search_meter import SearchMeter
from service.app.search import NO_VECTOR, ParsedSearch, Searcher
from service.collections import Collection
from service.errors import FieldError, InvalidInput
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.quotas import PICTURE_UNITS
from service.http.wire.answers import hit_scores
from service.http.wire.body import media_type
from service.http.wire.problems import HANDLED, HttpRefusal
from service.http.wire.schemas import SimilarByUrlIn
from service.http.wire.values import in_range
from service.http.wire.vector_body import in_query_string

_FORM_EXTRA_BYTES = 65_536
"""Bytes of a form besides the picture: boundaries, part headers, small fields."""
_URL_CHARS_MAX = 2048

TopK = Annotated[int | None, Query()]


class LegacyRoutes:
    """The routes of `api.py`: similar pictures, by upload or by address."""

    def __init__(
        self, dependencies: Dependencies, searcher: Searcher, meter: SearchMeter, pictures: PictureSource
    ) -> None:
        self._dependencies = dependencies
        self._searcher = searcher
        self._meter = meter
        self._pictures = pictures
        self._url_decoder = msgspec.json.Decoder(SimilarByUrlIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.SEARCH, is_charged=False))
        router.add_api_route("/search_similar", self.post_search_similar, methods=["POST"])
        router.add_api_route("/search_similar_by_url", self.post_search_similar_by_url, methods=["POST"])
        return router

    async def post_search_similar(self, request: Request, top_k: TopK = None) -> JsonResponse:
        """Answer with the products that look like the uploaded picture."""
        self._dependencies.charge_request(request, PICTURE_UNITS)
        data, form_top_k = await self._upload(request)
        wanted = self._k(form_top_k) if top_k is None else self._k_of_parameter(top_k)
        return JsonResponse(await self._similar(request, data, wanted))

    async def post_search_similar_by_url(self, request: Request, top_k: TopK = None) -> JsonResponse:
        """Answer with the products that look like the picture behind an address."""
        self._dependencies.charge_request(request, PICTURE_UNITS)
        body = await self._dependencies.read_json(request, self._url_decoder)
        in_range("image_url", len(body.image_url), 1, _URL_CHARS_MAX)
        # Before a fetch is spent on it:
        wanted = self._k(body.top_k) if top_k is None else self._k_of_parameter(top_k)
        return JsonResponse(await self._similar(request, await self._pictures.fetch(body.image_url), wanted))

    async def _upload(self, request: Request) -> tuple[bytes, int | None]:
        """Return the picture and the form's top_k, if it has one."""
        headers = exchange_of(request).headers
        if media_type(headers) != b"multipart/form-data":
            raise HttpRefusal(415, "unsupported_media_type", "The content type must be multipart/form-data.")
        bytes_max = self._dependencies.settings.image_bytes_max + _FORM_EXTRA_BYTES
        try:
            async with (
                self._dependencies.bodies.streamed(request.receive, headers, bytes_max=bytes_max) as receive,
                Request(request.scope, receive).form(max_files=1, max_fields=8) as form,
            ):
                file, top_k = form.get("file"), form.get("top_k")
                if not isinstance(file, UploadFile):
                    raise InvalidInput("file", "is missing")
                return await file.read(), _form_int(top_k) if isinstance(top_k, str) else None
        except HTTPException as exc:
            raise HttpRefusal(400, "malformed_form", "The body is not a well-formed form.") from exc

    async def _similar(self, request: Request, data: bytes, top_k: int) -> list[dict[str, Any]]:
        collection = self._collection()
        wanted = SearchRequest(
            NO_VECTOR,
            top_k,
            with_metadata=True,
            with_vectors=collection.metric != "cosine",
            metadata_bytes_max=self._dependencies.settings.answer_bytes_max,
        )
        search = ParsedSearch(collection, wanted, content=data)
        exchange = exchange_of(request)
        began_at = time.perf_counter()
        try:
            result = await self._searcher.find(search, exchange.caller)
        except HANDLED as exc:
            now = time.perf_counter()
            self._meter.search_ended(search, began_at, now, now, exchange.request_id, exc)
            raise
        now = time.perf_counter()
        if exchange.trace is not None:
            exchange.trace.add_search(search, began_at, now, now)
        self._meter.search_ended(search, began_at, now, now, exchange.request_id)
        hits = result.hits
        return [
            {
                "product_id": str(hit.id),
                "image_url": (hit.metadata or {}).get("image_url"),
                "score": score,
                "rank": place,
            }
            for place, (hit, score) in enumerate(
                zip(hits, hit_scores(collection, wanted.vector, hits), strict=True), start=1
            )
        ]

    def _k_of_parameter(self, top_k: int) -> int:
        try:
            return self._k(top_k)
        except InvalidInput as exc:
            raise in_query_string(exc.code, str(exc), exc.loc, exc.msg) from exc

    def _k(self, top_k: int | None) -> int:
        settings = self._dependencies.settings
        wanted = settings.default_top_k if top_k is None else top_k
        return in_range("top_k", wanted, 1, settings.top_k_max)

    def _collection(self) -> Collection:
        collection = self._dependencies.catalogue.default_of("image")
        if collection is None:
            raise HttpRefusal(404, "unknown_collection", "No picture collection is configured.")
        return collection


def _form_int(text: str) -> int:
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise HttpRefusal(
            422,
            "invalid_request",
            "top_k must be an integer.",
            errors=[FieldError(("body", "top_k"), "must be an integer")],
        )
    return int(text)
