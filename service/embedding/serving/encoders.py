"""Models behind queues: what the routes await. Each owns its threads; the model itself may be shared."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from service.embedding.pictures.decoders import DecodeLimits, Decoders
from service.embedding.port import Embedded, ImageEmbedder, ModelInfo, Pixels, TextEmbedder
from service.embedding.serving.futures import all_results, within
from service.embedding.serving.queue import LaneCounters, LaneLimits, Lanes
from service.errors import InvalidImage, ModelUnavailable, Overloaded

FloatVector: TypeAlias = npt.NDArray[np.float32]
QueryVector: TypeAlias = tuple[FloatVector, bool]
QUERY_DEADLINE_MS = 10_000.0
DOCUMENT_DEADLINE_MS = 600_000.0
_CHARS_A_TOKEN_MAX = 4
_WEIGHT_OF_ANY = 8
_PICTURE_WEIGHT_OF_ANY = 30_000
PICTURES_AT_ONCE = 32  # of one write, decoded and waiting for the model: 2 MB each


@dataclass(slots=True)
class CacheCounters:
    """hits, shared: answered without a forward pass of their own (shared: an equal query was under way)."""

    hits: int = 0
    shared: int = 0
    misses: int = 0
    evicted: int = 0


@dataclass(slots=True)
class _Flight:
    """One query under way and how many callers wait for it."""

    future: Future[QueryVector]
    waiters: int = field(default=0)


class Batcher:
    """A text model behind two lanes, with a bounded cache of query vectors.

    Used from one event loop. texts: as `normalise_text` leaves them. Returned query vectors are read-only.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        limits: LaneLimits | None = None,
        cache_items_max: int = 10_000,
        query_deadline_ms: float = QUERY_DEADLINE_MS,
        document_deadline_ms: float = DOCUMENT_DEADLINE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._lanes: Lanes[str, QueryVector] = Lanes("text-model", self._embed, limits or LaneLimits(), clock)
        self._query_deadline_ms = query_deadline_ms
        self._document_deadline_ms = document_deadline_ms
        self._cache_items_max = cache_items_max
        self._cache: OrderedDict[str, QueryVector] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self.cache_counters = CacheCounters()

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""
        return self._embedder.info

    @property
    def counters(self) -> LaneCounters:
        """What has happened since the start."""
        return self._lanes.counters

    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait."""
        return self._lanes.waiting()

    def start(self) -> None:
        """Start the threads. Call on the event loop."""
        self._lanes.start()

    def close(self) -> None:
        """End the threads and release the model; what waits is refused."""
        self._lanes.close()
        self._embedder.close()

    def known_query(self, text: str) -> QueryVector | None:
        """Return what the cache holds of `text`."""
        known = self._cache.get(text)
        if known is not None:
            self._cache.move_to_end(text)
            self.cache_counters.hits += 1
        return known

    def refusal(self, text: str, caller: str) -> Overloaded | None:
        """Return why `embed_query` would refuse a text that is not known, or None."""
        return None if text in self._flights else self._lanes.refusal(self._weight(text), caller)

    async def embed_query(self, text: str, caller: str = "", deadline_ms: float | None = None) -> QueryVector:
        """Return (vector (dim,), truncated). caller: whose share of the model this takes.

        Raises Overloaded, DeadlineExceeded, Starting.
        """
        known = self.known_query(text)
        if known is not None:
            return known
        if text not in self._flights:
            self._lanes.admit(self._weight(text), caller)
        deadline_ms = self._query_deadline_ms if deadline_ms is None else deadline_ms
        return await self._landed(text, self._boarded(text, caller, deadline_ms), deadline_ms)

    async def embed_queries(self, texts: Sequence[str], caller: str = "") -> list[QueryVector]:
        """Return what `embed_query` gives for each; all are admitted together, or none."""
        unknown = {text for text in texts if text not in self._cache and text not in self._flights}
        if unknown:
            self._lanes.admit(sum(map(self._weight, unknown)), caller)
        deadline_ms = self._query_deadline_ms
        flying: list[Awaitable[QueryVector]] = []
        for text in texts:
            known = self.known_query(text)
            if known is None:
                flying.append(self._landed(text, self._boarded(text, caller, deadline_ms), deadline_ms))
            else:
                flying.append(_at_once(known))
        return await asyncio.gather(*flying)

    def _boarded(self, text: str, caller: str, deadline_ms: float) -> _Flight:
        """Queue `text`, or join who has queued it. Each is to be awaited by `_landed`."""
        flight = self._flights.get(text)
        if flight is None:
            self.cache_counters.misses += 1
            (future,) = self._lanes.submit("query", [text], [self._weight(text)], deadline_ms, caller)
            flight = self._flights[text] = _Flight(future)
        else:
            self.cache_counters.shared += 1
        flight.waiters += 1
        return flight

    async def _landed(self, text: str, flight: _Flight, deadline_ms: float) -> QueryVector:
        try:
            # shield: a caller that leaves must not take the answer from the others
            found = await within(deadline_ms, asyncio.shield(asyncio.wrap_future(flight.future)))
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                flight.future.cancel()
                if self._flights.get(text) is flight:
                    del self._flights[text]
        self._remember(text, found)
        return found

    async def embed_documents(self, texts: Sequence[str], deadline_ms: float | None = None) -> Embedded:
        """Return vectors in the order of `texts`. Raises Overloaded, DeadlineExceeded, Starting."""
        deadline_ms = self._document_deadline_ms if deadline_ms is None else deadline_ms
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        futures = self._lanes.submit(
            "document", [texts[p] for p in order], [self._weight(texts[p]) for p in order], deadline_ms
        )
        results = await within(deadline_ms, all_results(futures))
        vectors = np.empty((len(texts), self.info.dim), np.float32)
        truncated = np.zeros(len(texts), np.bool_)
        for place, (vector, is_cut) in zip(order, results, strict=True):
            vectors[place], truncated[place] = vector, is_cut
        return Embedded(vectors, truncated)

    def _weight(self, text: str) -> int:
        """Characters stand for tokens: both models of Korean text make about one of each two. What a model
        cuts off costs nothing."""
        tokens_max = self.info.tokens_max
        counted = len(text) if tokens_max is None else min(len(text), _CHARS_A_TOKEN_MAX * tokens_max)
        return counted + _WEIGHT_OF_ANY

    def _embed(self, texts: Sequence[str], lane: str) -> list[QueryVector]:
        found = self._embedder.embed(texts, "query" if lane == "query" else "document")
        vectors = _checked(found.vectors, self.info)
        vectors.flags.writeable = False
        return [(v, bool(t)) for v, t in zip(vectors, found.truncated, strict=True)]

    def _remember(self, text: str, found: QueryVector) -> None:
        self._cache[text] = found
        self._cache.move_to_end(text)
        while len(self._cache) > self._cache_items_max:
            self._cache.popitem(last=False)
            self.cache_counters.evicted += 1


class ImageBatcher:
    """A picture model behind two lanes, and before it bounded processes that decode."""

    def __init__(
        self,
        embedder: ImageEmbedder,
        *,
        limits: LaneLimits | None = None,
        decode_limits: LaneLimits | None = None,
        pictures: DecodeLimits | None = None,
        query_deadline_ms: float = QUERY_DEADLINE_MS,
        document_deadline_ms: float = DOCUMENT_DEADLINE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._decoders = Decoders(pictures or DecodeLimits())
        self._lanes: Lanes[Pixels, FloatVector] = Lanes(
            "picture-model",
            self._embed,
            limits or LaneLimits(batch_items_max=16),
            clock,
        )
        self._decoding: Lanes[bytes, Pixels | InvalidImage] = Lanes(
            "picture-decoder", self._decode, decode_limits or LaneLimits(batch_items_max=1), clock
        )
        self._query_deadline_ms = query_deadline_ms
        self._document_deadline_ms = document_deadline_ms

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""
        return self._embedder.info

    @property
    def counters(self) -> LaneCounters:
        """What has happened since the start."""
        return self._lanes.counters

    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait for the model."""
        return self._lanes.waiting()

    def start(self) -> None:
        """Start decoders and threads. Call on the event loop."""
        self._decoding.start()
        self._lanes.start()

    def close(self) -> None:
        """End decoders and threads and release the model; what waits is refused."""
        self._decoders.close()  # first: the threads below wait for what it ends
        self._decoding.close()
        self._lanes.close()
        self._embedder.close()

    def refusal(self, bytes_count: int, caller: str) -> Overloaded | None:
        """Return why `embed_query` would refuse a picture of so many bytes, or None."""
        return self._lanes.refusal(1, caller) or self._decoding.refusal(_picture_weight(bytes_count), caller)

    async def embed_query(
        self, data: bytes, caller: str = "", deadline_ms: float | None = None
    ) -> FloatVector:
        """Return the (dim,) vector of one picture file. caller: whose share of decoders and model this takes.

        Raises InvalidImage, Overloaded, DeadlineExceeded, Starting.
        """
        self._lanes.admit(1, caller)
        self._decoding.admit(_picture_weight(len(data)), caller)
        deadline_ms = self._query_deadline_ms if deadline_ms is None else deadline_ms
        return await within(deadline_ms, self._query(data, caller, deadline_ms))

    async def embed_documents(
        self, datas: Sequence[bytes], deadline_ms: float | None = None
    ) -> list[FloatVector | InvalidImage]:
        """Return for each picture file its vector, or why it has none: one bad file spoils no other.

        Raises Overloaded, DeadlineExceeded, Starting.
        """
        deadline_ms = self._document_deadline_ms if deadline_ms is None else deadline_ms
        return await within(deadline_ms, self._documents(datas, deadline_ms))

    async def _query(self, data: bytes, caller: str, deadline_ms: float) -> FloatVector:
        decoding = self._decoding.submit("query", [data], [_picture_weight(len(data))], deadline_ms, caller)
        (pixels,) = await all_results(decoding)
        if isinstance(pixels, InvalidImage):
            raise pixels
        (vector,) = await all_results(self._lanes.submit("query", [pixels], [1], deadline_ms, caller))
        return vector

    async def _documents(
        self, datas: Sequence[bytes], deadline_ms: float
    ) -> list[FloatVector | InvalidImage]:
        """Decode the next pictures while the model works on the ones before, and hold no more than those."""
        found: list[FloatVector | InvalidImage] = []
        ahead = self._decoded(datas[:PICTURES_AT_ONCE], deadline_ms)
        try:
            for start in range(PICTURES_AT_ONCE, len(datas) + PICTURES_AT_ONCE, PICTURES_AT_ONCE):
                decoded = await ahead
                ahead = self._decoded(datas[start : start + PICTURES_AT_ONCE], deadline_ms)
                pictures = [p for p in decoded if not isinstance(p, InvalidImage)]
                futures = self._lanes.submit("document", pictures, [1] * len(pictures), deadline_ms)
                vectors = iter(await all_results(futures))
                found.extend(p if isinstance(p, InvalidImage) else next(vectors) for p in decoded)
        finally:
            ahead.cancel()
        return found

    def _decoded(
        self, datas: Sequence[bytes], deadline_ms: float
    ) -> asyncio.Task[list[Pixels | InvalidImage]]:
        weights = [_picture_weight(len(data)) for data in datas]
        futures = self._decoding.submit("document", datas, weights, deadline_ms)
        return asyncio.ensure_future(all_results(futures))

    def _decode(self, datas: Sequence[bytes], lane: str) -> list[Pixels | InvalidImage]:
        return [self._decoders.decode(data, lane) for data in datas]

    def _embed(self, pictures: Sequence[Pixels], _lane: str) -> list[FloatVector]:
        vectors = _checked(self._embedder.embed(pictures, "document").vectors, self.info)
        vectors.flags.writeable = False
        return list(vectors)


async def _at_once(found: QueryVector) -> QueryVector:
    return found


def _picture_weight(bytes_count: int) -> int:
    """Bytes tell best what decoding takes before anything is decoded."""
    return bytes_count + _PICTURE_WEIGHT_OF_ANY


def _checked(vectors: FloatVector, info: ModelInfo) -> FloatVector:
    """Return `vectors` once they are known to be of unit length, and so finite and not zero."""
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1) < 1e-3):  # also false for NaN
        raise ModelUnavailable(f"{info.name} gave a vector that is not of unit length.")
    return vectors
