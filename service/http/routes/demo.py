"""The demo's product pictures, so that its `image_url`s lead somewhere. Only where the demo is served."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response

from service.http.dependencies import Dependencies
from service.http.wire.problems import HttpRefusal

_CACHE = {"cache-control": "public, max-age=86400"}


class DemoRoutes:
    """GET /demo/{file_name}, for everyone."""

    def __init__(self, dependencies: Dependencies, jpeg: Callable[[str], bytes | None]) -> None:
        """jpeg: the picture of a file name, None when there is none."""
        self._dependencies = dependencies
        self._jpeg = jpeg

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter()
        router.add_api_route("/demo/{file_name}", self.get_picture, methods=["GET"])
        return router

    async def get_picture(self, file_name: str) -> Response:
        """Answer with the JPEG of that name. Raises HttpRefusal 404."""
        picture = await self._dependencies.run_blocking(lambda: self._jpeg(file_name))
        if picture is None:
            raise HttpRefusal(404, "unknown_item", f"The demo has no picture {file_name[:64]!r}.")
        return Response(picture, media_type="image/jpeg", headers=_CACHE)
