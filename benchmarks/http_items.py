"""What the front door spends a request's CPU on, piece by piece, for bench_http.

Each piece is run alone in this process, so its code and data are warm; in the running server the same pieces
cost more. What is left of the server's own figure is sockets, HTTP parsing, tasks, threads and cold caches.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import orjson
import uvloop
from starlette.types import Message

from benchmarks.http_cost import PATH, ConstantIndex
from index_store.types import SearchRequest, SearchResult
from service.app.search import ParsedSearch
from service.app.search_queue import SearchIndex, SearchQueue
from service.http.app import search_limits
from service.http.middleware import JSON, Exchange
from service.http.wire.answers import write_answer
from service.http.wire.body import decode_json
from service.http.wire.schemas import SearchIn
from service.http.wire.search import SearchReader
from service.settings import Settings
from service.wiring import Service, build

CALLS = 4000
ROUNDS = 5
IN_FLIGHT = 32


def items_us(folder: Path, requests: Sequence[bytes]) -> Mapping[str, float]:
    """Return microseconds of CPU of each piece of `requests`, in the order in which a request meets them."""
    settings = Settings.from_environ(
        {"DATA_DIR": str(folder), "TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "none"}
    )
    service = build(settings, make_index=ConstantIndex)
    return uvloop.run(_measured(service, [request.partition(b"\r\n\r\n")[2] for request in requests]))


async def _measured(service: Service, bodies: Sequence[bytes]) -> Mapping[str, float]:
    async with service.lifecycle.opened():
        await service.lifecycle.wait()
        return {
            **_around(service, bodies),
            **_reading(service, bodies),
            **await _finding(service, bodies),
            **await _writing(service, bodies),
        }


def _around(service: Service, bodies: Sequence[bytes]) -> Mapping[str, float]:
    metrics = service.parts.metrics
    fields = [(b"host", b"localhost"), (b"content-type", JSON), (b"content-length", b"%d" % len(bodies[0]))]

    def enter(_: int) -> None:
        Exchange(dict(fields), b"0123456789ab-1", _nowhere).fields(200)

    def count(_: int) -> None:
        metrics.request_began()
        metrics.request_ended(PATH, "POST", 200, 0.001, "")

    return {
        "headers, request id": _us(enter),
        "metrics": _us(count),
    }


def _reading(service: Service, bodies: Sequence[bytes]) -> Mapping[str, float]:
    decoder = msgspec.json.Decoder(SearchIn)
    read = [decode_json(decoder, body) for body in bodies]
    reader = _reader(service)
    return {
        "decoding JSON": _us(lambda place: decode_json(decoder, bodies[place % len(bodies)])),
        "checks": _us(lambda place: reader.parse(read[place % len(read)])),
    }


async def _finding(service: Service, bodies: Sequence[bytes]) -> Mapping[str, float]:
    searcher, asked = service.parts.searcher, _asked(service, bodies)
    text = service.parts.dependencies.encoders.text(asked.collection.name)
    request = SearchRequest(vector=np.ones(asked.collection.dim, np.float32), k=asked.request.k)
    index = cast("SearchIndex", service.parts.dependencies.index)
    queue = SearchQueue(index, service.parts.metrics, queue_requests_max=1000, queue_ms_max=1000)
    queue.start()

    def known(_: int) -> None:
        text.known_query(str(asked.content))

    async def hop(_: int) -> None:
        await queue.ask(asked.collection.name, request, time.monotonic() + 3)

    async def find(_: int) -> None:
        answer: asyncio.Future[SearchResult] = asyncio.get_running_loop().create_future()
        searcher.submit_search(asked, answer, "")
        await answer

    await searcher.find(asked)
    cached, hopped, found = _us(known), await _awaited_us(hop), await _awaited_us(find)
    queue.close()
    return {
        "query vector from the cache": cached,
        "through the search queue": hopped,
        "the rest of find": max(0.0, found - cached - hopped),
    }


async def _writing(service: Service, bodies: Sequence[bytes]) -> Mapping[str, float]:
    asked = _asked(service, bodies)
    answer = await service.parts.searcher.find(asked)
    document = write_answer(asked, answer, 1.0)
    return {
        "answer as a document": _us(lambda _: write_answer(asked, answer, 1.0)),
        "encoding JSON": _us(lambda _: orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)),
    }


async def _nowhere(_: Message) -> None:
    pass


def _asked(service: Service, bodies: Sequence[bytes]) -> ParsedSearch:
    body = decode_json(msgspec.json.Decoder(SearchIn), bodies[0])
    return _reader(service).parse(body)


def _reader(service: Service) -> SearchReader:
    return SearchReader(service.catalogue, search_limits(service.parts.dependencies.settings))


def _us(call: Callable[[int], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for place in range(CALLS):
            call(place)
        took.append((time.process_time() - began) / CALLS)
    return statistics.median(took) * 1e6


async def _awaited_us(call: Callable[[int], Awaitable[None]]) -> float:
    """As _us, with IN_FLIGHT at a time."""

    async def caller() -> None:
        for place in range(CALLS // IN_FLIGHT):
            await call(place)

    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        took.append((time.process_time() - began) / CALLS)
    return statistics.median(took) * 1e6
