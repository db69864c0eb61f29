"""GET /v1/collections/{collection}/map: a sample of the items as points, for administrators."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from service.app.item_map import ItemMaps
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse

_FIELDS_MAX = 5
_SAMPLE_MAX = 5000
_Field = Annotated[str, Query(min_length=1, max_length=255)]


class MapRoutes:
    """The map of a collection."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._maps = ItemMaps(dependencies.index)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route("/v1/collections/{collection}/map", self.get_map, methods=["GET"])
        return router

    async def get_map(
        self,
        collection: str,
        sample: Annotated[int, Query(ge=3, le=_SAMPLE_MAX)] = 1000,
        field: Annotated[list[_Field], Query(max_length=_FIELDS_MAX)] = [],  # noqa: B006  # never changed
        with_plane: bool = False,
    ) -> JsonResponse:
        """Answer with the points. Raises HttpRefusal 404, Overloaded."""
        name = self._dependencies.collection(collection).name
        drawn = await self._dependencies.run_blocking(lambda: self._maps.map_of(name, sample, field))
        plane = drawn.plane
        document = {
            "collection": name,
            "embedding_version": drawn.embedding_version,
            "live": drawn.live,
            "explained": (0.0, 0.0) if plane is None else plane.explained,
            "points": [asdict(each) for each in drawn.points],
        }
        if with_plane:
            document["plane"] = None if plane is None else {"centre": plane.centre, "axes": plane.axes}
        return JsonResponse(document)
