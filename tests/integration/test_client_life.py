"""What a client refuses to send, and its life: closed, in another event loop, in a forked worker."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys

import numpy as np
import pytest

from tests.integration.scripted_server import (
    FOUND,
    WRITTEN,
    ClientFor,
    Scripted,
)
from vector_client.async_client import AsyncVectorClient
from vector_client.errors import (
    NotSent,
    VectorClientError,
)
from vector_client.types import Item, Query

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


FORKS = """
import os, sys
from vector_client import Query, VectorClient
client = VectorClient.to(sys.argv[1])
print(client.search(Query("parent")).seq, flush=True)
child = os.fork()
if child == 0:
    print(client.search(Query("child")).seq, flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(client.search(Query("parent")).seq)
"""


def test_a_forked_worker_has_connections_of_its_own(server: Scripted) -> None:
    """On a shared connection each would read the other's answers."""
    server.answers = [(200, FOUND)] * 3
    done = subprocess.run(
        [sys.executable, "-c", FORKS, server.url], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["3", "3", "3"]
    assert len(server.connections) == 2


@pytest.mark.filterwarnings("error")
def test_large_bodies_go_in_chunks(server: Scripted, client_for: ClientFor) -> None:
    server.answers = ["drop", (200, WRITTEN)]
    client = client_for(server.url)
    client.upsert("recipes", [Item(n, bytes(2000)) for n in range(1000)])
    assert len(server.seen[-1][3]["items"]) == 1000  # type: ignore[index]
    assert server.seen[0][3] == server.seen[1][3], "a repeat sends the whole body again"
