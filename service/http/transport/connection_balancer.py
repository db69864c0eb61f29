"""Balances connections between workers that listen on one socket.

An event loop accepts every waiting connection at once: the eight of a backend's pool may all end up in one
worker for as long as they are kept alive, while another idles. Here a worker accepts one at a time, and while
it has more connections than another worker, it lets that one accept first. A worker that ends accepts what
waits before it closes the socket; an event loop's own server leaves it to be reset.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

_WORKERS_MAX = 256
_LOOK_AGAIN_S = 0.002
_LET_OTHERS_S = 0.02
"""How long a worker lets others accept. An idle one accepts within this even on a busy machine; one that is
decoding a large upsert takes longer than a caller should wait."""
_ACCEPT_AT_ONCE_S = 0.2
"""After a wait in which no other worker accepted, this worker accepts immediately for this long."""
_NO_ROOM_S = 0.5


class ConnectionShare:
    """The number of connections of each worker, visible to all of them. For one thread.

    A memory-mapped file with one int32 a worker: 0 is a free entry, else connections + 1. A worker owns its
    entry by a lock on one byte; the lock ends with the process, so a successor can reuse the entry.
    """

    def __init__(self, path: Path | None) -> None:
        """path: the same for all workers of one service; None for an only worker. Raises OSError."""
        self._file = -1 if path is None else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if path is not None:
            os.ftruncate(self._file, 4 * _WORKERS_MAX)
        self._counts = memoryview(mmap.mmap(self._file, 4 * _WORKERS_MAX)).cast("i")
        self._place = 0 if path is None else self._claimed()
        self._counts[self._place] = 0

    def join(self) -> None:
        """Let the others see that this worker takes connections."""
        self._counts[self._place] = 1

    def leave(self) -> None:
        """Let the others see that this worker takes no more connections."""
        self._counts[self._place] = 0

    def add_connection(self) -> None:
        """Count a connection that was accepted."""
        self._counts[self._place] += 1

    def remove_connection(self) -> None:
        """Count a connection that ended."""
        self._counts[self._place] -= 1

    def is_larger(self) -> bool:
        """Whether another worker has fewer connections."""
        mine = self._counts[self._place]
        return any(0 < other < mine for other in self._counts)

    def clear_ended(self) -> None:
        """Clear the entries of workers that have ended."""
        for place, count in enumerate(self._counts):
            if count and place != self._place and self._lock(place):
                self._counts[place] = 0
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def _claimed(self) -> int:
        for place in range(_WORKERS_MAX):
            if self._lock(place):
                return place
        raise OSError(f"more than {_WORKERS_MAX} workers")

    def _lock(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True


class SharingLoop(uvloop.Loop):  # type: ignore[misc]  # it has no types
    """A loop whose servers take connections by `share`, and accept what waits before they close. Their
    protocols call `share.remove_connection` when a connection ends."""

    def __init__(self, share: ConnectionShare, let_others_s: float = _LET_OTHERS_S) -> None:
        super().__init__()
        self.share = share
        self.let_others_s = let_others_s

    async def create_server(
        self, protocol_factory: Callable[[], asyncio.Protocol], *, sock: socket.socket, **_: Any
    ) -> _Server:
        """Return a server on `sock` that accepts by share, as uvicorn asks for one."""
        return _Server(self, protocol_factory, sock)


class _Server:
    """What uvicorn asks of an `asyncio.Server`."""

    def __init__(
        self, loop: SharingLoop, protocol_factory: Callable[[], asyncio.Protocol], sock: socket.socket
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._timer: asyncio.TimerHandle | None = None
        self._accept_at_once_until = 0.0
        self._is_closed = False
        self._connecting: set[asyncio.Task[None]] = set()
        self._accepted_late: list[HttpToolsProtocol] = []
        self._listen()
        loop.share.join()

    def close(self) -> None:
        """Stop listening, but accept what is already queued: the kernel would reset it. The socket is closed
        with nothing in between, so that as little as possible can arrive there unseen."""
        self._stop_listening()
        self._is_closed = True
        while self._accept():
            pass
        self._sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.share.leave()

    async def wait_closed(self) -> None:
        """Wait until the connections that `close` accepted have ended. uvicorn waits for those that it knows,
        and may have looked before they were made."""
        while self._connecting:
            await asyncio.wait(self._connecting)
        while any(protocol in protocol.connections for protocol in self._accepted_late):
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _listen(self) -> None:
        self._loop.add_reader(self._sock, self._on_waiting)

    def _stop_listening(self) -> None:
        self._loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()

    def _on_waiting(self) -> None:
        now = self._loop.time()
        if now >= self._accept_at_once_until and self._loop.share.is_larger():
            self._stop_listening()
            self._look_again_until(now + self._loop.let_others_s)
        else:
            self._accept()

    def _look_again_until(self, deadline: float) -> None:
        self._timer = self._loop.call_later(_LOOK_AGAIN_S, self._on_left_over, deadline)

    def _on_left_over(self, deadline: float) -> None:
        now = self._loop.time()
        if self._loop.share.is_larger():
            if now < deadline:
                self._look_again_until(deadline)
                return
            # One that has ended is no reason to take all that waits: those that live get their share.
            self._loop.share.clear_ended()
        is_larger = self._loop.share.is_larger()
        self._listen()
        if self._accept() and is_larger:
            self._accept_at_once_until = now + _ACCEPT_AT_ONCE_S

    def _accept(self) -> bool:
        """Take one connection; return whether one was there."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker took it, or its caller left
        except OSError as exc:
            log.error("connection_not_taken", extra={"error": str(exc)})
            # No file descriptors: the connection stays queued, and retrying at once would spin.
            self._stop_listening()
            self._timer = self._loop.call_later(_NO_ROOM_S, self._listen)
            return False
        sock.setblocking(False)
        self._loop.share.add_connection()
        task = self._loop.create_task(self._connect(sock))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return True

    async def _connect(self, sock: socket.socket) -> None:
        try:
            _, protocol = await self._loop.connect_accepted_socket(self._protocol_factory, sock)
            if self._is_closed:
                self._accepted_late.append(protocol)
                protocol.shutdown()
        except OSError as exc:  # reset before it began
            self._loop.share.remove_connection()
            sock.close()
            log.info("connection_lost_at_once", extra={"error": str(exc)})
