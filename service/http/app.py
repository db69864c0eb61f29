"""The HTTP application: middleware, the front end of searches, and FastAPI for every other route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.app.backups import Snapshots
from service.app.health.prober import Prober
from service.app.ingest import Ingester, PictureSource
from service.app.lifecycle import Opening
from service.app.listing.parts import ListingParts
from service.app.monitoring.explanations import Explanations
from service.app.monitoring.search_meter import SearchMeter
from service.app.rebuild.promotions import Promotions
from service.app.rebuild.rebuilds import Rebuilds
from service.app.report.reports import Reports
from service.app.search import Searcher
from service.http.audit import RequestAudit
from service.http.auth import TrustedProxies
from service.http.cross_origin import CrossOrigin
from service.http.dependencies import Dependencies, RouteGroup, exchange_of
from service.http.middleware import RequestMiddleware
from service.http.routes.console import ConsoleRoutes
from service.http.routes.demo import DemoRoutes
from service.http.routes.digest import DigestRoutes
from service.http.routes.embed import EmbedRoutes
from service.http.routes.inspect.audit import AuditRoutes
from service.http.routes.inspect.explain import ExplainRoutes
from service.http.routes.item_map import MapRoutes
from service.http.routes.items.changes import ChangeRoutes
from service.http.routes.items.counts import CountRoutes
from service.http.routes.items.stored import ItemRoutes
from service.http.routes.legacy import LegacyRoutes
from service.http.routes.ops import HealthRoutes, OpsRoutes
from service.http.routes.rebuild import RebuildRoutes
from service.http.routes.report import ReportRoutes
from service.http.routes.search import SearchFront
from service.http.routes.write import WriteRoutes
from service.http.transport.direct_search import Shortcut
from service.http.wire.body import ConnectionLimits
from service.http.wire.problems import HANDLED, PROBLEM_JSON, problem_of, problem_of_parameters
from service.http.wire.search import SearchLimits, SearchReader
from service.http.wire.upsert import IntakeReader
from service.observing.audit_log import AuditLog
from service.observing.metrics import Metrics
from service.observing.request_log import RequestLog
from service.observing.tracing.tracer import Tracer
from service.settings import Settings

DemoPicture: TypeAlias = Callable[[str], bytes | None]
Lifespan: TypeAlias = Callable[[FastAPI], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class ApplicationParts:
    """What the application is made of. lifespan: opens everything, and closes it after the last request.
    contract: openapi.yaml, which is served as it is. demo_picture: where the demo is served, the picture of a
    file name."""

    dependencies: Dependencies
    searcher: Searcher
    ingester: Ingester
    pictures: PictureSource
    prober: Prober
    exposition: Callable[[], bytes]
    snapshots: Snapshots
    rebuilds: Rebuilds
    reports: Reports
    promotions: Promotions
    store_id: Callable[[], str]
    metrics: Metrics
    meter: SearchMeter
    explanations: Explanations
    request_log: RequestLog
    audit_log: AuditLog
    tracer: Tracer | None
    opening: Opening
    lifespan: Lifespan
    contract: bytes
    listing: ListingParts
    demo_picture: DemoPicture | None = None


class Application:
    """The ASGI callable. `routes` lists what it serves, for the contract test."""

    def __init__(self, parts: ApplicationParts) -> None:
        settings = parts.dependencies.settings
        self.searcher = parts.searcher
        self.catalogue = parts.dependencies.catalogue
        self.pictures = parts.pictures
        self.bodies = parts.dependencies.bodies
        self._routers = _routers(parts)
        reader = SearchReader(self.catalogue, search_limits(settings))
        self._front = SearchFront(
            _fastapi(self._routers, parts.lifespan),
            parts.searcher,
            parts.dependencies.catalogue,
            parts.dependencies.keys,
            reader,
            parts.meter,
            parts.dependencies.quotas,
            answer_bytes_max=settings.answer_bytes_max,
            searches_max=settings.searches_max,
            body_bytes_max=settings.search_bytes_max,
            bodies=self.bodies,
            readers=parts.dependencies.readers,
        )
        proxies = TrustedProxies(settings.trusted_proxies)
        self.middleware = RequestMiddleware(
            self._front,
            parts.metrics,
            parts.request_log,
            proxies,
            parts.opening,
            RequestAudit(parts.audit_log),
            tracer=parts.tracer,
            cross_origin=CrossOrigin(settings.cors_origins) if settings.cors_origins else None,
            gzip_bytes_min=settings.gzip_bytes_min,
        )
        self.connection_limits = connection_limits(settings)
        self.shortcut = Shortcut(
            self.middleware,
            parts.opening,
            parts.dependencies.keys,
            reader,
            parts.searcher,
            parts.meter,
            parts.dependencies.quotas,
            body_bytes_max=settings.search_bytes_max,
            gzip_bytes_min=settings.gzip_bytes_min,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan, as ASGI asks."""
        await self.middleware(scope, receive, send)

    def routes(self) -> list[tuple[str, str]]:
        """Return every (method, path template), in the spelling of openapi.yaml."""
        found = [("POST", path) for path in self._front.paths]
        for router in self._routers:
            for route in router.routes:
                assert isinstance(route, APIRoute)
                found.extend((method, route.path.replace(":text}", "}")) for method in route.methods or ())
        return sorted(found)


