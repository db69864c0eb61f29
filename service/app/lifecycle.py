"""Start and stop: the port answers at once, then collections open while models load and warm up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from index_store.errors import (
    GenerationConflict,
    IndexStoreError,
    PointerLost,
    StoreDamaged,
    Unavailable,
    WriteFailed,
)
from index_store.port import (
    BatchSearch,
    DimSource,
    FootprintSource,
    RebuildSource,
    SeqSource,
    SourceIndex,
)
from index_store.types import SearchRequest
from service.app.encoders import Encoders, Slot
from service.app.generations.loading import Loader, open_encoders
from service.app.generations.origin import Origin
from service.app.search_queue import SearchQueue
from service.collections import NO_MODEL, PLACEHOLDER_MODEL, Collection
from service.embedding.port import ModelInfo
from service.errors import ModelUnavailable, ServiceError

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0
_OPENERS = 3
"""Threads: one for the collections, two for models."""


class Opening(Protocol):
    """What tells whether requests can be answered yet. Read on the event loop."""

    @property
    def is_open(self) -> bool:
        """Whether everything was tried that a start opens."""


class OpenableIndex(SourceIndex, BatchSearch, SeqSource, DimSource, RebuildSource, FootprintSource, Protocol):
    """An index whose collections are opened after it was made, one by one."""

    def open(self) -> Mapping[str, Unavailable]:
        """Open each collection that is not open; return why some can't be, by name."""


