"""Pages to look at: the console, and openapi.yaml as a page. Open to everyone: they hold no data."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from service.console.files import ConsoleFile, ConsoleFiles, page_headers
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.codings.accepted import accepts_gzip
from service.http.wire.problems import HttpRefusal

_START = {"console": "/console", "docs": "/docs", "contract": "/openapi.yaml", "health": "/health"}


class ConsoleRoutes:
    """`/`, `/console`, `/docs` and the files that these pages are made of."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._files = ConsoleFiles()
        self._page_headers = page_headers(image_hosts=dependencies.settings.console_image_hosts)
        self._viewer_headers = page_headers(is_viewer=True)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter()
        router.add_api_route("/", self.get_start, methods=["GET"])
        router.add_api_route("/console", self.get_console, methods=["GET"])
        router.add_api_route("/console/{file_name}", self.get_console_file, methods=["GET"])
        router.add_api_route("/docs", self.get_docs, methods=["GET"])
        return router

    async def get_start(self, request: Request) -> Response:
        """Send a browser to the console; answer every other caller with where to go on."""
        if "text/html" in request.headers.get("accept", ""):
            return Response(status_code=303, headers={"location": "/console", "vary": "Accept"})
        return JsonResponse(_START, headers={"vary": "Accept"})

    async def get_console(self, request: Request) -> Response:
        """Answer with the console's page."""
        return await self._answer("index.html", request, self._page_headers)

    async def get_console_file(self, file_name: str, request: Request) -> Response:
        """Answer with one file of either page. Raises HttpRefusal 404."""
        return await self._answer(file_name, request, self._page_headers)

    async def get_docs(self, request: Request) -> Response:
        """Answer with the page that shows openapi.yaml."""
        return await self._answer("docs.html", request, self._viewer_headers)

    async def _answer(self, name: str, request: Request, headers: Mapping[str, str]) -> Response:
        found = await self._dependencies.run_blocking(lambda: self._files.named(name))
        if found is None:
            raise HttpRefusal(404, "unknown_file", f"The console has no file {name[:64]!r}.")
        fields = {**headers, "etag": found.etag}
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=fields)
        return await self._whole(found, request, fields)

    async def _whole(self, found: ConsoleFile, request: Request, fields: dict[str, str]) -> Response:
        if accepts_gzip(exchange_of(request).headers):
            return Response(
                found.packed, media_type=found.media_type, headers={**fields, "content-encoding": "gzip"}
            )
        plain = await self._dependencies.run_blocking(found.plain)
        return Response(plain, media_type=found.media_type, headers=fields)
