"""uvicorn's HTTP protocol with a shorter way for searches (see `service.http.transport.direct_search`).

A request that arrived whole, on a connection that owes no other answer, is offered to the shortcut: no scope,
no task, no channel of messages, and head and body leave in one packet. All else goes the ordinary way.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from service.http.middleware import HEAD_S
from service.http.transport.connection_balancer import SharingLoop
from service.http.transport.connection_drain import DrainProtocol
from service.http.transport.connection_limits import BETWEEN
from service.http.transport.direct_search import Shortcut
from service.observing import stage_timing


class _Event:
    """Stands in for an asyncio.Event: a direct search has no task that waits for messages."""

    def set(self) -> None:
        pass


class _Turn:
    """Stands where uvicorn keeps the request that a connection is answering."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete")

    def __init__(self) -> None:
        self.body = b""
        self.more_body = False
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = True
        self.message_event = _Event()


class SearchProtocol(DrainProtocol):
    """What uvicorn makes for each connection. The application's `shortcut` is used where it has one."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shortcut: Shortcut | None = getattr(self.app, "shortcut", None)
        self._turn = _Turn()
        self._parts: list[bytes] | None = None
        self._head_s = 0.0
        self._fields: list[tuple[bytes, bytes]] = []
        self._heads: dict[tuple[int, bytes], bytes] = {}
        self._heads_of: object = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The worker has one connection less."""
        if isinstance(self.loop, SharingLoop):
            self.loop.share.remove_connection()
        super().connection_lost(exc)

    def wait_for_body(self) -> None:
        """See BoundedProtocol. A body that did not come whole goes the ordinary way."""
        if self._parts is not None:
            self._use_ordinary_way()

    def begin_message(self) -> None:
        """See BoundedProtocol: decides whether the request may be a direct search."""
        if self._may_be_direct():
            self._parts = []
            self._fields = self.headers
            self.headers = []
        else:
            super().begin_message()
            self._note_head()

    def on_body(self, body: bytes) -> None:
        """See httptools: kept for the direct search, or passed on."""
        if self._parts is None:
            super().on_body(body)
        else:
            self._loose_bytes = -1  # as in BoundedProtocol
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """See httptools: hands a direct search over, or passes it on."""
        parts = self._parts
        if parts is None:
            super().on_message_complete()
            return
        assert self._shortcut is not None
        turn = self._turn
        if self._shortcut.take(self.url, dict(self._fields), b"".join(parts), self.client, self._reply):
            self._stage = BETWEEN
            self._parts = None
            turn.response_complete = False
            self.cycle = turn  # type: ignore[assignment]
        else:
            self._use_ordinary_way()
            super().on_message_complete()

    def _count_part(self, stage: int) -> None:
        """See BoundedProtocol; a head's time goes along to its trace."""
        since = self._part_since
        super()._count_part(stage)
        if stage == stage_timing.HEAD and since is not None:
            self._head_s = self.loop.time() - since

    def _note_head(self) -> None:
        if self._head_s:
            self.scope[HEAD_S], self._head_s = self._head_s, 0.0  # type: ignore[literal-required]

    def _may_be_direct(self) -> bool:
        """Whether nothing about the connection or the head asks for more than an answer."""
        return (
            self._shortcut is not None
            and not self.is_draining
            and (self.cycle is None or self.cycle.response_complete)
            and self.url.partition(b"?")[0] in self._shortcut.paths
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.limit_concurrency is None
        )

    def _use_ordinary_way(self) -> None:
        """The body is not here yet, or the shortcut did not take the request."""
        parts, self._parts = self._parts, None
        self.headers = self._fields
        super().begin_message()
        self._note_head()
        for part in parts or ():
            super().on_body(part)

    def _reply(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        turn = self._turn
        turn.response_complete = True
        if turn.disconnected or self.transport.is_closing():
            return
        if not turn.keep_alive:
            lines += b"connection: close\r\n"
        head = self._head(status, content_type)
        self.transport.write(b"%s%d\r\n%s\r\n%s" % (head, len(body), lines, body))
        if not turn.keep_alive:
            self.transport.close()
        if self.pipeline or self._refusal is not None or not turn.keep_alive:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self.wait_for_request()

    def _head(self, status: int, content_type: bytes) -> bytes:
        """Everything up to the length; uvicorn replaces its default headers (the date) once a second."""
        defaults = self.server_state.default_headers
        if self._heads_of is not defaults:
            self._heads_of = defaults
            self._heads.clear()
        head = self._heads.get((status, content_type))
        if head is None:
            lines = [b"%s: %s\r\n" % field for field in [*defaults, (b"content-type", content_type)]]
            head = b"".join([STATUS_LINE[status], *lines, b"content-length: "])
            self._heads[(status, content_type)] = head
        return head
