"""A server that misbehaves on command, and clients of both kinds for it."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.waiting import STOP_LOOK_S
from vector_client.async_client import AsyncVectorClient
from vector_client.async_transport import AsyncTransport
from vector_client.http import VectorClient
from vector_client.retries import Limits, Timing
from vector_client.transport import Transport
from vector_client.types import Keys

ClientFor = Callable[..., Any]

FOUND = {
    "results": [{"recipe_id": 7, "distance": 0.5}],
    "embedding_version": "m.1",
    "seq": 3,
    "exhausted": True,
}
WRITTEN = {"upserted": 1, "deleted": 0, "stale_ignored": 0, "rejected": [], "seq": 4, "version": "m.1"}


@dataclass(slots=True)
class Scripted:
    """Answers in order: (status, body) pairs, "drop" to close the connection, "hang" not to answer."""

    url: str = ""
    answers: list[object] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], object]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(name="server")
def scripted_server() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            script.seen.append((self.command, self.path, dict(self.headers), body))
            script.connections.add(self.client_address[1])
            answer = script.answers.pop(0)
            if answer == "hang":
                script.released.wait(20)
            if answer in ("hang", "drop"):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            status, content = answer  # type: ignore[misc]
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 429:
                self.send_header("Retry-After", "3")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None: ...

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(STOP_LOOK_S,), daemon=True).start()
    script.url = f"http://127.0.0.1:{running.server_address[1]}"
    yield script
    script.released.set()
    running.shutdown()
    running.server_close()


@pytest.fixture(params=["blocking", "async"])
def client_for(request: pytest.FixtureRequest) -> Iterator[ClientFor]:
    """Makes clients of one kind. No wait is waited for: `waits` notes it."""
    loop = asyncio.new_event_loop()
    made: list[VectorClient | AsyncVectorClient] = []
    timing = Timing(jitter=lambda: 1.0)

    def client(url: str, waits: list[float] | None = None, retries: int = 2) -> Any:
        noted = waits if waits is not None else []
        limits = Limits(deadline_s=60, attempt_s=1.5, retries=retries, backoff_s=0.25)
        keys = Keys("s", "w", "a")
        if request.param == "blocking":
            made.append(VectorClient(Transport(url, limits, timing, sleep=noted.append), keys))
            return made[-1]

        async def sleep(wait_s: float) -> None:
            noted.append(wait_s)

        made.append(AsyncVectorClient(AsyncTransport(url, limits, timing, sleep=sleep), keys))
        return OnLoop(made[-1], loop)

    yield client
    for each in made:
        closed = each.close()
        if closed is not None:
            loop.run_until_complete(closed)
    loop.close()


class OnLoop:
    """The async client's calls, each run to its end."""

    def __init__(self, client: AsyncVectorClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *arguments, **named: self._loop.run_until_complete(call(*arguments, **named))


def problem(code: str, status: int) -> tuple[int, dict[str, object]]:
    return status, {"code": code, "detail": f"{code} it is", "request_id": "r1", "status": status}
