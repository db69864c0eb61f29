"""A model behind queues: what the routes await. It owns its threads; the model itself may be shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from index_store.lru import LruCache
from service.embedding.pictures.decoders import DecodeLimits
from service.embedding.port import Embedder, Encoding, ImageEmbedder, ModelInfo, Pixels, Role, TextEmbedder
from service.embedding.serving.futures import all_results, gathered, within
from service.embedding.serving.preparation import PicturePreparation, Preparation, TextPreparation
from service.embedding.serving.queue import PassObserver, QueryObserver, QueueCounters, QueueLimits, WorkQueue
from service.errors import InvalidImage, ModelUnavailable, Overloaded

ContentT = TypeVar("ContentT", str, bytes)
InputT = TypeVar("InputT")


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """Of one encoder. queue: before the model. cache_items_max: query vectors that are kept; with 0 equal
    queries do not share a pass either."""

    queue: QueueLimits = field(default_factory=QueueLimits)
    cache_items_max: int = 10_000
    query_deadline_ms: float = 10_000.0
    document_deadline_ms: float = 600_000.0


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

    task: asyncio.Task[Encoding]
    waiters: int = field(default=0)


class QueuedEncoder(Generic[ContentT, InputT]):
    """A model behind two queues, and before it what prepares its contents, with a bounded cache of query
    vectors.

    Used from one event loop. Contents: texts as `normalise_text` leaves them, or picture files. Returned
    vectors are read-only.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder[InputT],
        preparation: Preparation[ContentT, InputT],
        limits: EncoderLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        info: ModelInfo | None = None,
    ) -> None:
        """name: of the queue, in messages. preparation: started and closed here. info: where more is known of
        the model than it says."""
        self._embedder = embedder
        self._info = info or embedder.info
        self._preparation: Preparation[ContentT, InputT] = preparation
        self._limits = limits or EncoderLimits()
        self._queue: WorkQueue[InputT, Encoding] = WorkQueue(name, self._embed, self._limits.queue, clock)
        self._is_cached = self._limits.cache_items_max > 0
        self._cache: LruCache[ContentT, Encoding] = LruCache(self._limits.cache_items_max)
        self._pending: dict[ContentT, _Pending] = {}
        self._query_observer: QueryObserver | None = None
        self.cache_counters = CacheCounters()

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""
        return self._info

    @property
    def counters(self) -> QueueCounters:
        """What has happened since the start."""
        return self._queue.counters

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many queries and documents wait for the model."""
        return self._queue.waiting_items()

    def observe_passes(self, observer: PassObserver, query_observer: QueryObserver | None = None) -> None:
        """Let the observers be told of each pass of the model over queries, and of each query. Before
        `start`."""
        self._queue.observer = observer
        self._query_observer = query_observer

    def start(self) -> None:
        """Start the threads. Call on the event loop."""
        self._preparation.start()
        self._queue.start()

    def close(self) -> None:
        """End the threads and release the model; what waits is refused."""
        self._preparation.close()
        self._queue.close()
        self._embedder.close()

    def known_query(self, content: ContentT) -> Encoding | None:
        """Return what the cache holds of `content`."""
        if not self._is_cached:
            return None
        known = self._cache.find(content)
        if known is not None:
            self.cache_counters.hits += 1
        return known

    def is_under_way(self, content: ContentT) -> bool:
        """Whether an equal query is being embedded, so that another one costs nothing."""
        return self._is_cached and content in self._pending

    def refusal(self, size: int, caller: str) -> Overloaded | None:
        """Return why `embed_query` would refuse a content of `size` that is neither known nor under way, or
        None. size: characters of a text, bytes of a picture."""
        weight = self._preparation.weight_of(size)
        return self._queue.admission_error(weight, caller) or self._preparation.preparing_error(size, caller)

    async def embed_query(
        self, content: ContentT, caller: str = "", deadline_ms: float | None = None
    ) -> Encoding:
        """Return the vector (dim,) of one content. caller: whose share of the model this takes.

        Raises InvalidImage, Overloaded, DeadlineExceeded, Starting.
        """
        known = self.known_query(content)
        if known is not None:
            return known
        if not self.is_under_way(content):
            self._admit([content], caller)
        deadline_ms = self._limits.query_deadline_ms if deadline_ms is None else deadline_ms
        return await self._joined(content, caller, deadline_ms)

    async def embed_queries(self, contents: Sequence[ContentT], caller: str = "") -> list[Encoding]:
        """Return what `embed_query` gives for each; all are admitted together, or none."""
        known = [self.known_query(content) for content in contents]
        unknown = {
            content
            for content, found in zip(contents, known, strict=True)
            if found is None and not self.is_under_way(content)
        }
        if unknown:
            self._admit(list(unknown), caller)
        deadline_ms = self._limits.query_deadline_ms
        return await gathered(
            self._joined(content, caller, deadline_ms) if found is None else _at_once(found)
            for content, found in zip(contents, known, strict=True)
        )

    async def embed_documents(
        self, contents: Sequence[ContentT], deadline_ms: float | None = None
    ) -> list[Encoding | InvalidImage]:
        """Return for each content its vector, or why it has none, in order: one bad picture spoils no other.

        Raises Overloaded, DeadlineExceeded, Starting.
        """
        deadline_ms = self._limits.document_deadline_ms if deadline_ms is None else deadline_ms
        return await within(deadline_ms, self._documents(contents, deadline_ms))

    def _admit(self, contents: Sequence[ContentT], caller: str) -> None:
        sizes = list(map(len, contents))
        self._queue.admit(sum(map(self._preparation.weight_of, sizes)), caller)
        self._preparation.admit_preparing(sizes, caller)

    async def _joined(self, content: ContentT, caller: str, deadline_ms: float) -> Encoding:
        """Embed a query that was admitted, or wait for an equal one."""
        if not self._is_cached:
            return await within(deadline_ms, self._query(content, caller, deadline_ms))
        pending = self._pending.get(content)
        if pending is None:
            self.cache_counters.misses += 1
            task = asyncio.ensure_future(self._query(content, caller, deadline_ms))
            pending = self._pending[content] = _Pending(task)
        else:
            self.cache_counters.shared += 1
        pending.waiters += 1
        try:
            # shield: a caller that leaves must not take the answer from the others
            found = await within(deadline_ms, asyncio.shield(pending.task))
        finally:
            await self._leave(content, pending)
        self.cache_counters.evicted += self._cache.keep(content, found)
        return found

    async def _leave(self, content: ContentT, pending: _Pending) -> None:
        """One caller less waits; with the last one goes what is still to be done."""
        pending.waiters -= 1
        if pending.waiters:
            return
        if self._pending.get(content) is pending:
            del self._pending[content]
        if not pending.task.done():
            pending.task.cancel()
            await asyncio.wait([pending.task])

    async def _query(self, content: ContentT, caller: str, deadline_ms: float) -> Encoding:
        prepared = await self._preparation.prepare("query", [content], deadline_ms, caller)
        (found,) = await self._encoded("query", [content], prepared, deadline_ms, caller)
        if isinstance(found, InvalidImage):
            raise found
        return found

    async def _documents(
        self, contents: Sequence[ContentT], deadline_ms: float
    ) -> list[Encoding | InvalidImage]:
        """Prepare the next contents while the model works on the ones before, and hold no more than those."""
        found: list[Encoding | InvalidImage] = []
        step = self._preparation.at_once
        ahead = self._prepared(contents[:step], deadline_ms)
        try:
            for start in range(0, len(contents), step):
                prepared = await ahead
                ahead = self._prepared(contents[start + step : start + 2 * step], deadline_ms)
                some = contents[start : start + step]
                found.extend(await self._encoded("document", some, prepared, deadline_ms, ""))
        finally:
            ahead.cancel()
        return found

    def _prepared(
        self, contents: Sequence[ContentT], deadline_ms: float
    ) -> asyncio.Task[Sequence[InputT | InvalidImage]]:
        return asyncio.ensure_future(self._preparation.prepare("document", contents, deadline_ms, ""))

    async def _encoded(
        self,
        role: Role,
        contents: Sequence[ContentT],
        prepared: Sequence[InputT | InvalidImage],
        deadline_ms: float,
        caller: str,
    ) -> list[Encoding | InvalidImage]:
        """Embed what could be prepared; contents of like weight go into one batch, which pads the lighter."""
        weights = [self._preparation.weight_of(len(content)) for content in contents]
        inputs = [(place, each) for place, each in enumerate(prepared) if not isinstance(each, InvalidImage)]
        inputs.sort(key=lambda one: -weights[one[0]])
        order = [place for place, _ in inputs]
        futures = self._queue.submit(
            role, [each for _, each in inputs], [weights[place] for place in order], deadline_ms, caller
        )
        asked_at = time.monotonic()
        found: dict[int, Encoding] = dict(zip(order, await all_results(futures), strict=True))
        if self._query_observer is not None and role == "query" and futures:
            self._query_observer(asked_at, futures[-1].began_at, futures[-1].ended_at)
        return [
            each if isinstance(each, InvalidImage) else found[place] for place, each in enumerate(prepared)
        ]

    def _embed(self, inputs: Sequence[InputT], role: Role) -> list[Encoding]:
        """What leaves is read-only, of unit length, and so finite. On threads of the queue."""
        found = self._embedder.embed(inputs, role)
        lengths = np.linalg.norm(found.vectors, axis=1)
        if not np.all(np.abs(lengths - 1) < 1e-3):  # also false for NaN
            raise ModelUnavailable(f"{self.info.name} gave a vector that is not of unit length.")
        found.vectors.flags.writeable = False
        tokens = found.tokens or [0] * len(found.vectors)
        return [
            Encoding(vector, bool(cut), count)
            for vector, cut, count in zip(found.vectors, found.truncated, tokens, strict=True)
        ]


QueuedTexts: TypeAlias = QueuedEncoder[str, str]
QueuedPictures: TypeAlias = QueuedEncoder[bytes, Pixels]


def queued_texts(
    embedder: TextEmbedder, limits: EncoderLimits | None = None, info: ModelInfo | None = None
) -> QueuedTexts:
    """Return a text model behind its queues; not started. info: as `QueuedEncoder` has it."""
    preparation = TextPreparation(embedder.info.tokens_max)
    return QueuedEncoder("text-model", embedder, preparation, limits, info=info)


def queued_pictures(
    embedder: ImageEmbedder,
    limits: EncoderLimits | None = None,
    decode_limits: QueueLimits | None = None,
    pictures: DecodeLimits | None = None,
) -> QueuedPictures:
    """Return a picture model behind its queues, and decoders before it; not started."""
    limits = limits or EncoderLimits(QueueLimits(batch_items_max=16), cache_items_max=0)
    preparation = PicturePreparation(pictures, decode_limits, passes_max=embedder.info.passes_max)
    return QueuedEncoder("picture-model", embedder, preparation, limits)


async def _at_once(found: Encoding) -> Encoding:
    return found
