"""A keep-alive load client at socket level, light enough to share a machine with what it measures."""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_TICKS = os.sysconf("SC_CLK_TCK")
_LENGTH = b"content-length: "
_TIMEOUT_S = 60.0
_RECEIVE = 1 << 18


@dataclass(slots=True)
class Outcome:
    """seconds: of each answered request, in no order. statuses: how often each came."""

    seconds: npt.NDArray[np.float64]
    took_s: float
    statuses: dict[int, int]

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.took_s

    def ms(self, percentile: float) -> float:
        return float(np.percentile(self.seconds, percentile)) * 1000

    def require_ok(self) -> Outcome:
        if set(self.statuses) != {200}:
            raise AssertionError(f"answers by status: {self.statuses}")
        return self


def post(path: str, body: bytes, content_type: str = "application/json") -> bytes:
    """Return a whole request as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def one_by_one(port: int, requests: Sequence[bytes]) -> Iterator[tuple[float, bytes]]:
    """Yield (seconds, body) of each request, asked over one connection, one after the other."""
    with _connected(port) as sock:
        for request in requests:
            began = time.perf_counter()
            sock.sendall(request)
            answer = sock.recv(_RECEIVE)
            while not _is_whole(answer):
                answer += _more(sock)
            took = time.perf_counter() - began
            head, _, body = answer.partition(b"\r\n\r\n")
            if _status(answer) != 200:
                raise AssertionError(f"{head!r} {body[:300]!r}")
            yield took, body


def closed_loop(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Outcome:
    """Keep `connections` busy for `seconds`, each with the next request as soon as it has its answer.

    epoll and nothing around it: what the client costs is missing on a machine that it shares.
    """
    poll = select.epoll()
    sockets = {sock.fileno(): sock for sock in (_connected(port) for _ in range(connections))}
    received = dict.fromkeys(sockets, b"")
    began_at = dict.fromkeys(sockets, 0.0)
    took: list[float] = []
    statuses: dict[int, int] = {}
    following = itertools.cycle(requests)
    began = time.perf_counter()
    for number, sock in sockets.items():
        poll.register(number, select.EPOLLIN)
        began_at[number] = time.perf_counter()
        sock.sendall(next(following))
    busy = connections
    while busy:
        for number, _ in poll.poll(_TIMEOUT_S):
            sock = sockets[number]
            answer = received[number] + _more(sock)
            if not _is_whole(answer):
                received[number] = answer
                continue
            received[number] = b""
            now = time.perf_counter()
            took.append(now - began_at[number])
            status = _status(answer)
            statuses[status] = statuses.get(status, 0) + 1
            if now - began < seconds:
                began_at[number] = now
                sock.sendall(next(following))
            else:
                busy -= 1
    took_s = time.perf_counter() - began
    poll.close()
    for sock in sockets.values():
        sock.close()
    return Outcome(np.array(took), took_s, statuses)


def cpu_seconds(process_id: int) -> float:
    """Return user and system time of a process so far, all its threads, from /proc/<pid>/stat."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(_RECEIVE)
    if not data:
        raise ConnectionError("the server closed a connection")
    return data


def _is_whole(answer: bytes) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    start = answer.find(_LENGTH, 0, end) + len(_LENGTH)
    return len(answer) >= end + 4 + int(answer[start : answer.find(b"\r", start)])


def _status(answer: bytes) -> int:
    return int(answer[9:12])
