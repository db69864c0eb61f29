"""GET and POST /v1/explain: why an item is, or is not, in the answer to a search; for administrators."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request

from service.app.monitoring.explanations import Explanations, ItemExplanation
from service.app.search import ParsedSearch
from service.errors import InvalidInput
from service.http.auth import Role
from service.http.dependencies import Dependencies, JsonResponse, exchange_of
from service.http.wire.schemas import ExplainIn, IdIn, ModeIn
from service.http.wire.search import SearchLimits, SearchReader
from service.http.wire.values import id_of_text, read_id
from service.http.wire.vector_body import ids_of_parameters, read_filter_text

_Ids = Annotated[list[str] | None, Query()]


class ExplainRoutes:
    """The routes of explanations."""

    def __init__(self, dependencies: Dependencies, explanations: Explanations, limits: SearchLimits) -> None:
        self._dependencies = dependencies
        self._explanations = explanations
        self._reader = SearchReader(dependencies.catalogue, limits)
        self._decoder = msgspec.json.Decoder(ExplainIn)

    def router(self) -> APIRouter:
        """See RouteGroup."""
        router = APIRouter(dependencies=self._dependencies.requires(Role.ADMIN))
        router.add_api_route("/v1/explain", self.get_explain, methods=["GET"])
        router.add_api_route("/v1/explain", self.post_explain, methods=["POST"])
        return router

    async def get_explain(
        self,
        request: Request,
        id: Annotated[str, Query(min_length=1)],
        query: str | None = None,
        like_ids: _Ids = None,
        collection: str | None = None,
        top_k: int | None = None,
        offset: int | None = None,
        exclude_ids: _Ids = None,
        filter: str | None = None,
        max_distance: Annotated[float | None, Query(allow_inf_nan=False)] = None,
        exact: bool | None = None,
        embedding_version: str | None = None,
        mode: ModeIn | None = None,
    ) -> JsonResponse:
        """Answer for a search by text or stored items. Raises InvalidInput, HttpRefusal 404, Overloaded."""
        catalogue = self._dependencies.catalogue
        default = catalogue.default_of("text") or catalogue.default if query else catalogue.default
        found = default if collection is None else self._dependencies.collection(collection)
        search = ExplainIn(
            id=id_of_text(id, found),
            query=query,
            like_ids=ids_of_parameters("like_ids", like_ids, found),
            collection=found.name,
            top_k=top_k,
            offset=offset,
            exclude_ids=ids_of_parameters("exclude_ids", exclude_ids, found),
            filter=read_filter_text(filter),
            max_distance=max_distance,
            exact=exact,
            embedding_version=embedding_version,
            mode=mode,
        )
        return await self._explain(*self._parsed(search), request)

    async def post_explain(self, request: Request) -> JsonResponse:
        """Answer for any search. Raises InvalidInput, HttpRefusal 404, Overloaded."""
        asked = await self._dependencies.read_as(request, self._decoder, self._parsed)
        return await self._explain(*asked, request)

    def _parsed(self, body: ExplainIn) -> tuple[ParsedSearch, IdIn]:
        """The search, and the id that is asked for. Raises InvalidInput, HttpRefusal 404."""
        for field in ("cursor", "min_seq"):
            if getattr(body, field) is not None:
                raise InvalidInput(field, "can't be explained: a search of this moment is")
        if body.min_confidence is not None:
            raise InvalidInput("min_confidence", "can't be explained: `confidence` of a search tells it")
        search = self._reader.parse(body)
        if search.mode != "dense":
            raise InvalidInput("mode", "can't be explained unless it is dense")
        if search.seen_key:
            raise InvalidInput("seen_key", "can't be explained: exclude_ids says the same")
        return search, read_id(body.id, search.collection, "id")

    async def _explain(self, search: ParsedSearch, wanted: IdIn, request: Request) -> JsonResponse:
        found = await self._explanations.explain_search(search, wanted, exchange_of(request).caller)
        return JsonResponse(_described(search, wanted, found))


def _described(search: ParsedSearch, item_id: IdIn, found: ItemExplanation) -> dict[str, Any]:
    facts = found.facts
    return {
        search.collection.id_field: item_id,
        "collection": search.collection.name,
        "in_answer": found.reason == "in_answer",
        "reason": found.reason,
        "detail": found.detail,
        "item": {"state": facts.state, "seq": facts.item_seq, "source_version": facts.source_version},
        "excluded": facts.is_excluded,
        "passes_filter": facts.passes_filter,
        "exact": {"rank": facts.exact_rank, "distance": facts.distance, "ranks_seen": facts.ranks_seen},
        "answer": {
            "rank": facts.answer_rank,
            "distance": None if facts.answer_rank is None else facts.distance,
            "results": facts.hits,
            "last_distance": facts.last_distance,
            "plan": [{"way": way, "ef": ef, "rows": rows} for way, ef, rows in facts.steps],
        },
        "ranking": None
        if search.request.ranking is None
        else {"rank": facts.ranking_rank, "ranks_seen": facts.ranking_ranks_seen},
        "top_k": search.request.k,
        "offset": search.request.offset,
        "truncated": search.truncated,
        "embedding_version": facts.embedding_version,
        "generation": facts.generation,
        "seq": facts.seq,
    }
