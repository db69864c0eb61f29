"""Sends load and tells what came back: a process of its own, so that it takes no interpreter from the
service.

    echo '{"port": 8080, "kind": "text8", "rate": 100, "seconds": 5}' | python -m benchmarks.overload_client

Closed loop without a rate. With one, an open loop: requests are sent when they are due, at random moments as
of many callers who know nothing of each other, however many answers are missing; an answer's time counts from
then. Connections are bounded; what finds no free connection is counted as unsent. `late_s` tells whether the
client itself kept up.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.http_load import _is_whole, _status, post
from service.demo.catalogue import products, recipes

KINDS = ("text8", "text40", "text120", "picture", "vector", "mix")
MIX = ("vector", "text8", "vector", "text40", "vector", "text8", "vector", "picture")
CONNECTIONS_MAX = 900
TEXTS_MAX = 60_000
PREPARED_MAX = 8_000
REPEATED = 1_000
"""Vectors and pictures are not remembered by the service, so they may come again."""
ANSWER_S_MAX = 20.0
DEADLINE_S = 3.0
"""As the deployed caller waits: a later answer is none."""
REST_S = 0.05
"""After a refusal, in a closed loop."""
_DIM = 384
_RECEIVE = 1 << 18


@dataclass(frozen=True, slots=True)
class Load:
    """rate: requests a second; 0 for a closed loop over `connections`. keys: each request takes the next
    one."""

    port: int
    kind: str
    seconds: float
    rate: float = 0.0
    connections: int = 16
    keys: Sequence[str] = ()
    seed: int = 1


@dataclass(slots=True)
class Seen:
    """ok_at, ok_s: when each good answer was due, from the start, and what it took. refused_s: 429 and 503.
    late_s: how long after it was due a request was sent. unsent: no connection was free."""

    ok_at: list[float] = field(default_factory=list)
    ok_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    unsent: int = 0
    took_s: float = 0.0


def words() -> list[str]:
    found = {word for row in recipes() for word in f"{row.title} {row.description}".split()}
    return sorted(found)


def requests(kind: str, count: int, keys: Sequence[str], seed: int) -> Iterator[bytes]:
    """Yield requests of which no two are alike."""
    rng = random.Random(seed)
    pool = words()
    files = [each.jpeg for each in products()][:40]
    for number in range(count):
        one = MIX[number % len(MIX)] if kind == "mix" else kind
        head = f"x-api-key: {keys[number % len(keys)]}\r\n" if keys else ""
        yield _with_head(_request(one, number, rng, pool, files), head)


def _with_head(request: bytes, head: str) -> bytes:
    return request.replace(b"\r\n\r\n", b"\r\n" + head.encode() + b"\r\n", 1) if head else request


def _request(
    kind: str, number: int, rng: random.Random, pool: Sequence[str], files: Sequence[bytes]
) -> bytes:
    if kind == "vector":
        vector = np.asarray([rng.gauss(0, 1) for _ in range(_DIM)], "<f4")
        body = {"vector": base64.b64encode(vector.tobytes()).decode(), "top_k": 10}
    elif kind == "picture":
        return _upload(files[number % len(files)])
    else:
        count = int(kind.removeprefix("text"))
        body = {"query": f"{' '.join(rng.choices(pool, k=count - 1))} {rng.randrange(10**9)}", "top_k": 10}
    return post("/v1/search", json.dumps(body, ensure_ascii=False).encode())


def _upload(file: bytes) -> bytes:
    mark = b"picture-follows"
    body = (
        b'--%b\r\ncontent-disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n%b\r\n--%b--\r\n'
        % (
            mark,
            file,
            mark,
        )
    )
    return post("/search_similar?top_k=5", body, f"multipart/form-data; boundary={mark.decode()}")


def _prepared(load: Load) -> Iterator[bytes]:
    """Return requests without an end, made before the first is due as far as they are needed."""
    if load.kind in ("vector", "picture"):
        return itertools.cycle(list(requests(load.kind, REPEATED, load.keys, load.seed)))
    count = min(TEXTS_MAX, int(1.2 * load.rate * load.seconds) + 100 if load.rate else PREPARED_MAX)
    return itertools.cycle(list(requests(load.kind, count, load.keys, load.seed)))


class Client:
    """One thread, epoll and non-blocking sockets."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._prepared = _prepared(load)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: list[int] = []
        self._due: dict[int, float] = {}
        self._answers: dict[int, bytes] = {}
        self._unsent: dict[int, bytes] = {}
        self._resting: deque[float] = deque()
        self._began = 0.0
        self.seen = Seen()

    def run(self) -> Seen:
        self._began = time.perf_counter()
        if self._load.rate:
            self._open_loop()
        else:
            for _ in range(self._load.connections):
                self._send(time.perf_counter())
            while self._due or self._resting:
                is_on = time.perf_counter() - self._began < self._load.seconds
                if not is_on:
                    self._resting.clear()
                while self._resting and self._resting[0] <= time.perf_counter():
                    self._resting.popleft()
                    self._send(time.perf_counter())
                self._receive(0.02, sends_on=is_on)
        self.seen.took_s = time.perf_counter() - self._began
        for sock in self._sockets.values():
            sock.close()
        return self.seen

    def _open_loop(self) -> None:
        rng = random.Random(self._load.seed)
        due = self._began
        end = self._began + self._load.seconds
        while due < end:
            now = time.perf_counter()
            while due <= min(now, end):
                self._send(due)
                self.seen.late_s.append(time.perf_counter() - due)
                due += rng.expovariate(self._load.rate)
            self._receive(max(0.0, min(0.05, due - time.perf_counter())))
        give_up = time.perf_counter() + ANSWER_S_MAX
        while self._due and time.perf_counter() < give_up:
            self._receive(0.2)
        if self._due:
            self._count_other("unanswered", len(self._due))

    def _send(self, due: float) -> None:
        request = next(self._prepared)
        number = self._connection()
        if number is None:
            self.seen.unsent += 1
            return
        self.seen.sent += 1
        self._due[number] = due
        self._push(number, request)

    def _connection(self) -> int | None:
        if self._free:
            return self._free.pop()
        if len(self._sockets) >= CONNECTIONS_MAX:
            return None
        sock = socket.create_connection(("127.0.0.1", self._load.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._sockets[sock.fileno()] = sock
        self._poll.register(sock.fileno(), select.EPOLLIN)
        return sock.fileno()

    def _push(self, number: int, data: bytes) -> None:
        try:
            sent = self._sockets[number].send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose(number)
            return
        if sent < len(data):
            self._unsent[number] = data[sent:]
            self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT)
        elif self._unsent.pop(number, None) is not None:
            self._poll.modify(number, select.EPOLLIN)

    def _receive(self, wait_s: float, *, sends_on: bool = False) -> None:
        for number, event in self._poll.poll(wait_s):
            if number in self._unsent and event & select.EPOLLOUT:
                self._push(number, self._unsent[number])
            if number not in self._sockets or not event & ~select.EPOLLOUT:
                continue
            try:
                data = self._sockets[number].recv(_RECEIVE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._lose(number)
                continue
            answer = self._answers.pop(number, b"") + data
            if _is_whole(answer):
                is_ok = self._note(number, answer)
                if sends_on and is_ok:
                    self._send(time.perf_counter())
                elif sends_on:
                    self._resting.append(time.perf_counter() + REST_S)
            else:
                self._answers[number] = answer

    def _note(self, number: int, answer: bytes) -> bool:
        """Return whether the answer is a good one."""
        due = self._due.pop(number)
        took = time.perf_counter() - due
        status = _status(answer)
        if status == 200 and took <= DEADLINE_S:
            self.seen.ok_at.append(due - self._began)
            self.seen.ok_s.append(took)
        elif status in (429, 503):
            self.seen.refused_s.append(took)
        else:
            self._count_other(str(status) if status != 200 else "late", 1)
        if b"connection: close" in answer[:600]:
            self._drop(number)
        else:
            self._free.append(number)
        return status == 200

    def _lose(self, number: int) -> None:
        self._drop(number)
        self._count_other("closed", int(self._due.pop(number, None) is not None))

    def _drop(self, number: int) -> None:
        self._poll.unregister(number)
        self._sockets.pop(number).close()
        self._unsent.pop(number, None)
        self._answers.pop(number, None)
        if number in self._free:
            self._free.remove(number)

    def _count_other(self, what: str, count: int) -> None:
        if count:
            self.seen.others[what] = self.seen.others.get(what, 0) + count


if __name__ == "__main__":
    json.dump(asdict(Client(Load(**json.load(sys.stdin))).run()), sys.stdout)
