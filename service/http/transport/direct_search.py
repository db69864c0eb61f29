"""A search without a task of its own: what came whole and can go straight into line for the index.

The server's protocol offers each such request here first. What this shortcut does not take (another route, a
refusal, a text that a model must embed first, a large answer) goes the ordinary way through
`RequestMiddleware` and `SearchFront`, whose checks and counts are used here too: there is one of each.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from starlette.types import Message

from index_store.types import SearchResult
from service.app.search import ParsedSearch, Searcher
from service.errors import Overloaded
from service.http.middleware import JSON, PROBLEM, Exchange, RequestMiddleware, fields_of
from service.http.routes.search import SearchFront
from service.http.wire.answers import LARGE_BYTES, encoded_answer, expected_bytes
from service.http.wire.body import Headers
from service.http.wire.problems import HANDLED, problem_of

log = logging.getLogger(__name__)

_PATHS = frozenset((b"/v1/search", b"/api/v1/search"))
_ROUTE = "/v1/search"

Reply: TypeAlias = Callable[[int, bytes, bytes, bytes], None]
"""Takes status, content type, further header lines and body; sends them unless the caller has gone."""


class Shortcut:
    """`take` from the event loop."""

    def __init__(self, middleware: RequestMiddleware, front: SearchFront, searcher: Searcher) -> None:
        self._middleware = middleware
        self._front = front
        self._searcher = searcher

    def leads_on(self, method: bytes, url: bytes) -> bool:
        """Return whether such requests may be taken."""
        return method == b"POST" and url.partition(b"?")[0] in _PATHS

    def take(
        self, url: bytes, headers: Headers, body: bytes, client: Sequence[Any] | None, reply: Reply
    ) -> bool:
        """Return False if the request has to go the ordinary way; else `reply` is called once, later."""
        if (
            not self._middleware.is_open()
            or b"content-encoding" in headers
            or len(body) > self._front.body_bytes_max
        ):
            return False
        started = time.perf_counter()
        try:
            caller = self._front.check_key(headers, client)
            search = self._front.read_search(url.partition(b"?")[2], headers, body)
            if expected_bytes(search) > LARGE_BYTES:
                return False
            direct = DirectSearch(self._middleware, search, client, reply, started)
            direct.repeat_by(self._searcher, caller)
            if not self._searcher.submit_search(search, direct, caller):
                return False
        except Overloaded as refusal:
            direct.refuse(headers, refusal)  # cheaper here: refusals are many when there is most to do
            return True
        except HANDLED:
            return False  # the ordinary way meets it again, and tells it
        except Exception:
            log.exception("search_not_taken")
            return False
        direct.begin(headers)
        return True


class DirectSearch:
    """One search in line. Fits `service.app.search_queue.ResultHandler`."""

    __slots__ = (
        "_caller",
        "_client",
        "_exchange",
        "_is_over",
        "_is_repeated",
        "_middleware",
        "_repeated",
        "_reply",
        "_search",
        "_searcher",
        "_started",
    )  # fmt: skip

    _exchange: Exchange
    _searcher: Searcher
    _caller: str
    _repeated: asyncio.Task[None]

    def __init__(
        self,
        middleware: RequestMiddleware,
        search: ParsedSearch,
        client: Sequence[Any] | None,
        reply: Reply,
        started: float,
    ) -> None:
        self._middleware = middleware
        self._search = search
        self._client = client
        self._reply = reply
        self._started = started
        self._is_over = False
        self._is_repeated = False

    def repeat_by(self, searcher: Searcher, caller: str) -> None:
        """Say who answers if the collection's generation changes while this waits in line."""
        self._searcher, self._caller = searcher, caller

    def begin(self, headers: Headers) -> None:
        """Count the request in; its answer counts it out."""
        self._exchange = self._middleware.begin_request(headers, _nowhere)

    def refuse(self, headers: Headers, refusal: Overloaded) -> None:
        """Answer once the protocol has noted that the request is taken."""
        self._exchange = self._middleware.begin_request(headers, _nowhere)
        asyncio.get_running_loop().call_soon(self.set_exception, refusal)

    def done(self) -> bool:
        """See ResultHandler."""
        return self._is_over

    def set_result(self, result: SearchResult, /) -> None:
        """See ResultHandler."""
        try:
            took_ms = (time.perf_counter() - self._started) * 1000
            body = encoded_answer(self._search, result, took_ms)
        except Exception as exc:
            self.set_exception(exc)
            return
        self._finish(200, JSON, b"", body)

    def set_exception(self, exception: Exception, /) -> None:
        """See ResultHandler."""
        if not self._is_repeated and Searcher.may_be_repeated(self._search, exception):
            self._is_repeated = True
            self._repeated = asyncio.ensure_future(self._find_again())
            return
        error = Searcher.translate_error(self._search, exception)
        if not isinstance(error, HANDLED):
            self._middleware.internal_error(error, self._exchange)
        problem = problem_of(error)
        lines = b"".join([b"%s: %s\r\n" % field for field in fields_of(problem)])
        self._finish(problem.status, PROBLEM, lines, self._exchange.problem_body(_ROUTE, problem))

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
        self._reply(status, content_type, lines + self._exchange.fields(status), body)
        self._middleware.end_request(self._exchange, "POST", _ROUTE, self._client, self._started)


async def _nowhere(_: Message) -> None:
    raise AssertionError("a direct search has no ASGI channel")