class Lifecycle:
    """Owns what has to be opened and closed. `opened` is the application's lifespan.

    is_open: whether every collection was tried; those that can't be opened refuse alone. Models may still be
    loading.
    """

    def __init__(
        self,
        index: OpenableIndex,
        collections: Sequence[Collection],
        encoders: Encoders,
        loader: Loader,
        queue: SearchQueue,
        executors: Sequence[ThreadPoolExecutor],
        *,
        has_fallback: bool,
    ) -> None:
        self._index = index
        self._collections = collections
        self._encoders = encoders
        self._loader = loader
        self._search_queue = queue
        self._executors = executors
        self._has_fallback = has_fallback
        self.is_open = False
        self._not_open: dict[str, Unavailable] = {}
        self._unbegun: set[str] = set()
        self._origins: dict[str, Origin] = {}
        self._retrying: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Serve from the first moment; `wait` returns when everything is loaded."""
        self._search_queue.start()
        self._opening = asyncio.create_task(self._open())
        try:
            yield
        finally:
            await self._close()

    async def wait(self) -> None:
        """Return when every collection is open and every model is loaded or known to be missing."""
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        """Open collections and models at the same time: both mostly wait for the disk, or compute without
        holding the GIL."""
        started = time.monotonic()
        with ThreadPoolExecutor(_OPENERS, thread_name_prefix="opening") as opener:
            index_open = asyncio.create_task(self._open_index(opener))
            alike: dict[str, list[Collection]] = {}
            for collection in self._collections:
                alike.setdefault(collection.model, []).append(collection)
            loading = [self._load_all(each, opener, index_open) for each in alike.values()]
            await asyncio.gather(index_open, *loading)
            log.info("models_loaded", extra={"took_ms": _ms_since(started)})
        if self._unbegun or any(map(_may_pass, self._not_open.values())):
            self._retrying = asyncio.create_task(self._retry())

    async def _open_index(self, opener: Executor) -> None:
        started = time.monotonic()
        self._note_not_open(await self._on(opener, self._index.open))
        self.is_open = True
        log.info(
            "collections_opened",
            extra={"took_ms": _ms_since(started), "not_open": sorted(self._not_open)},
        )

    def _note_not_open(self, failures: Mapping[str, Unavailable]) -> None:
        for name, error in failures.items():
            if str(error) != str(self._not_open.get(name, "")):
                extra = {"collection": name, "reason": str(error), "hint": error.hint}
                log.error("collection_not_opened", extra=extra)
        for name in self._not_open.keys() - failures.keys():
            log.info("collection_opened", extra={"collection": name})
        self._not_open = dict(failures)

    async def _retry(self) -> None:
        """Retry what failed for lack of a resource until it opens. Damage is not retried."""
        pause_s = _FIRST_RETRY_S
        while self._unbegun or any(map(_may_pass, self._not_open.values())):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
            if any(map(_may_pass, self._not_open.values())):
                self._note_not_open(await asyncio.to_thread(self._index.open))
            for collection in self._collections:
                info = self._encoders.slot(collection.name).info
                if collection.name in self._unbegun and info is not None:
                    await self._begin_if_possible(None, collection, info)

    async def _load_all(
        self, collections: Sequence[Collection], opener: Executor, index_open: Awaitable[None]
    ) -> None:
        """One after the other: collections with the same model share it."""
        for collection in collections:
            await self._load(collection, opener, index_open)

    async def _load(self, collection: Collection, opener: Executor, index_open: Awaitable[None]) -> None:
        slot = self._encoders.slot(collection.name)
        try:
            try:
                await self._fill(slot, collection, collection.model, opener, index_open)
            except ModelUnavailable as exc:
                slot.fail(exc)
                log.warning(
                    "model_unavailable",
                    extra={"collection": collection.name, "reason": exc.reason, "hint": exc.hint},
                )
                if self._has_fallback:
                    await self._fill(slot, collection, PLACEHOLDER_MODEL, opener, index_open)
        except (ServiceError, IndexStoreError) as exc:
            log.exception("model_not_served", extra={"collection": collection.name})
            slot.fail(ModelUnavailable(str(exc)))

    async def _fill(
        self,
        slot: Slot,
        collection: Collection,
        reference: str,
        opener: Executor,
        index_open: Awaitable[None],
    ) -> None:
        """Load the model, warm it up, make sure that the collection has a generation, then publish it.

        In this order, because ready means that a search is answered. The model of a collection that can't be
        opened still embeds.
        """
        if reference == NO_MODEL:
            raise ModelUnavailable("The collection is configured without a model: it takes vectors only.")
        run = partial(self._on, opener)
        text, image = await open_encoders(self._loader, collection, reference, run)
        info = slot.info_with(text=text, image=image)
        await index_open
        self._origins[collection.name] = _origin_of(collection, reference)
        await self._begin_if_possible(opener, collection, info)
        slot.fill(text=text, image=image)
        log.info("model_loaded", extra={"collection": collection.name, "version": info.embedding_version})

    async def _begin_if_possible(
        self, opener: Executor | None, collection: Collection, info: ModelInfo
    ) -> None:
        """opener: None takes the event loop's own."""
        try:
            await self._on(opener, lambda: self._begin(collection, info))
            self._unbegun.discard(collection.name)
        except StoreDamaged:
            self._unbegun.discard(collection.name)  # told when the collection was opened
        except Unavailable as exc:
            if collection.name not in self._unbegun and collection.name not in self._not_open:
                log.error("collection_not_begun", extra={"collection": collection.name, "reason": str(exc)})
            self._unbegun.add(collection.name)

    def _begin(self, collection: Collection, info: ModelInfo) -> None:
        """A collection without a generation gets its first one, under the model's version. The generation of
        that version notes which model this is, so that it can be served after the settings have changed."""
        current = self._index.status(collection.name).current
        if current is None:
            # Another worker may do the same at this moment.
            with contextlib.suppress(GenerationConflict):
                self._index.advance(collection.name, "begin", info.embedding_version)
        try:
            origin = self._origins[collection.name].serialized()
            if self._index.record_origin(collection.name, info.embedding_version, origin):
                log.info("origin_noted", extra={"collection": collection.name, "origin": origin})
        except WriteFailed as exc:  # a full disk: the next start notes it
            log.warning("origin_not_noted", extra={"collection": collection.name, "error": str(exc)})
        vector = np.ones(current.dim if current else collection.dim, dtype=np.float32)
        self._index.search(collection.name, [SearchRequest(vector=vector, k=1)])

    @staticmethod
    async def _on(opener: Executor | None, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(opener, call)

    async def _close(self) -> None:
        """Close everything, in order. No new request arrives by now; queued ones are answered first."""
        for task in (self._opening, self._retrying):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.is_open = False
        self._search_queue.close()
        encoders = {
            id(each): each for slot in self._encoders.slots() for each in (slot.text, slot.image) if each
        }
        for encoder in encoders.values():
            encoder.close()
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)
        self._index.close()
        log.info("closed")


def _origin_of(collection: Collection, reference: str) -> Origin:
    """reference: of the model that really serves, which may stand in for the configured one."""
    return Origin(reference, collection.text_template if collection.modality == "text" else "")


def _may_pass(error: Unavailable) -> bool:
    return not isinstance(error, StoreDamaged) or isinstance(error, PointerLost)


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
