"""A search without a task of its own: what came whole and can go straight into line for the index.

The server's protocol offers each such request here first. What this shortcut does not take (another route, a
refusal, a text that a model must embed first, a large answer) goes the ordinary way through
`RequestMiddleware` and `SearchFront`; keys, reader and counts are the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from starlette.types import Message

from index_store.types import SearchResult
from service.app.lifecycle import Opening
from service.app.monitoring.search_meter import SearchMeter
from service.app.search import ParsedSearch, Searcher
from service.errors import Overloaded
from service.http.auth import Keys, Role
from service.http.compression import packed, packed_fields
from service.http.middleware import JSON, PROBLEM, Exchange, RequestMiddleware, fields_of
from service.http.quotas import Quotas, search_units
from service.http.wire.answers import LARGE_BYTES, SMALL_BYTES, encoded_answer, expected_bytes
from service.http.wire.body import Headers, is_large
from service.http.wire.codings.accepted import accepts_gzip
from service.http.wire.problems import HANDLED, HttpRefusal, problem_of
from service.http.wire.search import SearchReader

log = logging.getLogger(__name__)

_ROUTE = "/v1/search"

Reply: TypeAlias = Callable[[int, bytes, bytes, bytes], None]
"""Takes status, content type, further header lines and body; sends them unless the caller has gone."""


class Shortcut:
    """`take` from the event loop. paths: POST requests of these may be taken."""

    paths = frozenset((b"/v1/search", b"/api/v1/search"))

    def __init__(
        self,
        middleware: RequestMiddleware,
        opening: Opening,
        keys: Keys,
        reader: SearchReader,
        searcher: Searcher,
        meter: SearchMeter,
        quotas: Quotas,
        *,
        body_bytes_max: int,
        gzip_bytes_min: int = 0,
    ) -> None:
        self._packed_from = max(gzip_bytes_min, SMALL_BYTES) if gzip_bytes_min else LARGE_BYTES
        self._quotas = quotas
        self._middleware = middleware
        self._opening = opening
        self._keys = keys
        self._reader = reader
        self._searcher = searcher
        self._meter = meter
        self._body_bytes_max = body_bytes_max

    def take(
        self, url: bytes, headers: Headers, body: bytes, client: Sequence[Any] | None, reply: Reply
    ) -> bool:
        """Return False if the request has to go the ordinary way; else `reply` is called once, later."""
        if not self._opening.is_open or b"content-encoding" in headers or len(body) > self._body_bytes_max:
            return False
        if is_large(body):
            return False  # the ordinary way decodes it on a thread
        started = time.perf_counter()
        try:
            caller = self._keys.check(Role.SEARCH, headers, client[0] if client else None)
            search = self._reader.read_search(url.partition(b"?")[2], headers, body)
            size = expected_bytes(search)
            if size > LARGE_BYTES or (size > self._packed_from and accepts_gzip(headers)):
                return False  # the ordinary way encodes it, or packs it, beside the event loop
            if search.like_ids or search.seen_key:
                return False  # something is read first: the ordinary way charges for it
            direct = DirectSearch(
                self._middleware, self._searcher, self._meter, search, caller, client, reply, started
            )
            units = search_units(search) if self._quotas.has_searches else 0.0
            told = self._charged(direct, headers, units, caller) if units else b""
            if told is None:
                return True
            if not self._is_submitted(search, direct, caller, units):
                return False
        except Overloaded as refusal:
            direct.refuse(headers, refusal)  # cheaper here: refusals are many when there is most to do
            return True
        except HANDLED:
            return False  # the ordinary way meets it again, and tells it
        except Exception:
            log.exception("search_not_taken")
            return False
        direct.exchange = self._middleware.begin_request(headers, _nowhere)
        direct.exchange.rate_limit = told
        return True

    def _is_submitted(self, search: ParsedSearch, direct: DirectSearch, caller: str, units: float) -> bool:
        """Whether it stands in line; else the ordinary way charges for it. units: what it was charged, which
        it may not weigh any more once it was looked at. Raises Overloaded."""
        is_submitted = False
        try:
            is_submitted = self._searcher.submit_search(search, direct, caller)
        except Overloaded:
            units = 0.0  # answered here, so it stays charged
            raise
        finally:
            if units and not is_submitted:
                self._quotas.refund_search(caller, units)
        return is_submitted

    def _charged(self, direct: DirectSearch, headers: Headers, units: float, caller: str) -> bytes | None:
        """Return the value of the RateLimit field; None where the caller was told that it asks too much."""
        try:
            return self._quotas.charge_search(caller, units)
        except HttpRefusal as refusal:
            direct.refuse(headers, refusal)
            return None


class DirectSearch:
    """One search in line. Fits `service.app.search_queue.ResultHandler`.

    exchange: counts the request in; set before the answer comes, which counts it out.
    """

    __slots__ = (
        "_caller", "_client", "_is_over", "_is_repeated", "_meter", "_middleware", "_packing", "_repeated",
        "_reply", "_search", "_searcher", "_started", "exchange",
    )  # fmt: skip

    exchange: Exchange
    _packing: asyncio.Task[None]
    _repeated: asyncio.Task[None]

    def __init__(
        self,
        middleware: RequestMiddleware,
        searcher: Searcher,
        meter: SearchMeter,
        search: ParsedSearch,
        caller: str,
        client: Sequence[Any] | None,
        reply: Reply,
        started: float,
    ) -> None:
        """searcher, caller: who answers, and for whom, if the collection's generation changes while this
        waits in line. started: on `time.perf_counter`."""
        self._middleware = middleware
        self._searcher = searcher
        self._meter = meter
        self._search = search
        self._caller = caller
        self._client = client
        self._reply = reply
        self._started = started
        self._is_over = False
        self._is_repeated = False

    def refuse(self, headers: Headers, refusal: Overloaded | HttpRefusal) -> None:
        """Answer once the protocol has noted that the request is taken."""
        self.exchange = self._middleware.begin_request(headers, _nowhere)
        asyncio.get_running_loop().call_soon(self.set_exception, refusal)

    def done(self) -> bool:
        """See ResultHandler."""
        return self._is_over

    def set_result(self, result: SearchResult, /) -> None:
        """See ResultHandler."""
        answered_at = time.perf_counter()
        try:
            body = encoded_answer(self._search, result, (answered_at - self._started) * 1000)
        except Exception as exc:
            self.set_exception(exc)
            return
        trace = self.exchange.trace
        if trace is not None:
            trace.began_at = self._started
            trace.add_search(self._search, self._started, answered_at, time.perf_counter())
        if self._middleware.packs(self.exchange.headers, len(body)):
            self._is_over = True  # for the line; the caller waits for a thread
            self._packing = asyncio.ensure_future(self._answer_packed(body, answered_at))
        else:
            self._answer(body, answered_at)

    async def _answer_packed(self, body: bytes, answered_at: float) -> None:
        """Metadata can make an answer large that was expected to be small."""
        body = await packed(body)
        self.exchange.extra_fields = packed_fields(self.exchange.extra_fields)
        self._answer(body, answered_at)

    def _answer(self, body: bytes, answered_at: float) -> None:
        self._finish(200, JSON, b"", body)
        self._meter.search_ended(
            self._search, self._started, answered_at, time.perf_counter(), self.exchange.request_id
        )

    def set_exception(self, exception: Exception, /) -> None:
        """See ResultHandler."""
        if not self._is_repeated and Searcher.may_be_repeated(self._search, exception):
            self._is_repeated = True
            self._repeated = asyncio.ensure_future(self._find_again())
            return
        error = Searcher.translate_error(self._search, exception)
        if not isinstance(error, HANDLED):
            self._middleware.internal_error(error, self.exchange)
        problem = problem_of(error)
        lines = b"".join([b"%s: %s\r\n" % field for field in fields_of(problem)])
        self._finish(problem.status, PROBLEM, lines, self.exchange.problem_body(_ROUTE, problem))
        now = time.perf_counter()
        self._meter.search_ended(self._search, self._started, now, now, self.exchange.request_id, error)

    async def _find_again(self) -> None:
        """The ordinary search follows the generation that serves by now."""
        try:
            result = await self._searcher.find(self._search, self._caller)
        except Exception as exc:
            self.set_exception(exc)
            return
        self.set_result(result)

    def _finish(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        self._is_over = True
        self._reply(status, content_type, lines + self.exchange.fields(status), body)
        self._middleware.end_request(self.exchange, "POST", _ROUTE, self._client, self._started)


async def _nowhere(_: Message) -> None:
    raise AssertionError("a direct search has no ASGI channel")
