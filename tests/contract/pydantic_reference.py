"""POST /v1/search as an ordinary FastAPI route with pydantic models: the slow, plain reading of the contract.

The front door owes the same answers. Nothing here is shared with it but the Searcher behind both.
"""

from __future__ import annotations

import base64
import unicodedata
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from index_store.errors import InvalidRequest, VersionMismatch
from index_store.types import SearchRequest
from service.app.search import NO_VECTOR, ParsedSearch, Searcher
from service.collections import Catalogue
from service.errors import InvalidImage, InvalidInput, UnknownItem

Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, max_length=1000)]
Id = Int64 | Annotated[str, Field(strict=True)]
FIELDS = {"recipes": ("recipe_id", int, 384), "products": ("product_id", str, 512)}


class Search(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    query: Text | None = None
    image: Annotated[str, Field(strict=True)] | None = None
    vector: list[Annotated[float, Field(strict=True)]] | str | None = None
    like_ids: list[Id] | None = None
    unlike_ids: list[Id] | None = None
    collection: Annotated[str, Field(strict=True)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    exclude_ids: list[Id] | None = None
    filter: dict[str, Any] | None = None
    offset: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None
    cursor: str | None = None
    max_distance: Annotated[float, Field(strict=True)] | None = None
    exact: Annotated[bool, Field(strict=True)] | None = None
    min_seq: Annotated[int, Field(strict=True, ge=0)] | None = None
    embedding_version: str | None = None
    include: list[Literal["score", "rank", "metadata", "vector", "why", "confidence"]] | None = None

    @model_validator(mode="after")
    def one_content(self) -> Search:
        if sum(each is not None for each in (self.query, self.image, self.vector, self.like_ids)) != 1:
            raise ValueError("exactly one of query, image, vector, like_ids")
        if self.query is not None and "\x00" in self.query:
            raise ValueError("NUL in query")
        return self


class Batch(BaseModel):
    searches: Annotated[list[Search], Field(min_length=1, max_length=100)]


def reference_app(searcher: Searcher, catalogue: Catalogue) -> FastAPI:
    """The reference; results are written without optional fields."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    async def find(search: Search) -> dict[str, Any]:
        parsed = _parsed(search, catalogue)
        result = await searcher.find(parsed)
        id_field = FIELDS[parsed.collection.name][0]
        hits = result.hits
        return {
            "results": [{id_field: hit.id, "distance": hit.distance} for hit in hits],
            "embedding_version": result.embedding_version,
            "seq": result.seq,
            "exhausted": result.exhausted,
        }

    async def search(body: Search) -> dict[str, Any]:
        return await find(body)

    async def batch(body: Batch) -> dict[str, Any]:
        return {"responses": [await find(each) for each in body.searches]}

    for prefix in ("", "/api"):
        for slash in ("", "/"):
            app.post(f"{prefix}/v1/search{slash}")(search)
            app.post(f"{prefix}/v1/search-batch{slash}")(batch)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind, status in (
        (InvalidRequest, 422),
        (InvalidInput, 422),
        (InvalidImage, 422),
        (VersionMismatch, 409),
        (UnknownItem, 404),
    ):
        app.add_exception_handler(kind, _answer_with(status))
    return app


def _parsed(search: Search, catalogue: Catalogue) -> ParsedSearch:
    collection = search.collection or ("products" if search.image is not None else "recipes")
    if collection not in FIELDS:
        raise HTTPException(404)
    _, kind, dim = FIELDS[collection]
    for name in ("exclude_ids", "like_ids", "unlike_ids"):
        if any(type(each) is not kind for each in getattr(search, name) or ()):
            raise InvalidInput(name, "wrong type")
    request = SearchRequest(
        NO_VECTOR if search.vector is None else _vector(search.vector, dim),
        k=25 if search.top_k is None else search.top_k,
        exclude_ids=search.exclude_ids or (),
        filter=search.filter,
        offset=search.offset or 0,
        max_distance=search.max_distance,
        exact=bool(search.exact),
        embedding_version=search.embedding_version,
    )
    served = catalogue.get(collection)
    assert served is not None
    return ParsedSearch(
        served,
        request,
        content=_content(search),
        like_ids=search.like_ids or (),
        unlike_ids=search.unlike_ids or (),
    )


def _content(search: Search) -> str | bytes | None:
    if search.query is not None:
        return unicodedata.normalize("NFC", search.query)
    return None if search.image is None else _bytes(search.image, "image")


def _vector(value: list[float] | str, dim: int) -> Any:
    if isinstance(value, str):
        data = _bytes(value, "vector")
        if len(data) % 4:
            raise InvalidInput("vector", "cut short")
        vector = np.frombuffer(data, "<f4")
    else:
        with np.errstate(over="ignore"):
            vector = np.array(value, np.float32)
    if len(vector) != dim or not np.all(np.isfinite(vector)) or not np.any(vector):
        raise InvalidInput("vector", "wrong")
    return vector


def _bytes(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise InvalidInput(field, "no base64") from exc


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kinds = {each["type"] for each in error.errors()}
    return JSONResponse({}, status_code=400 if "json_invalid" in kinds else 422)


def _answer_with(status: int) -> Any:
    async def answer(_: Request, __: Exception) -> Response:
        return JSONResponse({}, status_code=status)

    return answer
