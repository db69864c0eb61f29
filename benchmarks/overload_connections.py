"""What callers that never finish cost the others: half-open connections, and a head without an end.

`python -m benchmarks.overload_connections PORT PID` against a running service; PID is its parent process.
Only against this machine, bounded in count and in time.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HALF_OPEN = 300
SECONDS = 10.0
_PAUSE_S = 0.01
_ENDLESS = b"x-a: " + b"a" * 65_531
_LINE = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\n"


@dataclass(frozen=True, slots=True)
class ConnectionFigures:
    """quiet, beset: latencies of others in seconds, sorted. quiet_bytes, beset_bytes: resident memory, the
    second at its highest. closed: of the half-open ones, how many the service ended."""

    quiet: list[float]
    beset: list[float]
    quiet_bytes: int
    beset_bytes: int
    half_open: int
    closed: int
    refusals: int

    @property
    def p99_ratio(self) -> float:
        return p99(self.beset) / p99(self.quiet)

    @property
    def memory_growth(self) -> float:
        return self.beset_bytes / self.quiet_bytes - 1

    def lines(self) -> list[str]:
        return [
            f"others' p99: {p99(self.quiet) * 1000:.2f} ms quiet, {p99(self.beset) * 1000:.2f} ms beset: "
            f"{self.p99_ratio:.2f} x (wanted: 1.2 at most)",
            f"memory: {self.quiet_bytes / 1e6:.0f} MB, {self.beset_bytes / 1e6:.0f} MB at its highest: "
            f"{self.memory_growth:+.1%}",
            f"half-open connections closed by the service: {self.closed} of {self.half_open}; "
            f"endless heads refused: {self.refusals}",
        ]


def measured(
    port: int, pid: int, path: str = "/livez", seconds: float = SECONDS, half_open: int = HALF_OPEN
) -> ConnectionFigures:
    """Ask `path` one by one, first in quiet, then beside `half_open` connections that send half a head and
    one that sends a head without an end. Takes twice `seconds`, and up to 20 s until all are closed."""
    _latencies(port, path, seconds / 5)  # warm
    quiet = _latencies(port, path, seconds)
    quiet_bytes = resident_bytes(pid)
    with _half_open(port, half_open) as socks, _endless_heads(port) as refusals:
        highest = _Highest(pid)
        with highest:
            beset = _latencies(port, path, seconds)
        closed = _closed(socks, time.monotonic() + 20)
    return ConnectionFigures(quiet, beset, quiet_bytes, highest.value, half_open, closed, refusals[0])


def p99(latencies: list[float]) -> float:
    """latencies: sorted."""
    return latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))]


def resident_bytes(pid: int) -> int:
    """Of a process and of all that it started."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(resident_bytes(int(child)) for child in (task / "children").read_text().split())
    return total


class _Highest:
    """Looks at a process's memory while it is entered."""

    def __init__(self, pid: int) -> None:
        self.value = resident_bytes(pid)
        self._pid = pid
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.25):
            self.value = max(self.value, resident_bytes(self._pid))


def _latencies(port: int, path: str, seconds: float) -> list[float]:
    """A new connection for each request, as the deployed caller does it."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200, answer.status
        found.append(time.perf_counter() - began)
        time.sleep(_PAUSE_S)
    return sorted(found)


@contextlib.contextmanager
def _half_open(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            sock.sendall(_LINE + b"X-Half: y")
            socks.append(sock)
        yield socks


@contextlib.contextmanager
def _endless_heads(port: int) -> Iterator[list[int]]:
    """One connection at a time sends a header field as fast as it is taken; again whenever it is refused."""
    refusals = [0]
    is_over = threading.Event()

    def send() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as sock:
                sock.sendall(_LINE)
                while not is_over.is_set():
                    sock.sendall(_ENDLESS)
            refusals[0] += not is_over.is_set()
            is_over.wait(1)  # one caller, not a flood of connections

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield refusals
    finally:
        is_over.set()
        thread.join()


def _closed(socks: list[socket.socket], give_up: float) -> int:
    closed = 0
    for sock in socks:
        sock.settimeout(max(0.001, give_up - time.monotonic()))
        with contextlib.suppress(TimeoutError):
            try:
                while sock.recv(1 << 16):
                    pass
            except ConnectionError:
                pass
            closed += 1
    return closed


if __name__ == "__main__":
    print("\n".join(measured(int(sys.argv[1]), int(sys.argv[2])).lines()))
