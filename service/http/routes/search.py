"""The front door: answers /v1/search and /v1/search-batch before FastAPI sees the request.

A search by vector costs a quarter of the CPU that the same route costs behind FastAPI and pydantic. The
price is that checks, errors, keys and limits are called by hand here; one table of contract cases holds
this door and a pydantic reference together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import msgspec
import numpy as np
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app.search import Searcher
from service.collections import Catalogue
from service.errors import FieldError, InvalidInput, Overloaded
from service.http.auth import Keys, Role
from service.http.middleware import EXCHANGE, JSON, Exchange
from service.http.wire.body import Headers, decode_json, field_error_of, media_type, require_json
from service.http.wire.body_reader import BodyReader
from service.http.wire.problems import HANDLED, HttpRefusal, problem_of
from service.http.wire.schemas import SearchBatchIn, SearchIn, VectorParametersIn
from service.http.wire.search import Asked, SearchLimits, read_question, write_answer
from service.http.wire.values import in_range

_VECTOR_TYPE = b"application/octet-stream"
_UPLOADS = "/search_similar"
_DIGITS_MAX = 15
_PARAMETERS_MAX = 16
_ENCODING = orjson.OPT_SERIALIZE_NUMPY

_Handler: TypeAlias = Callable[[Scope, Headers, bytes], Awaitable[dict[str, Any]]]


class SearchFront:
    """ASGI application around `inner`, which gets every request that is no search."""

    def __init__(
        self,
        inner: ASGIApp,
        searcher: Searcher,
        catalogue: Catalogue,
        keys: Keys,
        limits: SearchLimits,
        *,
        searches_max: int,
        body_bytes_max: int,
        bodies: BodyReader,
    ) -> None:
        self._inner = inner
        self._searcher = searcher
        self._catalogue = catalogue
        self._keys = keys
        self._limits = limits
        self._searches_max = searches_max
        self.body_bytes_max = body_bytes_max
        self._bodies = bodies
        self._search_decoder = msgspec.json.Decoder(SearchIn)
        self._batch_decoder = msgspec.json.Decoder(SearchBatchIn)
        self._handlers: dict[str, _Handler] = {
            "/v1/search": self.post_search,
            "/v1/search-batch": self.post_search_batch,
        }

    @property
    def paths(self) -> Sequence[str]:
        """What is answered here, by POST."""
        return tuple(self._handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None:
            refusal = self._upload_refusal(scope) if scope.get("path") == _UPLOADS else None
            if refusal is None:
                await self._inner(scope, receive, send)
            else:
                exchange: Exchange = scope[EXCHANGE]
                exchange.route = _UPLOADS
                await exchange.send_problem(_UPLOADS, problem_of(refusal))
            return
        exchange = scope[EXCHANGE]
        exchange.route = scope["path"]
        try:
            if scope["method"] != "POST":
                raise HttpRefusal(
                    405, "method_not_allowed", "Only POST is served here.", headers={"allow": "POST"}
                )
            exchange.caller = self.check_key(exchange.headers, scope.get("client"))
            body = await self._bodies.whole(receive, exchange.headers, bytes_max=self.body_bytes_max)
            document = await handler(scope, exchange.headers, body)
        except HANDLED as exc:
            await exchange.send_problem(scope["path"], problem_of(exc))
            return
        await exchange.answer(200, encoded(document), JSON)

    def _upload_refusal(self, scope: Scope) -> Overloaded | None:
        """Return why an uploaded picture would not be embedded, before its body is read and taken apart: when
        there is most to do, most uploads are refused."""
        exchange: Exchange = scope[EXCHANGE]
        collection = self._catalogue.default_of("image")
        if scope["method"] != "POST" or collection is None:
            return None
        try:
            caller = self.check_key(exchange.headers, scope.get("client"))
        except HttpRefusal:
            return None  # the route tells it
        length = exchange.headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() and len(length) <= _DIGITS_MAX else 0
        return self._searcher.picture_refusal(collection.name, announced, caller)

    def check_key(self, headers: Headers, client: Sequence[Any] | None) -> str:
        """Return who calls. client: (address, port) of the connection. Raises HttpRefusal."""
        return self._keys.check(Role.SEARCH, headers, client[0] if client else None)

    async def post_search(self, scope: Scope, headers: Headers, body: bytes) -> dict[str, Any]:
        return await self._answer(self.read_search(scope["query_string"], headers, body), _caller(scope))

    def read_search(self, query_string: bytes, headers: Headers, body: bytes) -> Asked:
        """Raises as HANDLED says."""
        if media_type(headers) == _VECTOR_TYPE:
            return self._read_vector_body(query_string, body)
        require_json(headers)
        return read_question(decode_json(self._search_decoder, body), self._catalogue, self._limits)

    async def post_search_batch(self, scope: Scope, headers: Headers, body: bytes) -> dict[str, Any]:
        require_json(headers)
        searches = decode_json(self._batch_decoder, body).searches
        in_range("searches", len(searches), 1, self._searches_max)
        asked = [self._read_nth(place, search) for place, search in enumerate(searches)]
        caller = _caller(scope)
        return {"responses": await asyncio.gather(*(self._answer(each, caller) for each in asked))}

    def _read_nth(self, place: int, search: SearchIn) -> Asked:
        try:
            return read_question(search, self._catalogue, self._limits)
        except InvalidInput as exc:
            raise InvalidInput(("searches", place, *exc.loc), exc.msg, exc.code) from exc

    async def _answer(self, asked: Asked, caller: str) -> dict[str, Any]:
        started = time.perf_counter()
        answer = await self._searcher.find(asked.question, caller)
        return write_answer(asked, answer, (time.perf_counter() - started) * 1000)

    def _read_vector_body(self, query_string: bytes, body: bytes) -> Asked:
        """The body is the vector itself, little-endian float32; the rest stands in the query string."""
        parameters = _vector_parameters(query_string)
        if not body or len(body) % 4:
            raise InvalidInput("vector", "must be whole float32 values", "invalid_vector")
        search = SearchIn(
            vector=[],
            collection=parameters.collection,
            top_k=parameters.top_k,
            offset=parameters.offset,
            embedding_version=parameters.embedding_version,
        )
        return read_question(search, self._catalogue, self._limits, np.frombuffer(body, dtype="<f4"))


def _caller(scope: Scope) -> str:
    exchange: Exchange = scope[EXCHANGE]
    return exchange.caller


def encoded(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=_ENCODING)


def _vector_parameters(query_string: bytes) -> VectorParametersIn:
    try:
        fields = dict(parse_qsl(query_string.decode("latin-1"), max_num_fields=_PARAMETERS_MAX))
    except ValueError as exc:
        raise HttpRefusal(422, "invalid_request", f"More than {_PARAMETERS_MAX} query parameters.") from exc
    try:
        return msgspec.convert(fields, VectorParametersIn, strict=False)
    except msgspec.ValidationError as exc:
        what, (_, *loc) = field_error_of(exc)
        name = str(loc[-1]) if loc else ""
        raise HttpRefusal(
            422, "invalid_request", f"{name}: {what}.", errors=[FieldError(("query", *loc), what)]
        ) from exc
