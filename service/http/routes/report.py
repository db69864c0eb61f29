"""What a generation would answer before the switch to it: the report, and single searches."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from service.app.report.gates import failing
from service.app.report.page import POLICY, report_page
from service.app.report.queries import ReplayQuery
from service.app.report.reports import FoundReport, Reports
from service.app.search import ParsedSearch
from service.collections import Collection
from service.errors import InvalidInput
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.answers import encoded_in_pieces, expected_bytes
from service.http.wire.report_queries import read_change, read_report_queries
from service.http.wire.schemas import RehearsalIn, ReportIn, SearchIn
from service.http.wire.search import SearchLimits, SearchReader

_GENERATION = "/v1/collections/{collection}/generations/{generation}"
_PATH = f"{_GENERATION}/report"


class ReportRoutes:
    """The report group."""

    def __init__(self, dependencies: Dependencies, reports: Reports, limits: SearchLimits) -> None:
        self._dependencies = dependencies
        self._reports = reports
        self._limits = limits
        self._decoder = msgspec.json.Decoder(ReportIn)
        self._rehearsal_decoder = msgspec.json.Decoder(RehearsalIn)
        self._search_decoder = msgspec.json.Decoder(SearchIn)
        self._search_reader = SearchReader(dependencies.catalogue, limits)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route(_PATH, self.get_report, methods=["GET"])
        router.add_api_route(_PATH, self.post_report, methods=["POST"])
        router.add_api_route(f"{_GENERATION}/search", self.post_generation_search, methods=["POST"])
        router.add_api_route("/v1/collections/{collection}/rehearsal", self.post_rehearsal, methods=["POST"])
        return router

    async def get_report(self, collection: str, generation: str, request: Request) -> Response:
        """Answer with the stored report, or make one: JSON, or a page for who accepts that."""
        named = self._dependencies.collection(collection)
        return await self._answer(await self._reports.find_or_make(named, generation), request)

    async def post_report(self, collection: str, generation: str, request: Request) -> Response:
        """Make a fresh report, on the given queries and judgements where there are some."""
        named = self._dependencies.collection(collection)
        exchange_of(request).note_work(named.name, generation=generation)
        queries = await self._dependencies.read_as(
            request, self._decoder, lambda body: self._queries(body, named)
        )
        return await self._answer(await self._reports.make_fresh(named, generation, queries), request)

    async def post_rehearsal(self, collection: str, request: Request) -> Response:
        """Compare the current generation with itself under other settings of the searches."""
        named = self._dependencies.collection(collection)
        exchange_of(request).note_work(named.name)
        change, queries = await self._dependencies.read_as(
            request,
            self._rehearsal_decoder,
            lambda body: (read_change(body.change, self._limits), self._queries(body, named)),
        )
        return await self._answer(await self._reports.rehearse(named, change, queries), request)

    async def post_generation_search(self, collection: str, generation: str, request: Request) -> Response:
        """Answer one search from a generation, serving or not, to be held beside the one that serves."""
        began_at = time.perf_counter()
        named = self._dependencies.collection(collection)
        search = await self._dependencies.read_as(
            request, self._search_decoder, lambda body: self._search_of(body, named)
        )
        size, bytes_max = expected_bytes(search), self._dependencies.settings.answer_bytes_max
        if size > bytes_max:
            raise InvalidInput(
                "top_k", f"would be answered by more than {bytes_max} bytes", "answer_too_large"
            )
        result = await self._reports.search_generation(named, generation, search)
        took_ms = (time.perf_counter() - began_at) * 1000
        page = replace(result, next_page=None)  # a cursor would be one of the generation that serves
        encode = partial(encoded_in_pieces, search, page, took_ms)
        return Response(await self._dependencies.run_blocking(encode), media_type="application/json")

    def _search_of(self, body: SearchIn, collection: Collection) -> ParsedSearch:
        _require_one_page(body, collection)
        body.collection = collection.name
        return self._search_reader.parse(body)

    def _queries(self, body: ReportIn, collection: Collection) -> list[ReplayQuery]:
        catalogue = self._dependencies.catalogue
        queries_max = self._dependencies.settings.report_queries_max
        return read_report_queries(body, collection, catalogue, self._limits, queries_max)

    async def _answer(self, found: FoundReport, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return _answered(found)
        page = await self._dependencies.run_blocking(lambda: report_page(found))
        return Response(page, media_type="text/html", headers={"content-security-policy": POLICY})


def _require_one_page(body: SearchIn, collection: Collection) -> None:
    if body.collection not in (None, collection.name):
        raise InvalidInput("collection", f"must be {collection.name!r} or left out")
    for name in ("cursor", "min_seq", "seen_key"):
        if getattr(body, name) is not None:
            raise InvalidInput(name, "is served by POST /v1/search only")
    if body.recommend not in (None, "mean"):
        raise InvalidInput("recommend", "must be mean here")


def _answered(found: FoundReport) -> JsonResponse:
    document: dict[str, Any] = {
        "holds": not failing(found.gates),
        "gates": [asdict(each) for each in found.gates],
        "is_stale": found.is_stale,
        **asdict(found.report),
    }
    return JsonResponse(document)
