"""The front door: answers /v1/search and /v1/search-batch before FastAPI sees the request.

A search by vector costs a quarter of the CPU that the same route costs behind FastAPI and pydantic. The
price is that checks, errors, keys and limits are called by hand here; one table of contract cases holds
this door and a pydantic reference together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TypeAlias

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from index_store.errors import InvalidRequest
from service.app.monitoring.search_meter import SearchMeter
from service.app.search import ParsedSearch, Searcher
from service.collections import Catalogue
from service.embedding.serving.futures import gathered
from service.errors import FieldError, InvalidInput, Overloaded
from service.http.auth import Keys, Role
from service.http.middleware import EXCHANGE, JSON, Exchange
from service.http.quotas import Quotas, line_cost, search_units
from service.http.wire.answers import LARGE_BYTES, encoded_answer, encoded_in_pieces, expected_bytes
from service.http.wire.body import Headers, decode_json, read_in_turn, require_json
from service.http.wire.body_reader import BodyReader
from service.http.wire.problems import HANDLED, HttpRefusal, problem_of
from service.http.wire.schemas import SearchBatchIn, SearchIn
from service.http.wire.search import SearchReader
from service.http.wire.values import in_range

_UPLOADS = "/search_similar"
_DIGITS_MAX = 15

_Handler: TypeAlias = Callable[[Scope, Headers, bytes], Awaitable[bytes]]


class SearchFront:
    """ASGI application around `inner`, which gets every request that is no search."""

    def __init__(
        self,
        inner: ASGIApp,
        searcher: Searcher,
        catalogue: Catalogue,
        keys: Keys,
        reader: SearchReader,
        meter: SearchMeter,
        quotas: Quotas,
        *,
        answer_bytes_max: int,
        searches_max: int,
        body_bytes_max: int,
        bodies: BodyReader,
        readers: Executor,
    ) -> None:
        """readers: threads on which large bodies are decoded and large answers encoded."""
        self._inner = inner
        self._searcher = searcher
        self._catalogue = catalogue
        self._keys = keys
        self._reader = reader
        self._meter = meter
        self._quotas = quotas
        self._answer_bytes_max = answer_bytes_max
        self._searches_max = searches_max
        self._body_bytes_max = body_bytes_max
        self._bodies = bodies
        self._readers = readers
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
        """Answer a search; hand every other request to FastAPI."""
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
            exchange.caller = self._keys.check(Role.SEARCH, exchange.headers, _peer(scope))
            began_at = time.perf_counter()
            body = await self._bodies.whole(receive, exchange.headers, bytes_max=self._body_bytes_max)
            if exchange.trace is not None:
                exchange.trace.add_stage("body", began_at, time.perf_counter())
            answer = await handler(scope, exchange.headers, body)
        except HANDLED as exc:
            await exchange.send_problem(scope["path"], problem_of(exc))
            return
        await exchange.answer(200, answer, JSON)

    def _upload_refusal(self, scope: Scope) -> Overloaded | None:
        """Return why an uploaded picture would not be embedded, before its body is read and taken apart: when
        there is most to do, most uploads are refused."""
        exchange: Exchange = scope[EXCHANGE]
        collection = self._catalogue.default_of("image")
        if scope["method"] != "POST" or collection is None:
            return None
        try:
            caller = self._keys.check(Role.SEARCH, exchange.headers, _peer(scope))
        except HttpRefusal:
            return None  # the route tells it
        length = exchange.headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() and len(length) <= _DIGITS_MAX else 0
        return self._searcher.picture_refusal(collection.name, announced, caller)

    async def post_search(self, scope: Scope, headers: Headers, body: bytes) -> bytes:
        """Answer one search."""
        search = await read_in_turn(
            body, lambda: self._reader.read_search(scope["query_string"], headers, body), self._readers
        )
        size = expected_bytes(search)
        if size > self._answer_bytes_max:
            raise self._too_large("top_k", size)
        exchange: Exchange = scope[EXCHANGE]
        if self._quotas.has_searches:
            exchange.rate_limit = self._quotas.charge_search(exchange.caller, search_units(search))
        return await self._answer(search, exchange, self._searcher.deadline())

    async def post_search_batch(self, scope: Scope, headers: Headers, body: bytes) -> bytes:
        """All searches have one deadline and one bound of bytes. Only so many are in line at a time: others
        get their turn between them, and a batch alone is never too much for the line."""
        require_json(headers)
        parsed = await read_in_turn(body, lambda: self._read_batch(body), self._readers)
        size = sum(expected_bytes(each) for each in parsed)
        if size > self._answer_bytes_max:
            raise self._too_large("searches", size)
        exchange, deadline = scope[EXCHANGE], self._searcher.deadline()
        if self._quotas.has_searches:
            units = sum(map(search_units, parsed))
            exchange.rate_limit = self._quotas.charge_search(exchange.caller, units)
        answers: list[bytes] = []
        for group in _groups(parsed, self._searcher.batch_cost):
            first = len(answers)
            answers += await gathered(
                self._answer_nth(first + n, each, exchange, deadline) for n, each in enumerate(group)
            )
            size = sum(map(len, answers))
            if size > self._answer_bytes_max:
                raise self._too_large("searches", size)
        return b'{"responses":[%s]}' % b",".join(answers)

    async def _answer_nth(
        self, place: int, search: ParsedSearch, exchange: Exchange, deadline: float
    ) -> bytes:
        """What the index refuses, as a filter, names its search."""
        try:
            return await self._answer(search, exchange, deadline)
        except InvalidRequest as exc:
            problem = problem_of(exc)
            errors = [FieldError(("body", "searches", place, *e.loc[1:]), e.msg) for e in problem.errors]
            raise HttpRefusal(problem.status, problem.code, problem.detail, errors=errors) from exc

    def _read_batch(self, body: bytes) -> list[ParsedSearch]:
        searches = decode_json(self._batch_decoder, body).searches
        in_range("searches", len(searches), 1, self._searches_max)
        return [self._read_nth(place, search) for place, search in enumerate(searches)]

    def _read_nth(self, place: int, search: SearchIn) -> ParsedSearch:
        try:
            return self._reader.parse(search)
        except InvalidInput as exc:
            raise InvalidInput(("searches", place, *exc.loc), exc.msg, exc.code) from exc

    def _too_large(self, field: str, size: int) -> InvalidInput:
        bytes_max = self._answer_bytes_max
        return InvalidInput(
            field,
            f"would be answered by about {size / 1e6:.0f} MB, more than {bytes_max / 1e6:.0f} MB "
            "(ANSWER_BYTES_MAX): ask for fewer items, or by pages, or for less of each",
            "answer_too_large",
        )

    async def _answer(self, search: ParsedSearch, exchange: Exchange, deadline: float) -> bytes:
        began_at = time.perf_counter()
        try:
            result = await self._searcher.find(search, exchange.caller, deadline)
        except HANDLED as exc:
            now = time.perf_counter()
            self._meter.search_ended(search, began_at, now, now, exchange.request_id, exc)
            raise
        answered_at = time.perf_counter()
        took_ms = (answered_at - began_at) * 1000
        if expected_bytes(search) <= LARGE_BYTES:
            answer = encoded_answer(search, result, took_ms)
        else:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._readers, encoded_in_pieces, search, result, took_ms)
        ended_at = time.perf_counter()
        if exchange.trace is not None:
            exchange.trace.add_search(search, began_at, answered_at, ended_at)
        self._meter.search_ended(search, began_at, answered_at, ended_at, exchange.request_id)
        return answer


def _groups(
    searches: Sequence[ParsedSearch], cost_at_once: Callable[[], float]
) -> Iterator[Sequence[ParsedSearch]]:
    """Yield the searches in order, as many at a time as `cost_at_once` allows, one at least."""
    group: list[ParsedSearch] = []
    cost, cost_max = 0.0, cost_at_once()
    for each in searches:
        own = line_cost(each)
        if group and cost + own > cost_max:
            yield group
            group, cost, cost_max = [], 0.0, cost_at_once()
        group.append(each)
        cost += own
    yield group


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None
