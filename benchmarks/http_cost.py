"""Serves a text search with the index faked, by the front door or by what it replaces, for bench_http.

`python -m benchmarks.http_cost front|route PORT DATA_DIR`. `route` is the same service with an ordinary
FastAPI route (pydantic body, response_model) behind the same middleware, key check, searcher, embedder and
queue, with the same checks and the same answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Receive, Scope, Send

from index_store.engine.index import EmbeddedIndex
from index_store.types import (
    Hit,
    SearchOutcome,
    SearchRequest,
    SearchResult,
)
from service.http.app import Application, search_limits
from service.http.audit import RequestAudit
from service.http.auth import Role, TrustedProxies
from service.http.middleware import RequestMiddleware
from service.http.transport.protocol import SearchProtocol
from service.http.wire.answers import write_answer
from service.http.wire.schemas import SearchIn
from service.http.wire.search import SearchReader
from service.observing.request_log import configure_logging
from service.settings import Settings
from service.wiring import Service, build

_HITS = [Hit(1000 + place, 0.1 + place / 100) for place in range(25)]
PATH = "/v1/search"


class ConstantIndex(EmbeddedIndex):
    """The engine, but every search finds the same items at once."""

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        version = next(iter(self.dims_by_version(collection)), "")
        return [SearchResult(_HITS, "g1", version, 1, False, None) for _ in requests]


Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
ItemId = Int64 | Annotated[str, Field(strict=True, min_length=1, max_length=255)]


class SearchBody(BaseModel):
    """The search request as one would write it with pydantic; what it can't say, the reader checks."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    query: str | None = None
    image: str | None = None
    vector: list[float] | str | None = None
    like_ids: list[ItemId] | None = None
    unlike_ids: list[ItemId] | None = None
    collection: str | None = None
    top_k: Annotated[int, Field(strict=True)] | None = None
    exclude_ids: list[ItemId] | None = None
    filter: dict[str, Any] | None = None
    offset: Annotated[int, Field(strict=True)] | None = None
    cursor: str | None = None
    max_distance: float | None = None
    exact: bool | None = None
    min_seq: int | None = None
    embedding_version: str | None = None
    include: list[Literal["score", "rank", "metadata", "vector"]] | None = None
    limit: Any = None
    k: Any = None
    size: Any = None
    n_results: Any = None
    min_score: Any = None


class FoundHit(BaseModel):
    """The id stands under the collection's id field."""

    model_config = ConfigDict(extra="allow")

    distance: float
    score: float | None = None
    rank: int | None = None
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = None


class SearchAnswer(BaseModel):
    results: list[FoundHit]
    embedding_version: str
    seq: int
    exhausted: bool
    next_cursor: str | None = None
    truncated: bool | None = None
    took_ms: float


def ordinary(service: Service) -> ASGIApp:
    """The same service with /v1/search as a FastAPI route: the same checks, answers and problems."""
    parts = service.parts
    dependencies = parts.dependencies
    reader = SearchReader(dependencies.catalogue, search_limits(dependencies.settings))
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    @app.post(
        PATH,
        response_model=SearchAnswer,
        response_model_exclude_unset=True,
        dependencies=dependencies.requires(Role.SEARCH),
    )
    async def post_search(body: SearchBody) -> Any:
        began = time.perf_counter()
        search = reader.parse(cast("SearchIn", body))
        result = await parts.searcher.find(search)
        return write_answer(search, result, (time.perf_counter() - began) * 1000)

    audit = RequestAudit(parts.audit_log)
    proxies = TrustedProxies(())
    middleware = RequestMiddleware(app, parts.metrics, parts.request_log, proxies, parts.opening, audit)

    return Either(middleware, service.application)


class Either:
    """The ordinary route for searches, the service's application for all else."""

    def __init__(self, middleware: RequestMiddleware, application: Application) -> None:
        self.middleware = middleware
        self.connection_limits = application.connection_limits
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_search = scope["type"] == "http" and scope["path"] == PATH
        await (self.middleware if is_search else self._application)(scope, receive, send)


def main(which: str, port: str, data_dir: str) -> None:
    settings = Settings.from_environ(
        {"DATA_DIR": data_dir, "TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "none"}
    )
    configure_logging(settings.log_level)
    service = build(settings, make_index=ConstantIndex)
    app: ASGIApp = service.application if which == "front" else ordinary(service)
    uvicorn.run(
        app, host="127.0.0.1", port=int(port), loop="uvloop", http=SearchProtocol, ws="none", log_config=None,
        access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=75,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
