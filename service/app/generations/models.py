"""Has a model ready for every generation that lives, not only for the current one.

A write brings each generation a vector of its own version, and a promotion or rollback is followed by the
next request: both need the models of the next and the former generation in every worker. Which model that
is the generation says itself (its origin). One that can't be loaded here is told and tried again; until then
items wait in that generation, and whoever has its model fills them in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from index_store.errors import GenerationConflict, IndexStoreError
from index_store.port import RebuildSource, VectorIndex
from index_store.types import CollectionStatus, GenerationStatus
from service.app.encoders import Encoder, Encoders, Slot
from service.app.generations.loading import Loader, filled_slot, open_encoders
from service.app.generations.origin import Origin, read_origin
from service.app.generations.workers import OpenModels, WorkerModels
from service.collections import Collection
from service.errors import ModelUnavailable, TryLater

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_S = 1.0
_POLL_S = 0.05
_RETRY_S = 30.0
_RETRY_OTHER_S = 600.0
"""A model whose files are others now: to look again opens it whole."""
_LOADING_S_MAX = 60.0
"""How long a step waits for the workers that are still loading a model."""
_RELEASE_AFTER_S = 60.0
"""Longer than any request waits that took the model before its generation went."""


class GenerationIndex(VectorIndex, RebuildSource, Protocol):
    """What is asked here of an index."""


class _OtherModel(ModelUnavailable):
    """The files of a model are not those that made the generation."""


class GenerationModels:
    """`run` goes on while the service does. Event loop only; models are opened on a thread."""

    def __init__(
        self,
        collections: Sequence[Collection],
        encoders: Encoders,
        index: GenerationIndex,
        loader: Loader,
        readers: Executor,
        workers: WorkerModels,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds that only go forward."""
        self._collections = collections
        self._encoders = encoders
        self._index = index
        self._loader = loader
        self._readers = readers
        self._workers = workers
        self._clock = clock
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._is_told = True
        self._open_models: dict[str, OpenModels] = {}
        self._leaving: dict[Encoder[Any], float] = {}

    async def run(self) -> None:
        """Look once a second, and when a request needs a model that is not here, for ever."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:
                    log.exception("generations_not_looked_at")
                await self._encoders.sought(_LOOK_S)
        finally:
            self._workers.withdraw()

    async def look(self) -> None:
        """Load what a generation needs and is not here, let go of what none needs any more, and serve each
        collection by the model of its current generation."""
        for collection in self._collections:
            try:
                status = await self._run(partial(self._index.status, collection.name))
                in_memory = await self._run(partial(self._catch_up, status))
            except IndexStoreError:
                continue  # told by the health probe
            await self._fit(collection, status)
            self._note(collection.name, status, in_memory)
        await self._release_unused()
        await self._tell()

    def _catch_up(self, status: CollectionStatus) -> Sequence[str]:
        """Return the versions of the generations in memory beside the current one. The rows of one that is
        being filled are left alone: to apply them as they come would hold up searches (12 us a row)."""
        if not status.others and not status.unopened:
            return ()
        name = status.spec.name
        return self._index.catch_up_others(name, self._workers.wanted(name))

    async def require_in_memory(self, collection: str, embedding_version: str) -> None:
        """Return when every worker of this data directory has read the rows of that generation into memory,
        so that no search has to after the step. Raises GenerationConflict when one takes too long,
        StoreUnavailable, StoreDamaged when this one can't read them."""
        with ExitStack() as wanting:
            want = partial(self._workers.wanting, collection, embedding_version)
            try:
                await self._run(lambda: wanting.enter_context(want()))
            except OSError as exc:
                raise GenerationConflict(f"the other workers can't be told of the step: {exc}") from exc
            await self._run(partial(self._index.catch_up_others, collection, {embedding_version}))
            give_up = self._clock() + _LOADING_S_MAX
            not_read = partial(self._workers.not_in_memory, collection, embedding_version)
            while missing := await self._run(not_read):
                if self._clock() >= give_up:
                    raise GenerationConflict(
                        f"{missing} worker(s) have not read the generation of {embedding_version!r} into "
                        "memory and would answer their next search late",
                        "wait until they have, see the log for what keeps them, or say force",
                    )
                await asyncio.sleep(_POLL_S)

    async def require_everywhere(self, collection: str, embedding_version: str) -> None:
        """Return when every worker of this data directory has the model of that generation. Raises
        GenerationConflict when one can't load it, or takes too long."""
        give_up = self._clock() + _LOADING_S_MAX
        not_loaded = partial(self._workers.not_loaded, collection, embedding_version)
        while True:
            reasons = await self._run(not_loaded)
            if not self._encoders.has(collection, embedding_version):
                reasons.append(self.problem(collection, embedding_version))
            if not reasons:
                return
            told = next(filter(None, reasons), "")
            if told or self._clock() >= give_up:
                raise GenerationConflict(
                    f"{len(reasons)} worker(s) have not loaded the model of {embedding_version!r} and would "
                    f"answer no text or picture by it{': ' if told else ''}{told}",
                    "what the reason says; or wait until they have, or say force",
                )
            await asyncio.sleep(_POLL_S)

    def slot_of_version(self, collection: str, embedding_version: str) -> Slot | None:
        """Return the filled slot of that version, serving or standing by; None where it is not here yet."""
        return self._encoders.by_version(collection, embedding_version)

    def problem(self, collection: str, embedding_version: str) -> str:
        """Return why the model of that generation can't be loaded here, or an empty string."""
        return self._failed.get((collection, embedding_version), (0.0, ""))[1]

    async def _fit(self, collection: Collection, status: CollectionStatus) -> None:
        name = collection.name
        for generation in status.generations:
            if not self._encoders.has(name, generation.embedding_version):
                await self._load(collection, generation)
        if status.current is not None:
            self._encoders.follow(name, status.current.embedding_version)
        versions = {each.embedding_version for each in status.named}
        self._failed = {
            (of, version): why
            for (of, version), why in self._failed.items()
            if of != name or version in versions
        }
        for version in set(self._encoders.others(name)) - versions:
            self._encoders.remove(name, version)

    def _note(self, collection: str, status: CollectionStatus, in_memory: Sequence[str]) -> None:
        """What of the generations' models is here, for who waits for one: in this worker, and elsewhere."""
        missing: dict[str, str] = {}
        for generation in status.generations:
            version = generation.embedding_version
            if not self._encoders.has(collection, version):
                problem = self.problem(collection, version)
                if problem or read_origin(generation.origin) is None:
                    missing[version] = problem
        missing.update({each.embedding_version: each.reason for each in status.unopened})
        versions = [each.embedding_version for each in status.generations]
        loaded = [version for version in versions if self._encoders.has(collection, version)]
        self._open_models[collection] = OpenModels(loaded, missing, in_memory)
        self._encoders.expect_none(collection, missing.keys())

    async def _tell(self) -> None:
        try:
            await self._run(partial(self._workers.tell, dict(self._open_models)))
        except OSError as exc:  # a full disk: no step is taken on it either
            if self._is_told:
                log.warning("models_not_told", extra={"reason": str(exc)})
            self._is_told = False
        else:
            self._is_told = True

    async def _release_unused(self) -> None:
        """Close the models that no generation uses, once nobody can still be waiting for them: of those that
        are gone, and those that were opened in vain. One that is being opened somewhere stays."""
        slots = self._encoders.slots()
        if any(slot.is_loading for slot in slots):
            return
        used = {id(encoder) for slot in slots for encoder in (slot.text, slot.image)}
        unused = [each for each in self._loader.started_encoders() if id(each) not in used]
        due_at = self._clock() + _RELEASE_AFTER_S
        self._leaving = {encoder: self._leaving.get(encoder, due_at) for encoder in unused}
        for encoder, due_at in list(self._leaving.items()):
            if self._clock() >= due_at:
                del self._leaving[encoder]
                await self._run(partial(self._loader.release_encoder, encoder))
                log.info("model_released", extra={"version": encoder.info.embedding_version})

    async def _load(self, collection: Collection, generation: GenerationStatus) -> None:
        origin = read_origin(generation.origin)
        if origin is None or self._encoders.slot(collection.name).is_loading:
            return  # its vectors come from elsewhere; or the start is still at it
        key = (collection.name, generation.embedding_version)
        failed = self._failed.get(key)
        if failed is not None and self._clock() < failed[0]:
            return
        try:
            await self._open(collection, origin, generation)
            self._failed.pop(key, None)
        except TryLater as exc:
            if not isinstance(exc, ModelUnavailable):
                log.info("generation_model_waits", extra={"collection": collection.name, "reason": str(exc)})
                return
            if failed is None:
                extra = {"collection": collection.name, "origin": generation.origin, "reason": str(exc)}
                log.warning("generation_model_unavailable", extra={**extra, "hint": exc.hint})
            pause_s = _RETRY_OTHER_S if isinstance(exc, _OtherModel) else _RETRY_S
            self._failed[key] = (self._clock() + pause_s, f"{exc} {exc.hint}".strip())

    async def _open(self, collection: Collection, origin: Origin, generation: GenerationStatus) -> None:
        its = replace(collection, dim=generation.dim or collection.dim)
        encoded = await open_encoders(self._loader, its, origin.model, self._run)
        slot = filled_slot(origin.model, origin.text_template, encoded)
        version = slot.info.embedding_version if slot.info else ""
        if version != generation.embedding_version:
            raise _OtherModel(
                f"{origin.model} gives {version} now, the generation is of {generation.embedding_version}."
            )
        self._encoders.add_standby(collection.name, slot)
        log.info("generation_model_loaded", extra={"collection": collection.name, "version": version})

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, call)
