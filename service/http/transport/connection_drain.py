"""uvicorn's HTTP protocol with a drain: what a caller sent before a stop is answered.

uvicorn closes each connection that owes no answer. A request may wait unread in the kernel's buffer at that
time, or be on its way, or its caller may have connected and not sent it yet: closing resets a request that
the caller believes delivered. Here such a connection may bring one more request, whose answer says that it is
the last (docs/decisions/0065, 0098).
"""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from dataclasses import replace

from service.http.transport.connection_limits import BETWEEN, BoundedProtocol

_HEAD_S_MAX = 5.0
"""How long a stop waits for the head of a request, where HEAD_READ_S_MAX is longer: a caller that connected
and sends nothing must not use up DRAIN_S."""
IDLE_S = 1
"""How long a stop leaves a kept connection open on which nothing happens. A caller in a loop, or a busy
proxy, sends its next request within it and is told that this one is the last."""


class DrainProtocol(BoundedProtocol):
    """A connection that closes after the last answer it owes. Event loop only."""

    is_draining = False

    def shutdown(self) -> None:
        """Called once when the server stops: close now, or after the request that is there or on its way."""
        if self.is_draining or self._refusal is not None:
            return  # a refused connection ends by itself, once its caller has had time to read
        self.is_draining = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif self.cycle is None or self.is_receiving_head or self._has_unread_bytes():
            self._limits = replace(
                self._limits, head_read_s_max=min(self._limits.head_read_s_max, _HEAD_S_MAX)
            )
            self.wait_for_head()
        else:
            self.timeout_keep_alive = IDLE_S
            self.wait_for_request()

    def begin_message(self) -> None:
        """See BoundedProtocol. While the server stops the answer is the last: its head says so."""
        super().begin_message()
        if self.is_draining:
            self.cycle.keep_alive = False

    def end_idle(self) -> None:
        """See BoundedProtocol. What came while the loop was busy is read: closing would reset it."""
        if self._idle_since is not None and self._stage == BETWEEN and self._has_unread_bytes():
            self.wait_for_head()  # once: it is not idle any more
        else:
            super().end_idle()

    def _has_unread_bytes(self) -> bool:
        """Whether the kernel has received bytes that this connection has not read."""
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            return False
        count = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
        return count[0] > 0
