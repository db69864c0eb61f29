"""Both clients against a server that misbehaves on command."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vector_client.async_client import AsyncVectorClient
from vector_client.async_transport import AsyncTransport
from vector_client.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    KeyRefused,
    NoAnswer,
    NotFound,
    NotSent,
    TimedOut,
    Unavailable,
    VectorClientError,
)
from vector_client.http import VectorClient
from vector_client.retries import Limits, Timing
from vector_client.transport import Transport
from vector_client.types import DigestRow, Item, Keys, Query

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


@pytest.fixture
def server() -> Iterator[Scripted]:
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
    threading.Thread(target=running.serve_forever, daemon=True).start()
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
        limits = Limits(deadline_s=60, attempt_s=0.5, retries=retries, backoff_s=0.25)
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


def test_calls_share_one_connection_and_carry_their_key(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [(200, FOUND), (200, WRITTEN), (200, {"collections": {}})]
    client = client_for(server.url)
    found = client.search(Query(text="갈비탕", k=3, exclude_ids=[1, 2]))
    client.upsert(
        "recipes", [Item(5, b"\0\0\x80?", metadata={"a": 1})], cursors={"import": "x"}, partial=True
    )
    client.status()
    assert (found.hits[0].id, found.hits[0].distance) == (7, 0.5)
    assert len(server.connections) == 1
    assert [seen[2]["Authorization"] for seen in server.seen] == ["Bearer s", "Bearer w", "Bearer a"]
    assert server.seen[0][3] == {"query": "갈비탕", "top_k": 3, "exclude_ids": [1, 2]}
    assert server.seen[1][1] == "/v1/upsert?partial=true"
    assert server.seen[1][3] == {
        "collection": "recipes",
        "items": [{"id": 5, "active": True, "vector": "AACAPw==", "metadata": {"a": 1}}],
        "source": {"import": "x"},
    }


def test_a_connection_that_the_server_closed_costs_no_retry(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [(200, FOUND), "drop", (200, FOUND)]
    client = client_for(server.url, retries=0)
    client.search(Query(text="a"))
    client.search(Query(text="a"))
    assert len(server.connections) == 2


def test_overload_is_retried_as_late_as_asked_and_not_for_ever(
    server: Scripted, client_for: ClientFor
) -> None:
    waits: list[float] = []
    server.answers = [problem("overloaded", 503), problem("too_many_requests", 429), (200, FOUND)]
    client_for(server.url, waits).search(Query(text="a"))
    assert waits == [0.25, 3.0]
    server.answers = [problem("overloaded", 503)] * 3
    with pytest.raises(Unavailable) as failure:
        client_for(server.url).search(Query(text="a"))
    assert (failure.value.code, failure.value.detail, failure.value.request_id) == (
        "overloaded",
        "overloaded it is",
        "r1",
    )
    assert server.answers == []


@pytest.mark.parametrize("code", ["model_unavailable", "read_only"])
def test_what_lasts_is_not_retried(server: Scripted, client_for: ClientFor, code: str) -> None:
    server.answers = [problem(code, 503)]
    with pytest.raises(Unavailable, match=code):
        client_for(server.url).search(Query(text="a"))


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadRequest), (401, KeyRefused), (403, KeyRefused), (404, NotFound), (409, Conflict),
     (413, BadRequest), (415, BadRequest), (422, BadRequest), (500, Unavailable)],
)  # fmt: skip
def test_refusals_are_typed_and_final(
    server: Scripted, client_for: ClientFor, status: int, error: type[Exception]
) -> None:
    server.answers = [problem("some_code", status)]
    with pytest.raises(error, match="some_code"):
        client_for(server.url).delete("recipes", [1])
    assert len(server.seen) == 1


def _rows(first: int, following: int | None, **wrong: object) -> tuple[int, dict[str, object]]:
    sums = base64.b64encode(struct.pack("<2Q", 2**64 - 1, first)).decode()
    flags = base64.b64encode(bytes((3, 2))).decode()
    row = {"parts": [first], "ids": [first, first + 1], "sums": sums, "flags": flags, "next": following}
    return 200, {**row, **wrong}


def test_rows_that_differ_come_in_turns(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [_rows(3, 9), _rows(9, None)]
    found = client_for(server.url).differing("recipes", bytes(16 * 8))
    assert found.parts == [3, 9]
    assert found.rows == [
        DigestRow(3, 2**64 - 1, True, True), DigestRow(4, 3, False, True),
        DigestRow(9, 2**64 - 1, True, True), DigestRow(10, 9, False, True),
    ]  # fmt: skip
    asked = [body for _, path, _, body in server.seen if path == "/v1/collections/recipes/digest"]
    assert [body["first"] for body in asked] == [0, 9]  # type: ignore[index]
    assert {len(base64.b64decode(body["sums"])) for body in asked} == {16 * 8}  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong", [{"next": 0}, {"sums": "AAAA"}, {"flags": "AA=="}, {"ids": None}, {"parts": 3}, {"sums": "?"}]
)
def test_rows_that_do_not_fit_together_are_no_answer(
    server: Scripted, client_for: ClientFor, wrong: dict[str, object]
) -> None:
    server.answers = [_rows(3, None, **wrong)] * 3
    with pytest.raises(BadAnswer):
        client_for(server.url).differing("recipes", bytes(8))


def test_a_slow_read_is_repeated_and_a_slow_write_is_not(server: Scripted, client_for: ClientFor) -> None:
    server.answers = ["hang", (200, FOUND)]
    client_for(server.url).search(Query(text="a"))
    server.answers = ["hang", (200, WRITTEN)]
    with pytest.raises(TimedOut):
        client_for(server.url).upsert("recipes", [])
    assert len(server.answers) == 1, (
        "the first attempt may still be applied: it must not be followed by another"
    )


def test_a_broken_connection_is_repeated_for_writes_too(server: Scripted, client_for: ClientFor) -> None:
    server.answers = ["drop", "drop", (200, WRITTEN)]
    waits: list[float] = []
    assert client_for(server.url, waits).deactivate("recipes", [1]).seq == 4
    assert waits == [0.0, 0.25], "a pooled connection may have been closed meanwhile: the first is for free"


def test_nobody_there_and_somebody_else_there(server: Scripted, client_for: ClientFor) -> None:
    waits: list[float] = []
    nobody = client_for("http://127.0.0.1:1", waits)
    with pytest.raises(NoAnswer, match=r"127\.0\.0\.1:1"):
        nobody.status()
    assert len(waits) == 2
    for body in (b"<html>", b"[]", b"{}", b""):
        server.answers = [(200, body)]
        with pytest.raises(BadAnswer):
            client_for(server.url).status()
    server.answers = [(502, b"<html>bad gateway</html>")] * 3
    with pytest.raises(Unavailable, match="http_502"):
        client_for(server.url).status()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:80",
        "ftp://x",
        "http://",
        "http://" + "u:p@vector.example",
        "http://vector.example/?a=1",
        "http://vector.example/#a",
        "http://vector.example:99999",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    for make in (VectorClient.to, AsyncVectorClient.to):
        with pytest.raises(ValueError, match=r"address|Port out of range") as failure:
            make(url)
        assert ":p@" not in str(failure.value), "a password must not get into logs"


def test_an_address_may_have_a_prefix_and_blanks(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [(200, FOUND)]
    client_for(f" {server.url}/behind/a/proxy/ ").search(Query(text="a"))
    assert server.seen[0][1] == "/behind/a/proxy/v1/search"


NOT_JSON = [
    Query(text="half a pair \ud83d"), Query(text="a", exclude_ids=[2**64]),
    Query(text="a", filter={"a": b""}),
    Query(text="a", filter={"a": {"$lt": math.nan}}), Query(text="a", max_distance=math.inf),
    Query(vector=["x"]), Query(text="a", more={"boost": [math.nan]}),
]  # fmt: skip


@pytest.mark.parametrize("query", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_has_no_form_in_json_is_told_and_not_sent(
    server: Scripted, client_for: ClientFor, query: Query
) -> None:
    client = client_for(server.url)
    with pytest.raises(NotSent):
        client.search(query)
    with pytest.raises(NotSent):
        client.upsert("recipes", [Item(1, metadata={"a": {"b": [math.nan]}})])
    assert server.seen == []


def test_numbers_of_numpy_are_ids(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [(200, FOUND)]
    client_for(server.url).search(Query(text="a", exclude_ids=list(np.arange(3))))
    assert server.seen[0][3] == {"query": "a", "top_k": 25, "exclude_ids": [0, 1, 2]}


def test_a_closed_client_says_so_and_opens_nothing(server: Scripted, client_for: ClientFor) -> None:
    server.answers = [(200, FOUND), (200, FOUND)]
    client = client_for(server.url)
    client.search(Query(text="a"))
    client.close()
    client.close()
    with pytest.raises(NotSent, match="closed"):
        client.search(Query(text="a"))
    assert len(server.seen) == 1


def test_an_async_client_has_one_event_loop(server: Scripted) -> None:
    server.answers = [(200, FOUND)]
    client = AsyncVectorClient.to(server.url)

    async def search() -> None:
        await client.search(Query(text="a"))

    loop = asyncio.new_event_loop()
    loop.run_until_complete(search())
    with pytest.raises(NotSent, match="another event loop"):
        asyncio.run(search())
    loop.run_until_complete(client.close())
    loop.close()


def test_calls_in_flight_end_with_their_client(server: Scripted) -> None:
    """Each of them used to find its connection broken, and opened a session that nobody closed."""
    server.answers = ["hang"] * 5

    async def run() -> None:
        client = AsyncVectorClient.to(server.url)
        calls = [asyncio.ensure_future(client.search(Query(text="a"))) for _ in range(5)]
        while len(server.seen) < 5:
            await asyncio.sleep(0.01)
        await client.close()
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, VectorClientError)
        assert client._transport._session is None

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.filterwarnings("error")
def test_large_bodies_go_in_chunks(server: Scripted, client_for: ClientFor) -> None:
    server.answers = ["drop", (200, WRITTEN)]
    client = client_for(server.url)
    client.upsert("recipes", [Item(n, bytes(2000)) for n in range(1000)])
    assert len(server.seen[-1][3]["items"]) == 1000  # type: ignore[index]
    assert server.seen[0][3] == server.seen[1][3], "a repeat sends the whole body again"
