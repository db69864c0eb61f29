"""What every route shares: HEAD, errors that nobody foresaw, and the end of a stop's patience."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.types import Ack, CollectionSpec, CollectionStatus, SearchOutcome, SearchRequest, WriteBatch
from tests.contract.openapi_document import OPERATIONS, filled_path
from tests.contract.test_http_protocol import Wire, post, read_answer, served
from tests.http_app import HttpApp, seed
from tests.waiting import until

GETS = [(path, filled_path(path, operation)) for path, method, operation in OPERATIONS if method == "get"]


class UnforeseenFault(RuntimeError):
    """Of no kind that a route expects."""


class FaultyIndex(EmbeddedIndex):
    """An index with a fault of our own making in every call that a request makes, once it is told so."""

    is_faulty = False

    def _look(self) -> None:
        if self.is_faulty:
            raise UnforeseenFault("secret of the inside")

    def search_each(self, collection: str, requests: Sequence[SearchRequest]) -> list[SearchOutcome]:
        self._look()
        return super().search_each(collection, requests)

    def write(self, collection: str, batch: WriteBatch) -> Ack:
        self._look()
        return super().write(collection, batch)

    def status(self, collection: str) -> CollectionStatus:
        self._look()
        return super().status(collection)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with served(tmp_path_factory.mktemp("wire")) as wire:
        seed(wire.app)
        yield wire


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    made: list[FaultyIndex] = []

    def make(data_dir: Path, specs: Sequence[CollectionSpec]) -> FaultyIndex:
        made.append(FaultyIndex(data_dir, specs))
        return made[-1]

    with served(tmp_path_factory.mktemp("faulty"), {"LOG_LEVEL": "error"}, make) as wire:
        seed(wire.app)
        made[0].is_faulty = True
        yield wire
        made[0].is_faulty = False


@pytest.mark.parametrize(("path", "filled"), GETS, ids=[path for path, _ in GETS])
def test_head_is_answered_wherever_get_is(wire: Wire, path: str, filled: str) -> None:
    got = wire.app.get(filled)
    headed = wire.app.request("HEAD", filled)
    assert (headed.status_code, headed.content) == (got.status_code, b""), path
    assert headed.headers["content-type"] == got.headers["content-type"]
    with wire.connected() as sock, sock.makefile("rb") as stream:
        target = quote(filled, safe="/?&=")
        sock.sendall(b"HEAD %s HTTP/1.1\r\nhost: localhost\r\n\r\n" % target.encode() + post())
        assert int(stream.readline().split()[1]) == got.status_code
        while stream.readline().strip():
            pass
        assert read_answer(stream).status == 200  # the next answer follows at once: no body stood between


def test_head_is_no_way_around_a_method(wire: Wire) -> None:
    for path in ("/v1/search", "/v1/upsert", "/search_similar"):
        answer = wire.app.request("HEAD", path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")
    refused = wire.app.request("DELETE", "/livez")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


UNFORESEEN = [
    ("POST", "/v1/search", {"vector": [1.0] * 384}),
    ("POST", "/v1/search-batch", {"searches": [{"vector": [1.0] * 384}]}),
    ("POST", "/v1/upsert", {"items": [{"recipe_id": 1, "vector": [1.0] * 384}]}),
    ("POST", "/v1/delete", {"ids": [1]}),
    ("POST", "/v1/promote", {"collection": "recipes"}),
    ("GET", "/v1/items/1", None),
    ("GET", "/v1/collections", None),
    ("GET", "/v1/collections/recipes/generations", None),
    ("GET", "/v1/sync/status", None),
]


@pytest.mark.parametrize(("method", "path", "body"), UNFORESEEN, ids=[path for _, path, _ in UNFORESEEN])
def test_an_unforeseen_error_is_a_problem_document(
    faulty: Wire, method: str, path: str, body: dict[str, object] | None
) -> None:
    content = json.dumps(body).encode() if body else b""
    sent = post(content, path, x_request_id="mine-7").replace(b"POST", method.encode(), 1)
    with faulty.connected() as sock, sock.makefile("rb") as stream:
        for _ in range(2):  # the connection goes on
            sock.sendall(sent)
            answer = read_answer(stream)
            assert answer.status == 500, answer.body
            assert answer.headers["content-type"] == "application/problem+json"
            problem = json.loads(answer.body)
            assert (problem["code"], problem["request_id"]) == ("internal_error", "mine-7")
            assert (problem["instance"], answer.headers["x-request-id"]) == (path, "mine-7")
            assert b"secret" not in answer.body


def test_unforeseen_errors_are_counted(faulty: Wire) -> None:
    def counted(app: HttpApp) -> float:
        text = app.get("/metrics").text
        found = re.search(r'^uhok_unexpected_errors_total{place="request"} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    before = counted(faulty.app)
    faulty.ask(post(b"", "/v1/collections").replace(b"POST", b"GET", 1))
    assert counted(faulty.app) == before + 1


@pytest.mark.long
@pytest.mark.parametrize("path", ["/v1/search", "/v1/upsert", "/search_similar"])
def test_a_stop_that_waits_no_longer_says_so(tmp_path: Path, path: str) -> None:
    kind = "multipart/form-data; boundary=b" if path == "/search_similar" else "application/json"
    with served(tmp_path, drain_s=1) as wire, wire.connected() as sock, sock.makefile("rb") as stream:
        begin = b"--b\r\n" if path == "/search_similar" else b"{"
        sock.sendall(post(begin, path, content_type=kind, content_length="100"))
        until(lambda: wire.in_flight() == 1)
        wire.server.should_exit = True
        answer = read_answer(stream)
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
