"""Reading a body: how long, how large, and how much all bodies that are still arriving may hold together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

from service.http.wire.body import Headers
from service.http.wire.codings.gzip_bodies import GzipUnpacker, is_packed
from service.http.wire.problems import HttpRefusal


class ArrivingBody:
    """One body that is not here yet. held: its bytes so far."""

    __slots__ = ("held", "is_ended", "timer")

    def __init__(self, timer: asyncio.Timeout) -> None:
        self.timer = timer
        self.held = 0
        self.is_ended = False


class BodyReader:
    """The bodies of this process, for its event loop. A body that arrives in one piece is not counted.

    Over the budget the body that has been arriving for the longest is ended: callers that stop in the middle
    can't keep the room from others.
    """

    def __init__(self, *, bytes_max: int, seconds_max: float) -> None:
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._held = 0
        self._arriving: dict[ArrivingBody, None] = {}

    @property
    def held(self) -> int:
        """Bytes of all bodies that are still arriving."""
        return self._held

    async def whole(self, receive: Receive, headers: Headers, *, bytes_max: int) -> bytes:
        """Return the whole body, unpacked. Stops reading at `bytes_max`, of unpacked bytes, whatever
        Content-Length claims.

        Raises HttpRefusal.
        """
        if _require_readable(headers, bytes_max):
            async with self._arrives() as arriving:
                parts = [part async for part in self._unpacked(receive, arriving, bytes_max)]
                return b"".join(parts)
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > bytes_max:
                raise _too_large(bytes_max)
            return body
        async with self._arrives() as arriving:
            return await self._rest(receive, message, arriving, bytes_max)

    @asynccontextmanager
    async def streamed(self, receive: Receive, headers: Headers, *, bytes_max: int) -> AsyncIterator[Receive]:
        """A `receive` with the same limits, for readers that stream. Read the body to its end inside."""
        is_gzip = _require_readable(headers, bytes_max)
        async with self._arrives() as arriving:
            if is_gzip:
                yield self._unpacking(receive, arriving, bytes_max)
                return

            async def counted() -> Message:
                message = await receive()
                self._take(arriving, len(message.get("body", b"")), bytes_max)
                return message

            yield counted

    def _unpacking(self, receive: Receive, arriving: ArrivingBody, bytes_max: int) -> Receive:
        """A `receive` of the unpacked body."""
        parts = self._unpacked(receive, arriving, bytes_max)

        async def unpacked() -> Message:
            part = await anext(parts, None)
            return {"type": "http.request", "body": part or b"", "more_body": part is not None}

        return unpacked

    async def _unpacked(
        self, receive: Receive, arriving: ArrivingBody, bytes_max: int
    ) -> AsyncIterator[bytes]:
        unpacker, is_last = GzipUnpacker(), False
        while not is_last:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            is_last = not message.get("more_body", False)
            for piece in unpacker.pieces(message.get("body", b"")):
                self._take(arriving, len(piece), bytes_max)
                yield piece
                await asyncio.sleep(0)
        unpacker.finish()

    @asynccontextmanager
    async def _arrives(self) -> AsyncIterator[ArrivingBody]:
        arriving: ArrivingBody | None = None
        try:
            async with asyncio.timeout(self._seconds_max) as timer:
                arriving = ArrivingBody(timer)
                self._arriving[arriving] = None
                yield arriving
        except TimeoutError as exc:
            if arriving is not None and arriving.is_ended:
                raise _no_room() from exc
            raise _too_late(self._seconds_max) from exc
        finally:
            if arriving is not None and not arriving.is_ended:
                self._let_go(arriving)

    async def _rest(
        self, receive: Receive, message: Message, arriving: ArrivingBody, bytes_max: int
    ) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise _gone()
            body = message.get("body", b"")
            self._take(arriving, len(body), bytes_max)
            parts += body
            if not message.get("more_body", False):
                return bytes(parts)
            message = await receive()

    def _take(self, arriving: ArrivingBody, size: int, bytes_max: int) -> None:
        if arriving.is_ended:
            raise _no_room()
        arriving.held += size
        self._held += size
        if arriving.held > bytes_max:
            raise _too_large(bytes_max)
        while self._held > self._bytes_max and self._arriving:
            self._end(next(iter(self._arriving)))

    def _end(self, oldest: ArrivingBody) -> None:
        oldest.is_ended = True
        self._let_go(oldest)
        if not oldest.timer.expired():
            oldest.timer.reschedule(0.0)  # in the past: its reader is called off at once

    def _let_go(self, arriving: ArrivingBody) -> None:
        del self._arriving[arriving]
        self._held -= arriving.held


def _require_readable(headers: Headers, bytes_max: int) -> bool:
    """Return whether the body is packed."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > bytes_max:
        raise _too_large(bytes_max)
    return b"content-encoding" in headers and is_packed(headers)


def _gone() -> HttpRefusal:
    return HttpRefusal(400, "client_disconnected", "The connection closed before the body's end.")


def _too_large(bytes_max: int) -> HttpRefusal:
    return HttpRefusal(413, "body_too_large", f"The body is larger than {bytes_max} bytes.")


def _too_late(seconds_max: float) -> HttpRefusal:
    return HttpRefusal(408, "body_timeout", f"The body did not arrive within {seconds_max:g} s.")


def _no_room() -> HttpRefusal:
    return HttpRefusal(
        503,
        "overloaded",
        "Too many bodies arrive at once; this one had been arriving for the longest. Send it again.",
        headers={"retry-after": "1", "connection": "close"},
        busy="body",
    )
