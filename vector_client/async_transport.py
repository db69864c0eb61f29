"""HTTP to one service from an event loop, over aiohttp: one pooled session for all calls."""

from __future__ import annotations

import asyncio
import io
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from vector_client.errors import BadAnswer, Disconnected, NoAnswer, NotSent, TimedOut, VectorClientError
from vector_client.log_events import log_event
from vector_client.protocol.call import ANSWER_BYTES_MAX, Address, Call
from vector_client.retries import Attempts, Limits, Timing

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LATE = (TimeoutError, asyncio.TimeoutError)
"""One class from Python 3.11 on."""
KEEP_ALIVE_S = 60.0
"""Below the service's 75 s, so that the client closes an idle connection first."""
HEDGE_SHARE = 0.1
"""Second requests, as a share of all: a slow service must not be asked twice as often."""
HEDGES_SAVED_MAX = 10.0
BODY_AT_ONCE_BYTES = 1 << 20
"""Larger bodies are sent in chunks: aiohttp warns that one write of them blocks the event loop."""


class AsyncTransport:
    """Sends calls to one service, for one event loop: that of the first call, which opens the session."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        timing: Timing | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Open nothing yet. timing, sleep: clock, chance and waits, which a test replaces.
        Raises ValueError where url is no http(s) address."""
        self._base = Address.of(url).base
        self._limits = limits
        self._timing = timing or Timing()
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._hedges = HEDGES_SAVED_MAX

    async def exchange(self, call: Call[Answer]) -> Answer:
        """Return what the service answers. Raises VectorClientError after the last attempt. A cancelled call
        closes its connection."""
        attempts = Attempts(self._limits, self._timing, call.repeats_on_timeout)
        while True:
            try:
                return await self._answer(call, attempts.next_s())
            except VectorClientError as exc:
                wait_s = attempts.wait_s(exc)
                if wait_s is None:
                    raise
                log_event(log, logging.INFO, "call_repeated", path=call.path, wait_s=wait_s, why=exc)
            await self._sleep(wait_s)

    async def close(self) -> None:
        """Close every connection, for good: calls in flight fail, later ones raise NotSent."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _answer(self, call: Call[Answer], limit_s: float) -> Answer:
        hedge_s = self._limits.hedge_s
        if hedge_s is None or hedge_s >= limit_s or not call.repeats_on_timeout:
            return await self._attempt(call, limit_s)
        self._hedges = min(self._hedges + HEDGE_SHARE, HEDGES_SAVED_MAX)
        return await first_answer(
            lambda spent_s: self._attempt(call, limit_s - spent_s), hedge_s, self._may_hedge
        )

    def _may_hedge(self) -> bool:
        if self._hedges < 1:
            return False
        self._hedges -= 1
        return True

    async def _attempt(self, call: Call[Answer], limit_s: float) -> Answer:
        session = self._opened()
        body = call.body
        try:
            async with session.request(
                call.method,
                URL(self._base + call.path, encoded=True),
                data=io.BytesIO(body) if body is not None and len(body) > BODY_AT_ONCE_BYTES else body,
                headers=call.headers(),
                timeout=aiohttp.ClientTimeout(total=limit_s, ceil_threshold=math.inf),
                allow_redirects=False,
            ) as response:
                data = await self._whole(response, call.path)
                return call.answer(response.status, response.headers, data)
        except (*LATE, aiohttp.ClientError, OSError) as exc:
            raise self._translated(call.path, limit_s, exc) from exc

    async def _whole(self, response: aiohttp.ClientResponse, path: str) -> bytes:
        if (response.content_length or 0) > ANSWER_BYTES_MAX:
            raise BadAnswer(f"{path} answered more than {ANSWER_BYTES_MAX} bytes")
        if response.content_length is not None:
            return await response.read()
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > ANSWER_BYTES_MAX:
                raise BadAnswer(f"{path} answered more than {ANSWER_BYTES_MAX} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    def _translated(self, path: str, limit_s: float, exc: Exception) -> VectorClientError:
        where = self._base + path
        if isinstance(exc, LATE):
            return TimedOut(f"no answer from {where} within {limit_s:.3g} s")
        if isinstance(exc, aiohttp.ClientConnectorCertificateError):
            return NoAnswer(f"no answer from {where}: {exc.certificate_error}")
        if isinstance(exc, aiohttp.ClientConnectorError):
            return NoAnswer(f"no answer from {where}: {exc.os_error}")
        if isinstance(exc, aiohttp.ClientResponseError):
            return BadAnswer(f"{where} answered what is not HTTP: {exc.message or type(exc).__name__}")
        if isinstance(exc, aiohttp.InvalidURL):
            return BadAnswer(f"{where} is no address: {exc}")
        return Disconnected(f"the connection to {where} broke: {exc or type(exc).__name__}")

    def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._is_closed:
            raise NotSent("this client is closed: make another one")
        if self._loop not in (None, loop):
            raise NotSent("this client belongs to another event loop: make one in each")
        if self._session is not None:
            return self._session
        self._loop = loop
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.connections_max, keepalive_timeout=KEEP_ALIVE_S, ttl_dns_cache=30
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session


async def first_answer(
    ask: Callable[[float], Coroutine[Any, Any, Answer]], hedge_s: float, may_hedge: Callable[[], bool]
) -> Answer:
    """Return the first answer of one request, or of two where the first is silent for `hedge_s`.

    ask: gets the seconds already spent. Both are over when this returns; an error is raised when both failed.
    """
    asked = {asyncio.ensure_future(ask(0.0))}
    try:
        done, _ = await asyncio.wait(asked, timeout=hedge_s)
        if not done and may_hedge():
            asked.add(asyncio.ensure_future(ask(hedge_s)))
        waiting = set(asked)
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            best = min(done, key=lambda each: each.exception() is not None)
            if not waiting or best.exception() is None:
                return best.result()
    finally:
        for each in asked:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
