"""What all routes share: who may call, how a body is read, how an answer is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.params import Depends as DependsParam
from fastapi.routing import APIRoute

from index_store.port import VectorIndex
from index_store.types import Ack
from service.app.encoders import Encoders
from service.app.ingest import Ingester, Intake
from service.collections import Catalogue, Collection
from service.errors import FieldError, Reject
from service.http.auth import Keys, Role
from service.http.middleware import EXCHANGE, Exchange
from service.http.quotas import OTHER_UNITS, Quotas, scan_units
from service.http.wire.body import decode_json, read_in_turn, require_json
from service.http.wire.body_reader import BodyReader
from service.http.wire.problems import HttpRefusal
from service.http.wire.values import find_collection
from service.observing.tracing.tracer import note_stage
from service.settings import Settings

T = TypeVar("T")
R = TypeVar("R")

_ANY_PARAMETERS = frozenset(("/metrics",))
"""Of the routes with a role: the `params` of a scraper go to each of its targets. Probes and pages have no
role, and proxies may add one against caches."""


class JsonResponse(Response):
    """A JSON answer; numpy arrays become lists of numbers."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return `content` as JSON bytes. Raises TypeError for what JSON has no form for."""
        return self.encoded(content)

    @staticmethod
    def encoded(content: Any) -> bytes:
        """The same for an answer that a thread makes."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class RouteGroup(Protocol):
    """Routes that belong together, as the application takes them."""

    def router(self) -> APIRouter:
        """Return the routes, each with the check of its role; called once."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What every group of routes may use.

    readers: a bounded executor for calls of the index that read the disk.
    """

    settings: Settings
    catalogue: Catalogue
    keys: Keys
    encoders: Encoders
    index: VectorIndex
    readers: Executor
    bodies: BodyReader
    quotas: Quotas

    def requires(self, role: Role, *, is_charged: bool = True) -> list[DependsParam]:
        """A route's key check; it runs before the body is read. is_charged: whether a search route is charged
        here, as the least; else the route does it, whole, once it knows what the request weighs."""

        async def check(request: Request) -> None:
            peer = request.client.host if request.client else None
            exchange = exchange_of(request)
            exchange.role = role
            exchange.caller = self.keys.check(role, exchange.headers, peer)
            if request.method != "POST" or role is not Role.SEARCH:
                _require_known_parameters(request)
            if role is Role.SEARCH and is_charged:
                exchange.rate_limit = self.quotas.charge_search(exchange.caller)

        depends: DependsParam = Depends(check)
        return [depends]

    def charge_request(self, request: Request, embedding_units: float = 0.0) -> None:
        """Charge a search route that is not charged by `requires`. Raises HttpRefusal 429."""
        exchange = exchange_of(request)
        exchange.rate_limit = self.quotas.charge_search(exchange.caller, OTHER_UNITS + embedding_units)

    def charge_scan(self, request: Request, rows: float) -> None:
        """Charge a search route that lists or counts items by the rows that it reads, as weighed in line.
        Raises HttpRefusal 429."""
        exchange = exchange_of(request)
        exchange.rate_limit = self.quotas.charge_search(exchange.caller, scan_units(rows))

    async def read_body(self, request: Request, bytes_max: int) -> bytes:
        """Return the whole JSON body, undecoded."""
        headers = exchange_of(request).headers
        require_json(headers)
        began_at = time.perf_counter()
        body = await self.bodies.whole(request.receive, headers, bytes_max=bytes_max)
        note_stage("body", began_at, time.perf_counter())
        return body

    async def read_json(self, request: Request, decoder: msgspec.json.Decoder[T]) -> T:
        """Return the decoded body, `search_bytes_max` at most. Raises HttpRefusal."""
        return await self.read_as(request, decoder, _unchanged)

    async def read_as(self, request: Request, decoder: msgspec.json.Decoder[T], check: Callable[[T], R]) -> R:
        """Return what `check` makes of the decoded body; of a large one on a thread of `readers`. Raises as
        `check`, and HttpRefusal."""
        body = await self.read_body(request, self.settings.search_bytes_max)
        return await read_in_turn(body, lambda: check(decode_json(decoder, body)), self.readers)

    def collection(self, name: str | None) -> Collection:
        """The named collection, or the default one. Raises HttpRefusal 404."""
        return self.catalogue.default if name is None else find_collection(self.catalogue, name)

    async def run_blocking(self, call: Callable[[], T]) -> T:
        """Run a blocking call on a thread of `readers`, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, call)

    async def write_intake(
        self, request: Request, ingester: Ingester, intake: Intake, *, partial: bool = False
    ) -> tuple[Ack, Sequence[Reject]]:
        """Write, and note for the audit log how much was asked and what became of it. Raises as `ingest`,
        and HttpRefusal 429."""
        exchange = exchange_of(request)
        items, deletes = len(intake.items) + len(intake.rejects), len(intake.deletes)
        exchange.note_work(intake.collection)
        exchange.note_counts(items=items, deletes=deletes)
        exchange.rate_limit = self.quotas.charge_write(exchange.caller, items + deletes)
        ack, rejects = await ingester.ingest(intake, partial=partial)
        exchange.note_counts(
            upserted=ack.upserted,
            deleted=ack.deleted,
            stale_ignored=ack.stale_ignored,
            unknown_ids=len(ack.unknown_ids),
            rejected=len(rejects),
        )
        return ack, rejects


def _require_known_parameters(request: Request) -> None:
    """Raises HttpRefusal 422: a misspelt parameter that is ignored answers another question."""
    route: APIRoute = request.scope["route"]
    if route.path in _ANY_PARAMETERS:
        return
    known = [parameter.alias for parameter in route.dependant.query_params]
    unknown = [name[:64] for name in request.query_params if name not in known]
    if unknown:
        names = f"it takes {', '.join(known)}" if known else "it takes none"
        what = f"is no parameter of this route: {names}"
        errors = [FieldError(("query", name), what) for name in unknown]
        raise HttpRefusal(422, "invalid_request", f"{unknown[0]} {what}.", errors=errors)


def _unchanged(body: T) -> T:
    return body


def exchange_of(request: Request) -> Exchange:
    """Return what the middleware knows of this request."""
    exchange: Exchange = request.scope[EXCHANGE]
    return exchange
