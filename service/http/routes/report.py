"""The report of a generation before the switch to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from service.app.report.gates import failing
from service.app.report.page import POLICY, report_page
from service.app.report.queries import ReplayQuery
from service.app.report.reports import FoundReport, Reports
from service.collections import Collection
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse
from service.http.wire.report_queries import read_change, read_report_queries
from service.http.wire.schemas import RehearsalIn, ReportIn
from service.http.wire.search import SearchLimits

_PATH = "/v1/collections/{collection}/generations/{generation}/report"


class ReportRoutes:
    """The report group."""

    def __init__(self, dependencies: Dependencies, reports: Reports, limits: SearchLimits) -> None:
        self._dependencies = dependencies
        self._reports = reports
        self._limits = limits
        self._decoder = msgspec.json.Decoder(ReportIn)
        self._rehearsal_decoder = msgspec.json.Decoder(RehearsalIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route(_PATH, self.get_report, methods=["GET"])
        router.add_api_route(_PATH, self.post_report, methods=["POST"])
        router.add_api_route("/v1/collections/{collection}/rehearsal", self.post_rehearsal, methods=["POST"])
        return router

    async def get_report(self, collection: str, generation: str, request: Request) -> Response:
        """Answer with the stored report, or make one: JSON, or a page for who accepts that."""
        named = self._dependencies.collection(collection)
        return await self._answer(await self._reports.find_or_make(named, generation), request)

    async def post_report(self, collection: str, generation: str, request: Request) -> Response:
        """Make a fresh report, on the given queries and judgements where there are some."""
        named = self._dependencies.collection(collection)
        body = await self._dependencies.read_json(request, self._decoder)
        queries = self._queries(body, named)
        return await self._answer(await self._reports.make_fresh(named, generation, queries), request)

    async def post_rehearsal(self, collection: str, request: Request) -> Response:
        """Compare the current generation with itself under other settings of the searches."""
        named = self._dependencies.collection(collection)
        body = await self._dependencies.read_json(request, self._rehearsal_decoder)
        change, queries = read_change(body.change, self._limits), self._queries(body, named)
        return await self._answer(await self._reports.rehearse(named, change, queries), request)

    def _queries(self, body: ReportIn, collection: Collection) -> list[ReplayQuery]:
        catalogue = self._dependencies.catalogue
        queries_max = self._dependencies.settings.report_queries_max
        return read_report_queries(body, collection, catalogue, self._limits, queries_max)

    async def _answer(self, found: FoundReport, request: Request) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return _answered(found)
        page = await self._dependencies.run_blocking(lambda: report_page(found))
        return Response(page, media_type="text/html", headers={"content-security-policy": POLICY})


def _answered(found: FoundReport) -> JsonResponse:
    document: dict[str, Any] = {
        "holds": not failing(found.gates),
        "gates": [asdict(each) for each in found.gates],
        "is_stale": found.is_stale,
        **asdict(found.report),
    }
    return JsonResponse(document)
