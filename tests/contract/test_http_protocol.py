"""The service behind its own server protocol, over sockets: what a search skips there, nobody can see."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.app.encoders import TextEncoder
from service.embedding.port import ModelInfo
from service.errors import Overloaded
from service.http.transport.direct_search import Shortcut
from service.http.transport.protocol import SearchProtocol
from service.wiring import MakeIndex
from tests.contract.test_http_search_cases import CASES, Case
from tests.http_app import HttpApp, application_of, running_app, seed

KEEP_ALIVE_S = 60
TIMEOUT_S = 60
SEARCH = json.dumps({"query": "갈비탕", "top_k": 3}, ensure_ascii=False).encode()
VARYING = re.compile(rb'"(?:took_ms|request_id)":[^,}]+')


class CountingShortcut:
    """A shortcut that counts what it takes: a test of the short way must have gone it."""

    def __init__(self, shortcut: Shortcut) -> None:
        self._shortcut = shortcut
        self.paths = shortcut.paths
        self.taken = 0

    def take(self, *arguments: Any) -> bool:
        is_taken = self._shortcut.take(*arguments)
        self.taken += is_taken
        return is_taken


class Answer:
    """One answer off the wire."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Wire:
    """A service on a socket."""

    def __init__(self, app: HttpApp, shortcut: CountingShortcut, port: int, server: uvicorn.Server) -> None:
        self.app = app
        self.shortcut = shortcut
        self.port = port
        self.server = server

    def connected(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def ask(self, *pieces: bytes) -> Answer:
        """Send `pieces` one by one and return the one answer to them."""
        with self.connected() as sock:
            for piece in pieces[:-1]:
                sock.sendall(piece)
                self.pass_time(0)  # pieces that arrive at once are one
            sock.sendall(pieces[-1])
            with sock.makefile("rb") as stream:
                return read_answer(stream)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, once the service has read what was sent before."""
        self.ask(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        self.app.loop.pass_time(seconds)

    def in_flight(self) -> float:
        text = self.app.get("/metrics").text
        found = re.search(r"^uhok_http_requests_in_flight (\S+)$", text, re.MULTILINE)
        assert found is not None
        return float(found[1]) - 1  # the one that asks


@contextmanager
def served(
    data_dir: Path,
    environ: dict[str, str] | None = None,
    make_index: MakeIndex | None = None,
    drain_s: int | None = None,
) -> Iterator[Wire]:
    with running_app(data_dir, environ, make_index) as app:
        application = application_of(app)
        application.shortcut = shortcut = CountingShortcut(application.shortcut)
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            application, http=SearchProtocol, lifespan="off", log_config=None, access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S, ws="none", proxy_headers=False,
            timeout_graceful_shutdown=drain_s,
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.run_coroutine_threadsafe(server.serve([listener]), app.loop._loop)
        try:
            yield Wire(app, shortcut, listener.getsockname()[1], server)
        finally:
            server.should_exit = True
            serving.result(TIMEOUT_S)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire")) as wire:
        seed(wire.app)
        wire.ask(post())  # from now on the query's vector is remembered
        yield wire


def post(body: bytes = SEARCH, path: str = "/v1/search", version: str = "1.1", **more: str) -> bytes:
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"POST {path} HTTP/{version}\r\n{head}\r\n".encode() + body


def read_answer(stream: Any) -> Answer:
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        assert name not in headers
        headers[name] = value
    if status == 100:
        return read_answer(stream)
    return Answer(status, headers, stream.read(int(headers["content-length"])))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_search_case_is_answered_as_without_sockets(wire: Wire, case: Case) -> None:
    headers = {name.replace("-", "_"): value for name, value in case.headers.items()}
    sent = post(case.content(), case.path, **{"content_type": "", **headers})
    expected = wire.app.post(case.path, content=case.content(), headers=case.headers)
    for _ in range(2):  # a text goes the short way from the second time on
        answer = wire.ask(sent)
        assert answer.status == case.status == expected.status_code
        assert VARYING.sub(b"", answer.body) == VARYING.sub(b"", expected.content)
        assert answer.headers["content-type"] == expected.headers["content-type"]
        assert answer.headers.get("retry-after") == expected.headers.get("retry-after")


def test_a_whole_search_is_answered_in_one_packet_and_by_the_shortcut(wire: Wire) -> None:
    taken = wire.shortcut.taken
    with wire.connected() as sock:
        for _ in range(3):
            sock.sendall(post())
            answer = sock.recv(1 << 16)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\ndate: " in head
            assert len(json.loads(body)["results"]) == 3
    assert wire.shortcut.taken == taken + 3


@pytest.mark.parametrize(
    "pieces",
    [
        [post()[:10], post()[10:]],
        [post()[: -len(SEARCH)], SEARCH],
        [post()[:-1], SEARCH[-1:]],
        [bytes([each]) for each in post()],
        [post(version="1.0")],
        [post(connection="close")],
        [post(expect="100-continue")],
        [post(content_length="", transfer_encoding="chunked")[: -len(SEARCH)], b"%x\r\n%s\r\n0\r\n\r\n" % (len(SEARCH), SEARCH)],  # noqa: E501
        [post(path="/v1/search?x=1")],
        [post(path="/v1/%73earch")],
        [post(path="//v1/search")[:5], post(path="/v1/search")[5:]],
    ],
    ids=[
        "head in two", "head, body", "last byte late", "byte by byte", "1.0", "close", "expect", "chunked",
         "query string", "encoded", "line in two",
    ],
)  # fmt: skip
def test_a_search_may_come_in_any_way(wire: Wire, pieces: Sequence[bytes]) -> None:
    expected = wire.ask(post())
    answer = wire.ask(*pieces)
    assert answer.status == 200
    assert VARYING.sub(b"", answer.body) == VARYING.sub(b"", expected.body)


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    def search(k: int, number: int) -> bytes:
        return post(json.dumps({"query": "갈비탕", "top_k": k}).encode(), x_request_id=f"r-{number}")

    livez = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: r-%d\r\n\r\n"
    with wire.connected() as sock, sock.makefile("rb") as stream:
        for _ in range(3):
            sent = [
                search(1, 0),
                search(2, 1),
                livez % 2,
                search(3, 3),
                post(b"no", x_request_id="r-4"),
                search(4, 5),
            ]
            sock.sendall(b"".join(sent))
            answers = [read_answer(stream) for _ in sent]
            assert [each.status for each in answers] == [200, 200, 200, 200, 400, 200]
            assert [each.headers["x-request-id"] for each in answers] == [f"r-{n}" for n in range(6)]
            counts = [len(json.loads(answers[place].body)["results"]) for place in (0, 1, 3, 5)]
            assert counts == [1, 2, 3, 4]


@pytest.mark.long
def test_any_line_of_requests_cut_anywhere(wire: Wire) -> None:
    seed_number = random.randrange(2**32)
    print(f"seed {seed_number}")
    chance = random.Random(seed_number)
    bodies = [SEARCH, '{"query": "국", "top_k": 1}'.encode(), b"no", b'{"top_k": 1}', SEARCH + b" " * 70_000]
    statuses = [200, 200, 400, 422, 200]
    for _ in range(40):
        kinds = chance.choices(range(len(bodies) + 1), [6, 2, 1, 1, 1, 2], k=chance.randint(1, 6))
        sent = b"".join(
            post(bodies[kind], x_request_id=f"r-{place}")
            if kind < len(bodies)
            else b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: r-%d\r\n\r\n" % place
            for place, kind in enumerate(kinds)
        )
        cuts = sorted(chance.choices(range(len(sent)), k=chance.randint(0, 5)))
        with wire.connected() as sock, sock.makefile("rb") as stream:
            for start, end in pairwise([0, *cuts, len(sent)]):
                sock.sendall(sent[start:end])
                time.sleep(chance.choice([0, 0.001]))  # apart or together
            answers = [read_answer(stream) for _ in kinds]
        assert [each.status for each in answers] == [[*statuses, 200][kind] for kind in kinds]
        assert [each.headers["x-request-id"] for each in answers] == [f"r-{n}" for n in range(len(kinds))]
    assert wire.in_flight() == 0


def test_what_is_no_http_is_refused(wire: Wire) -> None:
    with wire.connected() as sock:
        sock.sendall(post()[:40] + b"\x00\x01 nonsense\r\n\r\n")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(1 << 16) == b""
    assert wire.ask(post()).status == 200


def test_request_id_and_trace_are_returned(wire: Wire) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    taken = wire.shortcut.taken
    answer = wire.ask(post(x_request_id="mine-1", traceparent=trace))
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["traceparent"] == trace
    assert "x-request-id" in wire.ask(post(x_request_id="not mine")).headers
    assert wire.shortcut.taken == taken + 2


def test_an_error_of_the_index_is_told_by_the_shortcut(wire: Wire) -> None:
    body = json.dumps({"vector": [1.0] * 384, "embedding_version": "another"}).encode()
    taken = wire.shortcut.taken
    answer = wire.ask(post(body, x_request_id="mine-2"))
    assert answer.status == 409
    assert answer.headers["content-type"] == "application/problem+json"
    problem = json.loads(answer.body)
    assert (problem["code"], problem["request_id"]) == ("embedding_version_mismatch", "mine-2")
    assert (problem["instance"], answer.headers["x-request-id"]) == ("/v1/search", "mine-2")
    assert wire.shortcut.taken == taken + 1


def test_requests_are_counted_once(wire: Wire) -> None:
    def counted() -> float:
        text = wire.app.get("/metrics").text
        name = r'uhok_http_requests_total{method="POST",route="/v1/search",status="200"}'
        found = re.search("^" + re.escape(name) + r" (\S+)$", text, re.MULTILINE)
        assert found is not None
        return float(found[1])

    before = counted()
    for _ in range(5):
        wire.ask(post())
    assert counted() == before + 5
    assert wire.in_flight() == 0


def test_what_arrives_in_pieces_is_timed(wire: Wire) -> None:
    def grown(*pieces: bytes) -> list[float]:
        name = r'^uhok_stage_seconds_count{stage="(?:head|body|search)"} (\S+)$'
        before = re.findall(name, wire.app.get("/metrics").text, re.MULTILINE)
        wire.ask(*pieces)
        counted = re.findall(name, wire.app.get("/metrics").text, re.MULTILINE)
        return [float(after) - float(then) for after, then in zip(counted, before, strict=True)]

    head, end, body = post().partition(b"\r\n\r\n")
    assert grown(post()) == [0, 0, 1]
    assert grown(head[:9], head[9:] + end + body) == [1, 0, 1]
    assert grown(head[:9], head[9:], end + body[:9], body[9:]) == [1, 1, 1]


def test_who_leaves_before_the_answer_harms_nobody(wire: Wire) -> None:
    for _ in range(20):
        with wire.connected() as sock:
            sock.sendall(post())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close by reset
    assert wire.ask(post()).status == 200
    until = time.monotonic() + TIMEOUT_S
    while wire.in_flight() and time.monotonic() < until:
        time.sleep(0.01)
    assert wire.in_flight() == 0


def test_an_idle_connection_is_closed_and_a_used_one_stays(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        for _ in range(4):
            sock.sendall(post())
            assert read_answer(stream).status == 200
            wire.pass_time(0.6 * KEEP_ALIVE_S)
        wire.pass_time(0.5 * KEEP_ALIVE_S)
        assert stream.read() == b""


@pytest.mark.long
def test_without_a_key_nothing_is_taken(tmp_path: Path) -> None:
    with served(tmp_path, {"SEARCH_API_KEY": "secret-search-key-1"}) as wire:
        assert wire.ask(post()).status == 401
        assert wire.ask(post(x_api_key="wrong")).status == 403
        assert wire.shortcut.taken == 0
        vector = json.dumps({"vector": [1.0] * 384}).encode()
        assert wire.ask(post(vector, x_api_key="secret-search-key-1")).status == 200
        assert wire.shortcut.taken == 1


class FullEncoder:
    """A text model whose line is full: whoever asks it to embed would have to wait."""

    def __init__(self, inner: TextEncoder) -> None:
        self._inner = inner
        self.asked_by: list[str] = []

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    def known_query(self, content: str) -> None:  # noqa: ARG002
        return None

    def is_under_way(self, content: str) -> bool:  # noqa: ARG002
        return False

    def refusal(self, size: int, caller: str) -> Overloaded:  # noqa: ARG002
        self.asked_by.append(caller)
        return Overloaded("Work of 2.3 s waits for text-model, more than may.", 2.3, reason="text-model")

    async def embed_query(self, content: str, caller: str = "") -> Any:
        raise self.refusal(len(content), caller)

    async def embed_queries(self, contents: Sequence[str], caller: str = "") -> Any:
        raise self.refusal(len(contents[0]), caller)

    async def embed_documents(self, contents: Sequence[str]) -> Any:
        return await self._inner.embed_documents(contents)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.long
def test_what_would_wait_too_long_is_refused_on_the_short_way(tmp_path: Path) -> None:
    with served(tmp_path, {"SEARCH_API_KEY": "first-key,second-key"}) as wire:
        slot = application_of(wire.app).searcher._encoders.slot("recipes")
        assert slot.text is not None
        slot.text = full = FullEncoder(slot.text)
        with wire.connected() as sock, sock.makefile("rb") as stream:
            for _ in range(2):  # the connection is kept
                sock.sendall(post(x_api_key="second-key"))
                answer = read_answer(stream)
                assert (answer.status, answer.headers["retry-after"]) == (503, "3")
                assert json.loads(answer.body)["code"] == "overloaded"
        assert wire.shortcut.taken == 2
        assert full.asked_by == ["key search-2"] * 2, "a caller is told by its key"
        assert wire.in_flight() == 0
        batch = wire.app.post("/v1/embed-batch", {"texts": ["a", "b"]}, headers={"x-api-key": "first-key"})
        assert (batch.status_code, full.asked_by[-1]) == (503, "key search-1")
