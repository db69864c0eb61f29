"""Models behind queues: what the routes await. Each owns its threads; the model itself may be shared."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from service.embedding.pictures.decoders import DecodeLimits, Decoders
from service.embedding.port import Embedded, Embedder, ImageEmbedder, ModelInfo, Pixels, Role, TextEmbedder
from service.embedding.serving.futures import all_results, within
from service.embedding.serving.queue import QueueCounters, QueueLimits, WorkQueue
from service.errors import InvalidImage, ModelUnavailable, Overloaded

ContentT = TypeVar("ContentT")
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
class _Pending:
    """One query under way and how many callers wait for it."""

    future: Future[QueryVector]
    waiters: int = field(default=0)


class QueuedTexts:
    """A text model behind two queues, with a bounded cache of query vectors.

    Used from one event loop. texts: as `normalise_text` leaves them. Returned query vectors are read-only.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        *,
        limits: QueueLimits | None = None,
        cache_items_max: int = 10_000,
        query_deadline_ms: float = QUERY_DEADLINE_MS,
        document_deadline_ms: float = DOCUMENT_DEADLINE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._queue = _model_queue("text-model", embedder, limits or QueueLimits(), clock)
        self._query_deadline_ms = query_deadline_ms
        self._document_deadline_ms = document_deadline_ms
        self._cache_items_max = cache_items_max
        self._cache: OrderedDict[str, QueryVector] = OrderedDict()
        self._pending: dict[str, _Pending] = {}
        self.cache_counters = CacheCounters()

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""
        return self._embedder.info

    @property
    def counters(self) -> QueueCounters:
        """What has happened since the start."""
        return self._queue.counters

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait."""
        return self._queue.waiting_items()

    def start(self) -> None:
        """Start the threads. Call on the event loop."""
        self._queue.start()

    def close(self) -> None:
        """End the threads and release the model; what waits is refused."""
        self._queue.close()
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
        return None if text in self._pending else self._queue.admission_error(self._weight(text), caller)

    async def embed_query(self, text: str, caller: str = "", deadline_ms: float | None = None) -> QueryVector:
        """Return (vector (dim,), truncated). caller: whose share of the model this takes.

        Raises Overloaded, DeadlineExceeded, Starting.
        """
        known = self.known_query(text)
        if known is not None:
            return known
        if text not in self._pending:
            self._queue.admit(self._weight(text), caller)
        deadline_ms = self._query_deadline_ms if deadline_ms is None else deadline_ms
        return await self._result_of(text, self._joined(text, caller, deadline_ms), deadline_ms)

    async def embed_queries(self, texts: Sequence[str], caller: str = "") -> list[QueryVector]:
        """Return what `embed_query` gives for each; all are admitted together, or none."""
        unknown = {text for text in texts if text not in self._cache and text not in self._pending}
        if unknown:
            self._queue.admit(sum(map(self._weight, unknown)), caller)
        deadline_ms = self._query_deadline_ms
        results: list[Awaitable[QueryVector]] = []
        for text in texts:
            known = self.known_query(text)
            if known is None:
                results.append(self._result_of(text, self._joined(text, caller, deadline_ms), deadline_ms))
            else:
                results.append(_at_once(known))
        return await asyncio.gather(*results)

    def _joined(self, text: str, caller: str, deadline_ms: float) -> _Pending:
        """Queue `text`, or join who has queued it. Each is to be awaited by `_result_of`."""
        pending = self._pending.get(text)
        if pending is None:
            self.cache_counters.misses += 1
            (future,) = self._queue.submit("query", [text], [self._weight(text)], deadline_ms, caller)
            pending = self._pending[text] = _Pending(future)
        else:
            self.cache_counters.shared += 1
        pending.waiters += 1
        return pending

    async def _result_of(self, text: str, pending: _Pending, deadline_ms: float) -> QueryVector:
        try:
            # shield: a caller that leaves must not take the answer from the others
            found = await within(deadline_ms, asyncio.shield(asyncio.wrap_future(pending.future)))
        finally:
            pending.waiters -= 1
            if pending.waiters == 0:
                pending.future.cancel()
                if self._pending.get(text) is pending:
                    del self._pending[text]
        self._remember(text, found)
        return found

    async def embed_documents(self, texts: Sequence[str], deadline_ms: float | None = None) -> Embedded:
        """Return vectors in the order of `texts`. Raises Overloaded, DeadlineExceeded, Starting."""
        deadline_ms = self._document_deadline_ms if deadline_ms is None else deadline_ms
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        futures = self._queue.submit(
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

    def _remember(self, text: str, found: QueryVector) -> None:
        self._cache[text] = found
        self._cache.move_to_end(text)
        while len(self._cache) > self._cache_items_max:
            self._cache.popitem(last=False)
            self.cache_counters.evicted += 1


class QueuedImages:
    """A picture model behind two queues, and before it bounded processes that decode."""

    def __init__(
        self,
        embedder: ImageEmbedder,
        *,
        limits: QueueLimits | None = None,
        decode_limits: QueueLimits | None = None,
        pictures: DecodeLimits | None = None,
        query_deadline_ms: float = QUERY_DEADLINE_MS,
        document_deadline_ms: float = DOCUMENT_DEADLINE_MS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._embedder = embedder
        self._decoders = Decoders(pictures or DecodeLimits())
        limits = limits or QueueLimits(batch_items_max=16)
        self._queue = _model_queue("picture-model", embedder, limits, clock)
        self._decoding: WorkQueue[bytes, Pixels | InvalidImage] = WorkQueue(
            "picture-decoder", self._decode, decode_limits or QueueLimits(batch_items_max=1), clock
        )
        self._query_deadline_ms = query_deadline_ms
        self._document_deadline_ms = document_deadline_ms

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""
        return self._embedder.info

    @property
    def counters(self) -> QueueCounters:
        """What has happened since the start."""
        return self._queue.counters

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait for the model."""
        return self._queue.waiting_items()

    def start(self) -> None:
        """Start decoders and threads. Call on the event loop."""
        self._decoding.start()
        self._queue.start()

    def close(self) -> None:
        """End decoders and threads and release the model; what waits is refused."""
        self._decoders.close()  # first: the threads below wait for what it ends
        self._decoding.close()
        self._queue.close()
        self._embedder.close()

    def refusal(self, bytes_count: int, caller: str) -> Overloaded | None:
        """Return why `embed_query` would refuse a picture of so many bytes, or None."""
        return self._queue.admission_error(1, caller) or self._decoding.admission_error(
            _picture_weight(bytes_count), caller
        )

    async def embed_query(
        self, data: bytes, caller: str = "", deadline_ms: float | None = None
    ) -> FloatVector:
        """Return the (dim,) vector of one picture file. caller: whose share of decoders and model this takes.

        Raises InvalidImage, Overloaded, DeadlineExceeded, Starting.
        """
        self._queue.admit(1, caller)
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
        ((vector, _),) = await all_results(self._queue.submit("query", [pixels], [1], deadline_ms, caller))
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
                futures = self._queue.submit("document", pictures, [1] * len(pictures), deadline_ms)
                vectors = iter(await all_results(futures))
                found.extend(p if isinstance(p, InvalidImage) else next(vectors)[0] for p in decoded)
        finally:
            ahead.cancel()
        return found

    def _decoded(
        self, datas: Sequence[bytes], deadline_ms: float
    ) -> asyncio.Task[list[Pixels | InvalidImage]]:
        weights = [_picture_weight(len(data)) for data in datas]
        futures = self._decoding.submit("document", datas, weights, deadline_ms)
        return asyncio.ensure_future(all_results(futures))

    def _decode(self, datas: Sequence[bytes], role: Role) -> list[Pixels | InvalidImage]:
        return [self._decoders.decode(data, role) for data in datas]


async def _at_once(found: QueryVector) -> QueryVector:
    return found


def _picture_weight(bytes_count: int) -> int:
    """Bytes tell best what decoding takes before anything is decoded."""
    return bytes_count + _PICTURE_WEIGHT_OF_ANY


def _model_queue(
    name: str, embedder: Embedder[ContentT], limits: QueueLimits, clock: Callable[[], float]
) -> WorkQueue[ContentT, QueryVector]:
    """Return queues before a model; what they give is read-only, of unit length, and so finite."""

    def embed(contents: Sequence[ContentT], role: Role) -> list[QueryVector]:
        found = embedder.embed(contents, role)
        lengths = np.linalg.norm(found.vectors, axis=1)
        if not np.all(np.abs(lengths - 1) < 1e-3):  # also false for NaN
            raise ModelUnavailable(f"{embedder.info.name} gave a vector that is not of unit length.")
        found.vectors.flags.writeable = False
        return [(vector, bool(cut)) for vector, cut in zip(found.vectors, found.truncated, strict=True)]

    return WorkQueue(name, embed, limits, clock)
