"""What a connection has sent, or is about to send, is answered while the server stops."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from service.http.transport.connection_drain import IDLE_S
from tests.contract.test_http_protocol import KEEP_ALIVE_S, TIMEOUT_S, Answer, Wire, post, read_answer, served
from tests.http_app import seed

HEAD_S = 5
"""How long a stop waits for a head."""
UPSERT = post(b'{"items": [{"recipe_id": 1, "text": "1"}]}', "/v1/upsert")


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire")) as wire:
        yield wire


@contextmanager
def busy(wire: Wire, then: Callable[[Any], None], after_s: float = 0.0) -> Iterator[None]:
    """Do `then` with every connection after the block, and after so many seconds. Nothing is read until then,
    as by a busy server."""
    begun, sent, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert sent.wait(30)
        wire.app.loop._loop.ahead_s += after_s
        for connection in list(wire.server.server_state.connections):
            then(connection)
        done.set()

    wire.app.loop._loop.call_soon_threadsafe(work)
    assert begun.wait(30)
    yield
    sent.set()
    assert done.wait(30)


def stopping(wire: Wire) -> AbstractContextManager[None]:
    """Tell every connection that the server stops, after the block."""
    return busy(wire, lambda connection: connection.shutdown())


def answer_of(sock: socket.socket) -> Answer:
    """The answer that says that it is the last, and is."""
    with sock.makefile("rb") as stream:
        answer = read_answer(stream)
        assert stream.read() == b""
    assert answer.headers["connection"] == "close"
    return answer


@pytest.mark.parametrize("request_", [post(), UPSERT, UPSERT[:-1], UPSERT[:20]], ids=["search", "write", "body", "head"])  # fmt: skip  # noqa: E501
@pytest.mark.parametrize("is_kept", [False, True], ids=["new connection", "kept connection"])
def test_what_was_sent_before_a_stop_and_not_read_yet_is_answered(
    wire: Wire, request_: bytes, is_kept: bool
) -> None:
    with wire.connected() as sock:
        if is_kept:
            sock.sendall(post())
            assert read_answer(sock.makefile("rb")).status == 200
        else:
            assert wire.ask(post()).status == 200  # so the connection before it is taken, too
        with stopping(wire):
            sock.sendall(request_)
        if UPSERT.startswith(request_):
            sock.sendall(UPSERT[len(request_) :])
        assert answer_of(sock).status == 200


def test_a_head_that_was_read_in_part_may_come_to_its_end(wire: Wire) -> None:
    with wire.connected() as sock:
        sock.sendall(UPSERT[:20])
        assert wire.ask(post()).status == 200  # so the part has been read
        with stopping(wire):
            pass
        sock.sendall(UPSERT[20:])
        assert answer_of(sock).status == 200


def test_a_connection_just_opened_may_send_one_request(wire: Wire) -> None:
    with wire.connected() as sock:
        assert wire.ask(post()).status == 200
        with stopping(wire):
            pass
        sock.sendall(post())
        assert answer_of(sock).status == 200


def test_a_connection_that_sends_nothing_holds_a_stop_up_for_a_short_time(wire: Wire) -> None:
    with wire.connected() as sock:
        assert wire.ask(post()).status == 200
        with stopping(wire):
            pass
        sock.setblocking(False)
        wire.pass_time(HEAD_S - 1)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(TIMEOUT_S)
        wire.pass_time(1)
        assert sock.recv(1) == b""


@contextmanager
def kept(wire: Wire) -> Iterator[socket.socket]:
    """A connection whose request was answered, while the server stops."""
    with wire.connected() as sock:
        sock.sendall(post())
        assert read_answer(sock.makefile("rb")).status == 200
        with stopping(wire):
            pass
        yield sock


def test_an_idle_connection_may_send_one_more_request(wire: Wire) -> None:
    with kept(wire) as sock:
        wire.pass_time(IDLE_S / 2)
        sock.sendall(post())
        assert answer_of(sock).status == 200


def test_an_idle_connection_holds_a_stop_up_for_a_short_time(wire: Wire) -> None:
    with kept(wire) as sock:
        sock.setblocking(False)
        wire.pass_time(IDLE_S / 2)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(TIMEOUT_S)
        wire.pass_time(IDLE_S / 2)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("is_stopping", [True, False])
def test_what_came_before_an_idle_connection_is_closed_and_is_not_read_yet_is_answered(
    wire: Wire, is_stopping: bool
) -> None:
    with wire.connected() as sock:
        sock.sendall(post())
        assert read_answer(sock.makefile("rb")).status == 200
        with stopping(wire) if is_stopping else nullcontext():
            pass
        with busy(wire, lambda connection: connection._look(), after_s=KEEP_ALIVE_S):
            sock.sendall(post())
        with sock.makefile("rb") as stream:
            assert read_answer(stream).status == 200


@pytest.mark.long
def test_a_stop_answers_what_is_in_line(tmp_path: Path) -> None:
    with served(tmp_path) as wire:
        seed(wire.app)
        wire.ask(post())
        with wire.connected() as sock, sock.makefile("rb") as stream:
            sock.sendall(post())
            wire.server.should_exit = True
            assert read_answer(stream).status == 200
            assert stream.read() == b""
