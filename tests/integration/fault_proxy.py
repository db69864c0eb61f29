"""A proxy between client and service that misbehaves in every way a network or another program can."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal[
    "none", "delay", "reset_at_once", "reset_in_answer", "closed_at_once", "half_open", "dead_pool",
    "status_500", "status_502", "status_503", "status_431", "status_413", "redirect", "truncated",
    "wrong_json", "other_json", "not_http", "empty", "endless_head", "dripping_head", "dripping_body",
    "broken_chunks", "refused",
]  # fmt: skip
HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n"
PAUSE_S = 0.05


class FaultProxy:
    """Listens on a port of its own; each request that comes meets the fault of that moment."""

    def __init__(self, target_port: int) -> None:
        self.fault: Fault = "none"
        self._target = ("127.0.0.1", target_port)
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{1 if self.fault == 'refused' else self._port}"

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            if self.fault == "reset_at_once":
                _reset(near)
                return
            while not self._over.is_set():
                request = _request(near)
                if request is None or not self._answer(near, request):
                    return

    def _answer(self, near: socket.socket, request: bytes) -> bool:
        """Answer one request; return whether the connection goes on."""
        fault = self.fault
        if fault in ("none", "delay", "reset_in_answer", "truncated"):
            answer = self._real_answer(request)
            if fault == "delay":
                self._over.wait(30)
            near.sendall(answer if fault in ("none", "delay") else answer[: len(answer) // 2])
            if fault == "reset_in_answer":
                _reset(near)
            return fault == "none"
        if fault.startswith("status_"):
            return _say(near, fault.removeprefix("status_").encode() + b" Some Reason", b"<html>no</html>")
        if fault in ("wrong_json", "other_json", "empty"):
            bodies = {"wrong_json": b'{"results": [', "other_json": b'{"hello": "world"}', "empty": b""}
            return _say(near, b"200 OK", bodies[fault])
        if fault == "redirect":
            near.sendall(
                HEAD % b"307 Temporary Redirect" + b"Location: /elsewhere\r\nContent-Length: 0\r\n\r\n"
            )
            return True
        if fault == "not_http":
            near.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif fault in ("half_open", "dead_pool"):
            self._over.wait(30)
        elif fault == "broken_chunks":
            near.sendall(HEAD % b"200 OK" + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"res\r\nZZ\r\n')
        elif fault == "reset_at_once":
            _reset(near)
        elif fault != "closed_at_once":
            self._drip(near, fault)
        return False

    def _drip(self, near: socket.socket, fault: Fault) -> None:
        if fault == "dripping_body":
            near.sendall(HEAD % b"200 OK" + b"Content-Length: 100000\r\n\r\n")
        elif fault == "endless_head":
            near.sendall(HEAD % b"200 OK")
        else:
            near.sendall(b"HTTP/1.1 200 OK\r\n")
        while not self._over.wait(PAUSE_S):
            near.sendall(b"X-More: %s\r\n" % (b"a" * 1000) if fault == "endless_head" else b"x")

    def _real_answer(self, request: bytes) -> bytes:
        with socket.create_connection(self._target) as far:
            far.sendall(request)
            answer = _request(far)
            return answer or b""


def _say(near: socket.socket, status: bytes, body: bytes) -> bool:
    near.sendall(HEAD % status + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return True


def _reset(near: socket.socket) -> None:
    """Let the close that follows send a reset."""
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _request(source: socket.socket) -> bytes | None:
    """Read one whole message with a Content-Length (or none); None at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = source.recv(65_536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [
        line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    ]
    wanted = int(lengths[0]) if lengths else 0
    while len(body) < wanted:
        chunk = source.recv(65_536)
        if not chunk:
            return None
        body += chunk
    return head + b"\r\n\r\n" + body


@contextmanager
def fault_proxy(target_port: int) -> Iterator[FaultProxy]:
    proxy = FaultProxy(target_port)
    try:
        yield proxy
    finally:
        proxy.close()
