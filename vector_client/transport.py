"""Blocking HTTP to one service over urllib3: a keep-alive pool, and one deadline for all bytes."""

from __future__ import annotations

import http.client
import io
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProtocolError,
)

from vector_client.errors import BadAnswer, Disconnected, NoAnswer, NotSent, TimedOut, VectorClientError
from vector_client.log_events import log_event
from vector_client.protocol.call import ANSWER_BYTES_MAX, Address, Call
from vector_client.retries import Attempts, Limits, Timing

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Resolve: TypeAlias = Callable[..., Sequence[Any]]
"""Addresses of a name, as socket.getaddrinfo gives them."""

MOMENT_S = 0.001
"""For a step that begins as the time ends: 0 would mean without blocking."""


class Transport:
    """Sends calls to one service. Safe from any thread, and in forked workers; each call has a connection to
    itself."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        timing: Timing | None = None,
        sleep: Callable[[float], None] = time.sleep,
        resolve: Resolve = socket.getaddrinfo,
    ) -> None:
        """Open nothing yet. timing, sleep, resolve: clock, chance and name look-up, which a test replaces.
        Raises ValueError where url is no http(s) address."""
        self._address = Address.of(url)
        self._limits = limits
        self._timing = timing or Timing()
        self._sleep = sleep
        self._resolve = resolve
        self._pool = self._new_pool()
        self._process_id = os.getpid()

    def exchange(self, call: Call[Answer]) -> Answer:
        """Return what the service answers. Raises VectorClientError after the last attempt."""
        attempts = Attempts(self._limits, self._timing, call.repeats_on_timeout)
        while True:
            try:
                return self._attempt(call, attempts.next_s())
            except VectorClientError as exc:
                wait_s = attempts.wait_s(exc)
                if wait_s is None:
                    raise
                log_event(log, logging.INFO, "call_repeated", path=call.path, wait_s=wait_s, why=exc)
            self._sleep(wait_s)

    def close(self) -> None:
        """Close idle connections, for good: later calls raise NotSent."""
        self._pool.close()

    def _new_pool(self) -> HTTPConnectionPool:
        pool = _EndingHTTPSPool if self._address.is_secure else _EndingHTTPPool
        return pool(
            self._address.host,
            self._address.port,
            maxsize=self._limits.connections_max,
            block=False,
            resolve=self._resolve,
        )

    def _pool_of_this_process(self) -> HTTPConnectionPool:
        """A forked worker must not use its parent's connections: it would read the parent's answers."""
        if self._process_id != os.getpid():
            self._pool, self._process_id = self._new_pool(), os.getpid()
        return self._pool

    def _attempt(self, call: Call[Answer], limit_s: float) -> Answer:
        try:
            response = self._pool_of_this_process().urlopen(
                call.method,
                self._address.prefix + call.path,
                body=call.body,
                headers=call.headers(),
                timeout=urllib3.Timeout(total=limit_s),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
            )
            try:
                data = response.read(ANSWER_BYTES_MAX + 1)
            except BaseException:
                response.close()
                raise
        except ClosedPoolError as exc:
            raise NotSent("this client is closed: make another one") from exc
        except (HTTPError, OSError) as exc:
            raise self._translated(call, limit_s, exc) from exc
        if len(data) > ANSWER_BYTES_MAX:
            response.close()
            raise BadAnswer(f"{call.path} answered more than {ANSWER_BYTES_MAX} bytes")
        response.release_conn()
        return call.answer(response.status, response.headers, data)

    def _translated(self, call: Call[Answer], limit_s: float, exc: Exception) -> NoAnswer:
        where = self._address.base + call.path
        if isinstance(exc, urllib3.exceptions.TimeoutError | TimeoutError):
            return TimedOut(f"no answer from {where} within {limit_s:.3g} s")
        if isinstance(exc, ProtocolError):
            return Disconnected(f"the connection to {where} broke: {exc}")
        return NoAnswer(f"no answer from {where}: {exc or type(exc).__name__}")


class _EndingReader(io.RawIOBase):
    """Reads a socket until a deadline, however the bytes come. A socket's own time limit starts again with
    every byte, so an answer that drips would never end; urllib3 and http.client have no other limit."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._reads = sock.makefile("rb", buffering=0)
        # urllib3 has set what is left of the attempt just before the answer is read.
        limit_s = sock.gettimeout()
        self._ends = None if limit_s is None else time.monotonic() + limit_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._ends is not None:
            left_s = self._ends - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left_s)
        return self._reads.readinto(buffer)

    def close(self) -> None:
        self._reads.close()
        super().close()


class _EndingSocket:
    """What http.client asks of a socket when it reads an answer."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_EndingReader(self._socket))


class _EndingResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(_EndingSocket(sock), *arguments, **named)  # type: ignore[arg-type]


class _EndingHTTPConnection(HTTPConnection):
    """Connects and sends before one deadline. urllib3 alone grants its whole time limit to each address of a
    name, and once more to the body."""

    response_class = _EndingResponse

    def __init__(self, *arguments: Any, resolve: Resolve = socket.getaddrinfo, **named: Any) -> None:
        self._resolve = resolve
        super().__init__(*arguments, **named)

    @property
    def timeout(self) -> Any:
        return self._timeout

    @timeout.setter
    def timeout(self, limit_s: Any) -> None:
        # urllib3 sets it when an attempt begins, and before it reads the answer.
        self._timeout = limit_s
        self._ends = time.monotonic() + limit_s if isinstance(limit_s, int | float) else None

    def _new_conn(self) -> socket.socket:
        try:
            addresses = self._resolve(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise NewConnectionError(self, f"no address of {self.host}: {exc}") from exc
        failure: OSError = TimeoutError("no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            # A share for each address that is left: one that is silent must not take the time of all others.
            share_s = self._left_s() / (len(addresses) - number)
            if share_s <= 0:
                break
            sock = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(share_s)
                sock.connect(address)
                sock.settimeout(max(MOMENT_S, self._left_s()))  # of a TLS handshake
                return sock
            except OSError as exc:
                sock.close()
                failure = exc
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, f"no connection to {self.host}") from failure
        raise NewConnectionError(self, str(failure)) from failure

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(max(MOMENT_S, self._left_s()))
        super().send(data)

    def _left_s(self) -> float:
        return math.inf if self._ends is None else self._ends - time.monotonic()


class _EndingHTTPSConnection(_EndingHTTPConnection, HTTPSConnection):
    """The same with TLS."""


class _EndingHTTPPool(HTTPConnectionPool):
    ConnectionCls = _EndingHTTPConnection


class _EndingHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _EndingHTTPSConnection
