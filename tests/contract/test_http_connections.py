"""One connection, however it is used, takes neither memory nor time from the others."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.contract.openapi_document import OPERATIONS, filled_path
from tests.contract.test_http_protocol import KEEP_ALIVE_S, SEARCH, Answer, Wire, post, read_answer, served
from tests.http_app import seed
from tests.waiting import until

HEAD_BYTES_MAX = 4096
LIMIT_S = 60
LIMITS = {
    "HEAD_BYTES_MAX": str(HEAD_BYTES_MAX),
    "HEAD_FIELDS_MAX": "20",
    "HEAD_READ_S_MAX": str(LIMIT_S),
    "BODY_READ_S_MAX": str(LIMIT_S),
    "ANSWER_STALL_S_MAX": str(LIMIT_S),
    "BODIES_BYTES_MAX": str(1 << 20),
    "SEARCH_BYTES_MAX": str(1 << 20),
    "UPSERT_BYTES_MAX": str(1 << 20),
    "IMAGE_BYTES_MAX": str(900_000),
}
LINE = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = post(content_length="", transfer_encoding="chunked")[: -len(SEARCH)]
POSTS = [
    (path, filled_path(path, operation), next(iter(operation["requestBody"]["content"])))
    for path, method, operation in OPERATIONS
    if method == "post"
]


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire"), LIMITS) as wire:
        seed(wire.app)
        yield wire
        assert wire.in_flight() == 0


def pass_time_until_answered(wire: Wire, sock: socket.socket) -> None:
    """A route begins the time for its body when it begins to read."""

    def is_answered() -> bool:
        wire.pass_time(LIMIT_S)
        return bool(select.select([sock], [], [], 0)[0])

    until(is_answered, "an answer")


def refused(stream: Any) -> Answer:
    """The refusal, which must be a whole problem document and the last thing on its connection."""
    answer = read_answer(stream)
    assert stream.read() == b""
    problem = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert problem["status"] == answer.status
    return answer


def code_of(answer: Answer) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["code"]


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (LINE + b"x-a: ", b"a"),
        (LINE, b"x-abc: y\r\n"),
        (b"POST /", b"a"),
        (b"POST /v1/search?", b"a=b&"),
        (CHUNKED + b"2\r\n{}\r\n0\r\nx-trailer: ", b"a"),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-abc: y\r\n"),
        (CHUNKED + b"2;", b"a"),
        (post() + LINE + b"x-a: ", b"a"),
    ],
    ids=["field", "fields", "path", "query string", "trailer", "trailers", "chunk extension", "second head"],
)  # fmt: skip
def test_what_does_not_end_is_refused_early(wire: Wire, begin: bytes, more: bytes) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(begin)
        if begin.startswith(post()):
            assert read_answer(stream).status == 200
        sent = 0
        try:
            while sent < 16 * HEAD_BYTES_MAX:
                sent += sock.send(more * 100)
        except OSError:
            pytest.fail("cut off: a caller that still sends must be able to read the refusal")
        assert code_of(refused(stream)) == (431, "head_too_large")
    assert wire.ask(post()).status == 200


@pytest.mark.parametrize("size", [1, 100, 1 << 20], ids=["byte by byte", "by 100", "at once"])
def test_a_head_may_be_as_large_as_its_limit_and_no_larger(wire: Wire, size: int) -> None:
    def head(length: int) -> bytes:
        fixed = sum(len(part) - 2 + 2 for part in (b"/v1/search", b"host: localhost\r\n"))
        fixed += len(b"content-type: application/json\r\n") + len(b"content-length: %d\r\n" % len(SEARCH))
        return post(x_a="a" * (length - fixed - len("x-a: \r\n")))

    for length, status in ((HEAD_BYTES_MAX, 200), (HEAD_BYTES_MAX + 1, 431)):
        sent = head(length)
        with wire.connected() as sock, sock.makefile("rb") as stream:
            for start in range(0, len(sent), size):
                sock.sendall(sent[start : start + size])
            assert read_answer(stream).status == status


def test_a_head_may_have_as_many_fields_as_its_limit_and_no_more(wire: Wire) -> None:
    for count, status in ((17, 200), (18, 431)):  # beside host, content-type and content-length
        assert wire.ask(post(**{f"x_{number}": "y" for number in range(count)})).status == status


def test_large_bodies_and_many_requests_are_no_head(wire: Wire) -> None:
    large = SEARCH + b" " * 500_000
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post(large) + post() * 3 + post(large) + LINE)
        for _ in range(5):
            assert read_answer(stream).status == 200
        sock.sendall(post().removeprefix(LINE))
        assert read_answer(stream).status == 200


def test_a_head_that_does_not_come_to_its_end_is_refused_in_time(wire: Wire) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(wire.connected()) for _ in range(20)]
        for sock in socks:
            sock.sendall(LINE + b"x-a: b\r\n")
        wire.pass_time(LIMIT_S)
        for sock in socks:
            with sock.makefile("rb") as stream:
                assert code_of(refused(stream)) == (408, "head_timeout")
    assert wire.ask(post()).status == 200


def test_a_trickle_does_not_prolong_a_head(wire: Wire) -> None:
    with wire.connected() as sock:
        for byte in post()[:10]:
            sock.send(bytes([byte]))
            wire.pass_time(LIMIT_S / 9)
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"], ids=["nothing", "empty lines"])
def test_a_silent_connection_is_closed(wire: Wire, sent: bytes) -> None:
    with wire.connected() as sock:
        sock.sendall(sent)
        wire.pass_time(LIMIT_S)
        assert sock.recv(1 << 16) == b""


def test_empty_lines_do_not_keep_an_idle_connection(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post())
        assert read_answer(stream).status == 200
        with pytest.raises(OSError):
            for _ in range(20):
                sock.sendall(b"\r\n")
                wire.pass_time(KEEP_ALIVE_S / 9)


def test_the_second_head_on_a_connection_has_the_same_time(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post() + LINE)
        assert read_answer(stream).status == 200
        wire.pass_time(LIMIT_S)
        assert code_of(refused(stream)) == (408, "head_timeout")


@pytest.mark.parametrize(("path", "filled", "kind"), POSTS, ids=[path for path, _, _ in POSTS])
def test_a_body_that_stops_is_refused_on_every_route(wire: Wire, path: str, filled: str, kind: str) -> None:
    begin = {
        "application/json": b'{"a": ',
        "multipart/form-data": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx',
    }[kind]
    with wire.connected() as sock:
        kind += "; boundary=b" if kind.startswith("multipart") else ""
        sock.sendall(post(begin, filled, content_type=kind, content_length="2000"))
        pass_time_until_answered(wire, sock)
        with sock.makefile("rb") as stream:
            assert code_of(read_answer(stream)) == (408, "body_timeout"), path
            wire.pass_time(KEEP_ALIVE_S)
            assert stream.read() == b""


def test_a_body_whose_answer_is_given_does_not_hold_its_connection(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post(b"x", "/v1/unknown", content_length="100000"))
        assert read_answer(stream).status == 404
        with pytest.raises(OSError):
            for _ in range(20):
                sock.sendall(b"y")
                wire.pass_time(KEEP_ALIVE_S / 9)


def test_all_unfinished_bodies_share_one_budget_and_the_oldest_goes_first(wire: Wire) -> None:
    bodies = wire.app.application.bodies
    size = 400_000
    with ExitStack() as stack:
        socks = []
        for number in range(6):
            sock = stack.enter_context(wire.connected())
            sock.sendall(post(b" " * size, content_length=str(size + 10)))
            socks.append(sock)
            kept = min(number + 1, 2)
            until(lambda kept=kept: bodies.held == kept * size)  # type: ignore[misc]
        for sock in socks[:4]:
            with sock.makefile("rb") as stream:
                answer = read_answer(stream)
                assert code_of(answer) == (503, "overloaded")
                assert answer.headers["retry-after"] == "1"
        assert wire.ask(post()).status == 200  # a body in one piece needs no room
        for sock in socks[4:]:
            sock.sendall(b" " * 10)
            with sock.makefile("rb") as stream:
                assert code_of(read_answer(stream)) == (400, "malformed_json")
    until(lambda: bodies.held == 0)


def test_unfinished_uploads_are_in_the_same_budget(wire: Wire) -> None:
    bodies = wire.app.application.bodies
    begin = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 700_000
    sent = post(
        begin, "/search_similar", content_type="multipart/form-data; boundary=b", content_length="800000"
    )
    with wire.connected() as first, wire.connected() as second:
        first.sendall(sent)
        until(lambda: bodies.held == len(begin))
        second.sendall(sent)
        with first.makefile("rb") as stream:
            assert code_of(read_answer(stream)) == (503, "overloaded")
        pass_time_until_answered(wire, second)
        with second.makefile("rb") as stream:
            assert code_of(read_answer(stream)) == (408, "body_timeout")
    until(lambda: bodies.held == 0)


def test_who_does_not_read_its_answer_is_cut_off(wire: Wire) -> None:
    search = {"collection": "products", "vector": [1.0] * 512, "top_k": 11, "include": ["vector"]}
    large = json.dumps({"searches": [search] * 50}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", wire.port))
        before = wire.shortcut.taken
        for _ in range(30):
            try:
                sock.sendall(post(large, "/v1/search-batch"), socket.MSG_DONTWAIT)
            except BlockingIOError:
                break

        def is_cut_off() -> bool:
            sent_all = len(wire.server.server_state.connections)  # before the one that lets time pass
            wire.pass_time(LIMIT_S)
            return not sent_all

        until(is_cut_off, "the end of the connection")
        assert wire.shortcut.taken == before
    until(lambda: wire.in_flight() == 0)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"nonsense\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        "GET /가 HTTP/1.1\r\n\r\n".encode(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nbad field: x\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\ncontent-length: -2\r\n\r\n",
        CHUNKED + b"zz\r\n",
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_what_is_no_http_is_told_so_in_a_problem_document(wire: Wire, sent: bytes) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(sent)
        assert code_of(refused(stream)) == (400, "malformed_http")


@pytest.mark.parametrize("wrong", [b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n", LINE + b"x-a: " + b"a" * 9000])
def test_a_refusal_stands_after_the_answers_that_are_owed(wire: Wire, wrong: bytes) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post(path="/v1/search-batch", body=b'{"searches": [%s]}' % SEARCH) + post() + wrong)
        assert read_answer(stream).status == 200
        assert read_answer(stream).status == 200
        assert refused(stream).status == (431 if b"x-a" in wrong else 400)


def test_fields_after_a_chunked_body_are_nobodys(wire: Wire) -> None:
    late = b"%x\r\n%s\r\n0\r\nx-request-id: late\r\n\r\n" % (len(SEARCH), SEARCH)
    for sent in ([CHUNKED + late], [CHUNKED, late]):
        answer = wire.ask(*sent)
        assert answer.status == 200
        assert answer.headers["x-request-id"] != "late"


JDK_HEAD = (  # what java.net.http.HttpClient of JDK 17 sends for a POST, byte by byte; the body follows apart
    b"POST /v1/search HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: 34\r\n"
    b"Host: 127.0.0.1:37659\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
    b"Upgrade: h2c\r\nUser-Agent: Java-http-client/17.0.21.1\r\nContent-Type: application/json\r\n\r\n"
)
JDK_BODY = '{"query": "갈비탕", "top_k": 3}'.encode()


@pytest.mark.parametrize(
    "pieces",
    [
        [JDK_HEAD + JDK_BODY],
        [JDK_HEAD, JDK_BODY],
        [JDK_HEAD[:99], JDK_HEAD[99:] + JDK_BODY[:9], JDK_BODY[9:]],
        [(JDK_HEAD + JDK_BODY)[start : start + 5] for start in range(0, 400, 5)],
    ],
    ids=["whole", "as sent", "in three", "in many"],
)
def test_the_post_of_a_jdk_client_is_answered(wire: Wire, pieces: list[bytes]) -> None:
    assert len(JDK_BODY) == 34
    answer = wire.ask(*pieces)
    assert answer.status == 200
    assert len(json.loads(answer.body)["results"]) == 3
    assert "upgrade" not in answer.headers


def test_a_jdk_client_keeps_its_connection(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        for _ in range(3):
            sock.sendall(JDK_HEAD)
            sock.sendall(JDK_BODY)
            answer = read_answer(stream)
            assert answer.status == 200
            assert "connection" not in answer.headers
        sock.sendall((JDK_HEAD + JDK_BODY) * 3 + post())
        assert [read_answer(stream).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize(
    ("fields", "closes"),
    [
        ({"connection": "upgrade", "upgrade": "websocket"}, False),
        ({"connection": "Upgrade", "upgrade": "TLS/1.0, HTTP/2.0"}, False),
        ({"connection": "close, Upgrade", "upgrade": "h2c"}, True),
        ({"connection": "keep-alive, upgrade", "upgrade": "h2c"}, False),
        ({"connection": "upgrade"}, False),
        ({"upgrade": "h2c"}, False),
        ({"connection": "upgrade", "upgrade": "h2c", "expect": "100-continue"}, False),
        ({"expect": "100-Continue"}, False),
        ({"connection": "HTTP2-Settings", "http2_settings": "AA"}, False),
    ],
    ids=str,
)
def test_no_offer_of_another_protocol_changes_an_answer(
    wire: Wire, fields: dict[str, str], closes: bool
) -> None:
    answer = wire.ask(post(**fields))
    assert answer.status == 200
    assert len(json.loads(answer.body)["results"]) == 3
    assert (answer.headers.get("connection") == "close") == closes
    chunked = {**fields, "content_length": "", "transfer_encoding": "chunked"}
    head = post(**chunked)[: -len(SEARCH)]
    assert wire.ask(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(SEARCH), SEARCH)).status == 200
    line = b"".join(b"%s: %s\r\n" % (n.replace("_", "-").encode(), v.encode()) for n, v in fields.items())
    assert wire.ask(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n" + line + b"\r\n").status == 200


def test_an_offer_does_not_reach_over_the_limits_of_a_head(wire: Wire) -> None:
    offer: dict[str, Any] = {"connection": "upgrade", "upgrade": "h2c"}
    assert wire.ask(post(**offer, x_a="a" * HEAD_BYTES_MAX)).status == 431
    assert wire.ask(post(**offer, **{f"x_{n}": "y" for n in range(20)})).status == 431


def test_http_1_0_is_never_told_to_continue(wire: Wire) -> None:
    with wire.connected() as sock, sock.makefile("rb") as stream:
        sock.sendall(post(version="1.0", expect="100-continue")[: -len(SEARCH)])
        time.sleep(0.1)
        sock.sendall(SEARCH)
        assert stream.readline().startswith(b"HTTP/1.1 200 ")
