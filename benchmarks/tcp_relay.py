"""A TCP relay that can be slow, half-open or gone: what lies between a feeder and its database."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time

from benchmarks.processes import free_port

ANSWER_BYTES = 65_536


class Relay:
    """Passes bytes between whoever connects to `port` and a server on this machine, until told otherwise."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._passes = threading.Event()
        self._passes.set()
        self._delay_s = 0.0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = free_port()  # below the system's own, so that nobody takes it while this is down
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def slow(self, seconds: float) -> None:
        """Hold back the first bytes of every answer for so long."""
        self._delay_s = seconds

    def cut(self) -> None:
        """Half-open from now on: whoever is connected stays connected, and no byte passes."""
        self._passes.clear()

    def down(self) -> None:
        """Refuse and break every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def mend(self) -> None:
        """Pass everything again, what was held back included."""
        self._delay_s = 0.0
        self._passes.set()

    def close(self) -> None:
        self.mend()
        with contextlib.suppress(OSError):
            self.down()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                for each in (near, far):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets |= {near, far}
                asked = threading.Event()
                for source, sink, is_answer in ((near, far, False), (far, near, True)):
                    arguments = (source, sink, is_answer, asked)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, is_answer: bool, asked: threading.Event
    ) -> None:
        _stand_back()
        with contextlib.suppress(OSError):
            while data := source.recv(ANSWER_BYTES):
                self._passes.wait()
                if not is_answer:
                    asked.set()
                elif self._delay_s and asked.is_set():
                    asked.clear()
                    time.sleep(self._delay_s)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        with self._lock:
            self._sockets -= {source, sink}


def _stand_back() -> None:
    """A network takes nobody's processor, so neither does this thread where others want it."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
