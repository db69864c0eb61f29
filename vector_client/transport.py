"""Blocking HTTP to one service over urllib3: a keep-alive pool, and an end that every byte keeps."""

from __future__ import annotations

import http.client
import io
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError

from vector_client.errors import BadAnswer, Disconnected, NoAnswer, TimedOut, VectorClientError
from vector_client.protocol.call import ANSWER_BYTES_MAX, Address, Call
from vector_client.retries import Attempts, Limits, Timing

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class Transport:
    """Sends calls to one service. Safe from any thread; each call has a connection to itself."""

    def __init__(
        self,
        url: str,
        limits: Limits,
        timing: Timing | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = Address.of(url)
        self._limits = limits
        self._timing = timing or Timing()
        self._sleep = sleep
        pool = _EndingHTTPSPool if self._address.is_secure else _EndingHTTPPool
        self._pool = pool(self._address.host, self._address.port, maxsize=limits.connections_max, block=False)

    def send(self, call: Call[Answer]) -> Answer:
        """Return what the service answers. Raises VectorClientError after the last attempt."""
        attempts = Attempts(self._limits, self._timing, call.repeats_on_timeout)
        while True:
            try:
                return self._attempt(call, attempts.next_s())
            except VectorClientError as exc:
                wait_s = attempts.wait_s(exc)
                if wait_s is None:
                    raise
                log.info("call_repeated", extra={"path": call.path, "wait_s": wait_s, "why": str(exc)})
            self._sleep(wait_s)

    def close(self) -> None:
        """Close idle connections; a later call opens new ones."""
        self._pool.close()

    def _attempt(self, call: Call[Answer], limit_s: float) -> Answer:
        try:
            response = self._pool.urlopen(
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
        except (HTTPError, OSError) as exc:
            raise self._translated(call, limit_s, exc) from exc
        if len(data) > ANSWER_BYTES_MAX:
            response.close()
            raise BadAnswer(f"{call.path} answered more than {ANSWER_BYTES_MAX} bytes")
        response.release_conn()
        return call.answer(response.status, response.headers, data)

    def _translated(self, call: Call[Answer], limit_s: float, exc: Exception) -> NoAnswer:
        where = self._address.shown + call.path
        if isinstance(exc, urllib3.exceptions.TimeoutError | TimeoutError):
            return TimedOut(f"no answer from {where} within {limit_s:.3g} s")
        if isinstance(exc, ProtocolError):
            return Disconnected(f"the connection to {where} broke: {exc}")
        return NoAnswer(f"no answer from {where}: {exc or type(exc).__name__}")


class _EndingReader(io.RawIOBase):
    """Reads a socket until one moment, however the bytes come: a socket's own time limit begins again with
    every byte, so an answer that drips would never end. (urllib3 and http.client have no other limit.)"""

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
    response_class = _EndingResponse


class _EndingHTTPSConnection(HTTPSConnection):
    response_class = _EndingResponse


class _EndingHTTPPool(HTTPConnectionPool):
    ConnectionCls = _EndingHTTPConnection


class _EndingHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _EndingHTTPSConnection