def search_limits(settings: Settings) -> SearchLimits:
    """Return the bounds of a search, out of the settings."""
    return SearchLimits(
        top_k=settings.search_top_k,
        top_k_max=settings.top_k_max,
        query_chars_max=settings.query_chars_max,
        answer_bytes_max=settings.answer_bytes_max,
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return the bounds of one connection, out of the settings."""
    return ConnectionLimits(
        head_bytes_max=settings.head_bytes_max,
        head_fields_max=settings.head_fields_max,
        head_read_s_max=settings.head_read_s_max,
        answer_stall_s_max=settings.answer_stall_s_max,
    )


def _routers(parts: ApplicationParts) -> list[APIRouter]:
    shared = parts.dependencies
    groups: list[RouteGroup] = [
        ConsoleRoutes(shared),
        HealthRoutes(shared, parts.prober, parts.contract),
        EmbedRoutes(shared),
        WriteRoutes(shared, parts.ingester, IntakeReader(shared.catalogue, shared.settings)),
        ChangeRoutes(shared, parts.ingester, parts.listing.filter_writes),
        ItemRoutes(shared, parts.listing.items, parts.listing.scans),
        CountRoutes(shared, parts.listing.counts),
        LegacyRoutes(shared, parts.searcher, parts.meter, parts.pictures),
        OpsRoutes(
            shared,
            parts.exposition,
            parts.meter,
            parts.snapshots,
            parts.store_id,
            parts.promotions,
        ),
        DigestRoutes(shared),
        MapRoutes(shared),
        AuditRoutes(shared, parts.audit_log),
        ExplainRoutes(shared, parts.explanations, search_limits(shared.settings)),
        RebuildRoutes(shared, parts.rebuilds),
        ReportRoutes(shared, parts.reports, search_limits(shared.settings)),
    ]
    if parts.demo_picture is not None:
        groups.insert(0, DemoRoutes(shared, parts.demo_picture))
    return [group.router() for group in groups]


def _fastapi(routers: Sequence[APIRouter], lifespan: Lifespan) -> FastAPI:
    """Return the FastAPI application, without a generated document (openapi.yaml is served) or redirects."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    for router in routers:
        app.include_router(router)
    for kind in (*HANDLED, Exception):
        app.add_exception_handler(kind, _refuse)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    exchange = exchange_of(request)
    problem = problem_of(error)
    if request.method != "POST":  # nothing else has a body here
        problem = problem_of_parameters(problem, request.path_params)
    exchange.note_problem(problem)
    return Response(
        problem.to_json(request.scope["path"], exchange.request_id.decode()),
        status_code=problem.status,
        media_type=PROBLEM_JSON,
        headers=dict(problem.headers),
    )
