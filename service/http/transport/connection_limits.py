"""uvicorn's HTTP protocol with bounds: on the head of a request, and on callers that send or read nothing.

uvicorn reads a head of any length, for any time, before a key is looked at; its parser copies an unfinished
field again for each packet. Here every connection has one timer: it closes what is silent, half open, idle or
does not read its answer. What cannot be read as HTTP is answered by a problem document like all else.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.http.middleware import PROBLEM, RequestMiddleware
from service.http.transport import head_problems
from service.http.wire.body import ConnectionLimits
from service.http.wire.problems import Problem
from service.observing import stage_timing

BETWEEN, HEAD, BODY = range(3)
"""What of a request is being received."""
_LINGER_S = 2.0
_LINGER_BYTES_MAX = 1 << 20
"""After a refusal what the caller still sends is read and dropped, up to these limits. Closing at once would
reset the connection before the caller has read the answer."""
_UNCOUNTED_BYTES = 32  # of a head in pieces: method, version and line ends, which its limit leaves out
_UPGRADES = frozenset((b"upgrade", b"http2-settings"))


class BoundedApplication(Protocol):
    """What the protocol needs of the application."""

    middleware: RequestMiddleware
    connection_limits: ConnectionLimits


class _RefusedHead(Exception):
    """Raised through the parser, which calls us back in the middle of its work."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class BoundedProtocol(HttpToolsProtocol):
    """What uvicorn makes for each connection of a `BoundedApplication`. Event loop only."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        application = cast("BoundedApplication", self.app)
        self._middleware = application.middleware
        self._limits = application.connection_limits
        self._stage = BETWEEN
        self._is_upgrade = False
        self._part_since: float | None = None  # a head or body came in part
        self._times = self._middleware.stages
        self._loose_bytes = -1
        self._timer: asyncio.TimerHandle | None = None
        self._head_since: float | None = None
        self._idle_since: float | None = None
        self._stalled_since: float | None = None
        self._unread_bytes = 0
        self._refusal: Problem | None = None
        self._dropped_bytes = -1

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol. Starts the time in which a head must come."""
        super().connection_made(transport)
        self.wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. Ends the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol. Small pieces bound what the parser buffers of an endless field."""
        step = self._limits.head_bytes_max
        if len(data) <= step:
            self._feed(data)
        else:
            for start in range(0, len(data), step):
                self._feed(data[start : start + step])
        if self._stage != BETWEEN and self._part_since is None:
            self._part_since = self.loop.time()
        if self._stage == BODY and self._refusal is None and not self.transport.is_closing():
            self.wait_for_body()

    def _feed(self, data: bytes) -> None:
        if self._refusal is not None:
            self._drop(len(data))
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._feed_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserCallbackError as exc:
            self._refuse_callback(exc)
        except httptools.HttpParserError as exc:
            self._refuse(head_problems.malformed(exc))
        else:
            if self._stage != BETWEEN:
                self._count_loose(len(data))

    def _refuse_callback(self, error: httptools.HttpParserCallbackError) -> None:
        cause = error.__context__
        if isinstance(cause, _RefusedHead):
            self._refuse(cause.problem)
        elif isinstance(cause, httptools.HttpParserError):
            self._refuse(head_problems.malformed(cause))
        else:
            self._refuse(self._middleware.internal_error_unread(cause or error))

    # The parser's calls

    def on_message_begin(self) -> None:
        """See httptools: the first byte of a request came."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._is_upgrade = False
        self._stage = HEAD
        self._loose_bytes = -1
        self._idle_since = None

    def on_headers_complete(self) -> None:
        """See httptools: the head is whole. Refuses one beyond the bounds."""
        self._stage = BODY
        self._head_since = None
        if self._part_since is not None:
            self._count_part(stage_timing.HEAD)
        limits = self._limits
        if len(self.headers) > limits.head_fields_max:
            raise _RefusedHead(head_problems.too_many_fields(limits.head_fields_max))
        if self._loose_bytes >= 0 and self._head_bytes() > limits.head_bytes_max:
            raise _RefusedHead(head_problems.too_large(limits.head_bytes_max))
        self._loose_bytes = -1
        if self.parser.should_upgrade():
            self._is_upgrade = True  # parsed again without it
        else:
            self.begin_message()

    def begin_message(self) -> None:
        """The head is whole: begin to answer it, the ordinary way."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.expect_100_continue = expects and self.parser.get_http_version() == "1.1"
        self.headers.extend(headers)
        super().on_headers_complete()
        self.headers = []  # trailer fields are dropped: no proxy has checked them

    def on_body(self, body: bytes) -> None:
        """See httptools: a piece of the body."""
        self._loose_bytes = -1  # the parser holds nothing unfinished
        super().on_body(body)

    def wait_for_body(self) -> None:
        """A body has not come whole: nothing to do, it is read as it comes."""

    def on_message_complete(self) -> None:
        """See httptools: the body is whole."""
        if self._part_since is not None:
            self._count_part(stage_timing.BODY)
        if not self._is_upgrade:
            self._stage = BETWEEN
            super().on_message_complete()

    def _count_part(self, stage: int) -> None:
        """Count the time that a head or a body took which came in pieces."""
        if self._part_since is not None:
            self._times.observe(stage, self.loop.time() - self._part_since)
            self._part_since = None

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _count_loose(self, received: int) -> None:
        """Count what is neither a whole head nor part of a body: a head's begin, trailers, chunk sizes."""
        if self._loose_bytes < 0:
            self._loose_bytes = self._head_bytes() if self._stage == HEAD else 0
        else:
            self._loose_bytes += received
        if self._loose_bytes > self._limits.head_bytes_max + _UNCOUNTED_BYTES:
            self._refuse(head_problems.too_large(self._limits.head_bytes_max))
        elif self._stage == HEAD and self._head_since is None:
            self._head_since = self.loop.time()
            self._look_by(self._head_since + self._limits.head_read_s_max)

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """No other protocol is spoken here, so the offer is ignored, as RFC 9110 lets a server do. The parser
        takes what follows for the other protocol: a new one gets the head without the offer."""
        if self.parser.get_method() == b"CONNECT":
            self._refuse(head_problems.malformed(httptools.HttpParserError("CONNECT is not served here")))
            return
        line = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        fields = b"".join(b"%s: %s\r\n" % field for field in _without_upgrade(self.headers))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(line + fields + b"\r\n" + rest)

    # Answers, and their ends

    def on_response_complete(self) -> None:
        """See HttpToolsProtocol: the next request of the pipeline may begin."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._look_at_writing()
            return
        if self._refusal is None:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._send_refusal(self._refusal)
        else:
            self.wait_for_request()

    def wait_for_request(self) -> None:
        """Every request is answered: start the keep-alive timeout."""
        self._idle_since = self.loop.time()
        self._look_by(self._idle_since + self.timeout_keep_alive)

    def wait_for_head(self) -> None:
        """Start the time in which the head of a request must come."""
        self._idle_since = None
        self._head_since = self.loop.time()
        self._look_by(self._head_since + self._limits.head_read_s_max)

    def pause_writing(self) -> None:
        """See asyncio.Protocol. The caller does not read: its time begins."""
        super().pause_writing()
        self._look_at_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol. The caller reads again."""
        super().resume_writing()
        self._stalled_since = None

    @property
    def is_receiving_head(self) -> bool:
        """Whether a part of a request's head has come."""
        return self._stage == HEAD

    def _refuse(self, problem: Problem) -> None:
        """Answer the requests that came before, then send `problem` and close."""
        if self.transport.is_closing() or self._refusal is not None:
            return
        self._refusal = problem
        cycle = self.cycle
        is_unfinished = self._stage == BODY and cycle is not None and cycle.more_body
        if is_unfinished and any(waiting is cycle for waiting, _ in self.pipeline):
            self.pipeline.popleft()  # it was not started; requests before it are answered first
            self.flow.pause_reading()
        elif is_unfinished:
            self._end_unfinished(cycle, problem)
        elif self.pipeline or not (cycle is None or cycle.response_complete):
            self.flow.pause_reading()  # told after what is owed
        else:
            self._send_refusal(problem)

    def _end_unfinished(self, cycle: RequestResponseCycle, problem: Problem) -> None:
        """The request being answered can't be read to its end."""
        if cycle.response_started:
            self.transport.close()  # a second answer would be taken for the next request's
            return
        cycle.disconnected = True
        cycle.message_event.set()
        self._send_refusal(problem)

    def _send_refusal(self, problem: Problem) -> None:
        self.flow.resume_reading()
        fields, body = self._middleware.refuse_unread(problem, self.client)
        defaults = b"".join(b"%s: %s\r\n" % field for field in self.server_state.default_headers)
        self.transport.write(
            b"%s%scontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n%s\r\n%s"
            % (STATUS_LINE[problem.status], defaults, PROBLEM, len(body), fields, body)
        )
        self._dropped_bytes = 0
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._idle_since = self.loop.time()
        self._look_by(self._idle_since + _LINGER_S)

    def _drop(self, received: int) -> None:
        if self._dropped_bytes < 0:
            return  # the refusal is still to be sent
        self._dropped_bytes += received
        if self._dropped_bytes > _LINGER_BYTES_MAX:
            self.transport.abort()

    # The timer

    def _look_by(self, due: float) -> None:
        """Make sure that the timer fires by `due`, on the loop's clock.

        One timer checks all limits when it fires: setting and cancelling one for each request costs more.
        """
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        due = self._due()
        if due is None:
            return  # busy: the answer's end sets the timer
        if due > self.loop.time():
            self._look_by(due)
        elif self._stalled_since is not None:
            self._abort_unless_read()
        elif self._dropped_bytes >= 0:
            self.transport.abort()
        elif self._stage == HEAD and self._head_since is not None:
            self._end_late_head()
        else:
            self.end_idle()

    def end_idle(self) -> None:
        """Close a connection on which nothing has come for long."""
        self.transport.close()
        self._look_at_writing()

    def _end_late_head(self) -> None:
        if self.flow.read_paused:  # it is we who do not read: other answers are owed first
            self.wait_for_head()
        else:
            self._refuse(head_problems.late_head(self._limits.head_read_s_max))

    def _due(self) -> float | None:
        if self._stalled_since is not None:
            return self._stalled_since + self._limits.answer_stall_s_max
        if self._dropped_bytes >= 0 and self._idle_since is not None:
            return self._idle_since + _LINGER_S
        if self._refusal is None and self._head_since is not None:
            return self._head_since + self._limits.head_read_s_max
        if self._idle_since is not None:
            return self._idle_since + self.timeout_keep_alive
        return None

    def _look_at_writing(self) -> None:
        """Start the time in which the caller must read, where data waits to be written."""
        unread = self.transport.get_write_buffer_size()
        if unread and self._stalled_since is None:
            self._unread_bytes = unread
            self._stalled_since = self.loop.time()
            self._look_by(self._stalled_since + self._limits.answer_stall_s_max)

    def _abort_unless_read(self) -> None:
        self._stalled_since = None
        unread = self.transport.get_write_buffer_size()
        if unread and unread >= self._unread_bytes:
            self.transport.abort()
        elif unread:
            self._look_at_writing()
        else:
            self._look()


def _without_upgrade(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = []
    for name, value in fields:
        if name == b"connection":
            options = [each.strip() for each in value.split(b",")]
            value = b", ".join(each for each in options if each.lower() not in _UPGRADES)
        if name not in _UPGRADES and (name != b"connection" or value):
            kept.append((name, value))
    return kept
