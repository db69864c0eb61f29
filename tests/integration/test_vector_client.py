"""Both clients against a server that misbehaves on command."""

from __future__ import annotations

import base64
import struct

import pytest

from tests.integration.scripted_server import (
    FOUND,
    WRITTEN,
    ClientFor,
    Scripted,
    problem,
)
from vector_client.async_client import AsyncVectorClient
from vector_client.errors import (
    BadAnswer,
    BadRequest,
    Conflict,
    KeyRefused,
    NoAnswer,
    NotFound,
    TimedOut,
    Unavailable,
)
from vector_client.http import VectorClient
from vector_client.types import DigestRow, Item, Query


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
