"""A request leaves no ring of objects: the collector would hold up a search in a thousand to find it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from tests.http_app import HttpApp

pytestmark = pytest.mark.long


class Server:
    """One request as a server holds it: its scope, and the two calls that the application is given."""

    def __init__(self, method: str, path: str, body: bytes) -> None:
        self.body = body
        self.statuses: list[int] = []
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 50_000),
        }

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/search", '{"query": "갈비탕"}', 200),
        ("/v1/search", '{"query": ""}', 422),
        ("/v1/search-batch", '{"searches": [{"query": "갈비탕"}]}', 200),
        ("/v1/delete", '{"ids": [4711]}', 200),
    ],
)
def test_a_request_is_freed_at_its_end(app: HttpApp, path: str, body: str, status: int) -> None:
    async def answered() -> list[weakref.ref[Server]]:
        places = []
        for _ in range(3):
            server = Server("POST", path, body.encode())
            await app.application(server.scope, server.receive, server.send)
            assert server.statuses == [status]
            places.append(weakref.ref(server))
        del server
        return places

    gc.collect()
    gc.disable()
    try:
        left = app.loop.run(answered())
        assert [place() for place in left] == [None] * 3
    finally:
        gc.enable()
