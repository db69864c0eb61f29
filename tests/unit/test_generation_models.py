"""Which models a worker holds: those of the generations that live, and no other for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index_store.errors import GenerationConflict
from index_store.types import CollectionStatus, GenerationStatus
from service.app.encoders import Encoders, Slot
from service.app.generations.models import GenerationModels
from service.app.generations.origin import Origin
from service.app.generations.workers import WorkerModels
from service.collections import Collection
from service.settings import Settings
from service.wiring_models import ModelLoader
from tests.clock import Clock
from tests.reference_index import ReferenceIndex

OLD, NEW = "builtin:hashed-ngrams", "builtin:placeholder"
COLLECTIONS = (Collection("a", dim=8, model=OLD), Collection("b", dim=8, model=OLD))


class KnowingIndex(ReferenceIndex):
    """Says of each generation which model made it."""

    def __init__(self, origins: dict[str, str]) -> None:
        """origins: the model of each version."""
        super().__init__([each.spec for each in COLLECTIONS])
        self.origins = origins
        self.in_memory: set[str] = set()

    def status(self, collection: str) -> CollectionStatus:
        found = super().status(collection)
        current, *others = [self._with_origin(each) for each in found.generations]
        return replace(found, current=current, others=others)

    def catch_up_others(self, collection: str, wanted: Set[str] = frozenset()) -> list[str]:
        """See RebuildSource: a generation is in memory once it was wanted."""
        assert collection
        self.in_memory |= wanted
        return sorted(self.in_memory)

    def _with_origin(self, generation: GenerationStatus) -> GenerationStatus:
        return replace(generation, origin=Origin(self.origins[generation.embedding_version]).serialized())


class Stage:
    """Two collections under the old model; `versions` of what either model gives."""

    def __init__(self, loader: ModelLoader, executor: ThreadPoolExecutor, workers: Path) -> None:
        self.loader = loader
        self.clock = Clock()
        slots = {each.name: Slot(OLD) for each in COLLECTIONS}
        for slot in slots.values():
            slot.fill(text=loader.load_text(OLD, 8))
        self.old = _version(slots["a"])
        self.new = loader.load_text(NEW, 8).info.embedding_version
        self.index = KnowingIndex({self.old: OLD, self.new: NEW})
        for each in COLLECTIONS:  # as the start of a service does
            self.index.advance(each.name, "begin", self.old)
        self.encoders = Encoders(slots)
        self.workers = WorkerModels(workers)
        self.models = GenerationModels(
            COLLECTIONS, self.encoders, self.index, loader, executor, self.workers, clock=self.clock
        )


def _version(slot: Slot) -> str:
    assert slot.info is not None
    return slot.info.embedding_version


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Runs a scene on an event loop of its own."""
    settings = Settings.from_environ({})

    def run(scene: Callable[[Stage], Any]) -> None:
        async def on_stage() -> None:
            with ThreadPoolExecutor(1) as executor:
                stage = Stage(ModelLoader(settings, None, is_hybrid_possible=False), executor, tmp_path)
                await scene(stage)

        asyncio.run(on_stage())

    return run


def test_the_model_of_a_retired_generation_is_released_once_nobody_waits_for_it(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.index.advance("a", "begin", stage.new)
        await stage.models.look()
        slot = stage.models.slot_of_version("a", stage.new)
        assert slot is not None and slot.text is not None
        stage.index.advance("a", "abort", stage.new)
        await stage.models.look()
        assert stage.models.slot_of_version("a", stage.new) is None
        stage.clock.now += 30
        await stage.models.look()
        assert stage.loader.load_text(NEW, 8) is slot.text, "a request may still be waiting for it"
        stage.clock.now += 60
        await stage.models.look()
        assert stage.loader.load_text(NEW, 8) is not slot.text, "closed; this is another one"

    play(scene)


def test_a_model_that_gives_another_version_is_told_and_does_not_stay_open(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.index.origins["another"] = NEW  # its files were others when this generation was made
        opened = stage.loader.load_text(NEW, 8)
        stage.index.advance("a", "begin", "another")
        await stage.models.look()
        assert "gives" in stage.models.problem("a", "another")
        stage.clock.now += 100
        await stage.models.look()
        assert opened not in stage.loader.started_encoders() and stage.models.problem("a", "another")
        await stage.models.look()
        assert len(stage.loader.started_encoders()) == 1, "it is not opened again and again"
        stage.index.advance("a", "abort", "another")
        await stage.models.look()
        assert not stage.models.problem("a", "another"), "a later one of that version is tried at once"

    play(scene)


def test_a_model_that_another_collection_uses_stays(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.index.advance("a", "begin", stage.new)
        await stage.models.look()
        stage.index.advance("a", "promote", stage.new)
        await stage.models.look()
        stage.index.advance("a", "retire", stage.old)
        await stage.models.look()
        stage.clock.now += 1_000
        await stage.models.look()
        shared = stage.encoders.text("b")
        assert stage.loader.load_text(OLD, 8) is shared
        assert len(await shared.embed_documents(["국"])) == 1

    play(scene)


def test_a_request_waits_for_a_model_that_is_on_its_way(play: Any) -> None:
    """Promoted before this worker has looked: the request asks for a look, and is answered after it."""

    async def scene(stage: Stage) -> None:
        running = asyncio.create_task(stage.models.run())
        await stage.models.look()
        stage.index.advance("a", "begin", stage.new)
        stage.index.advance("a", "promote", stage.new)
        began_at = time.monotonic()
        assert await stage.encoders.follow_in_time("a", stage.new, began_at + 20)
        assert time.monotonic() - began_at < 10
        assert _version(stage.encoders.slot("a")) == stage.new
        running.cancel()

    play(scene)


def test_nobody_waits_for_a_model_that_does_not_come(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        until = time.monotonic() + 20
        assert not await stage.encoders.follow_in_time("a", stage.new, until), "nobody loads models here yet"
        stage.index.origins[stage.new] = "builtin:nothing"
        stage.index.advance("a", "begin", stage.new)
        await stage.models.look()
        assert not await stage.encoders.follow_in_time("a", stage.new, until)
        assert stage.models.problem("a", stage.new)
        assert not await stage.encoders.follow_in_time("a", "v9", time.monotonic() + 0.05), "in time"
        assert time.monotonic() < until - 10

    play(scene)


def test_a_generation_is_read_into_memory_only_for_a_step(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.index.advance("a", "begin", stage.new)
        await stage.models.look()
        assert stage.index.in_memory == set()
        await stage.models.require_in_memory("a", stage.new)
        assert stage.index.in_memory == {stage.new}
        with stage.workers.wanting("a", stage.old):  # as another worker does
            await stage.models.look()
        assert stage.index.in_memory == {stage.new, stage.old}

    play(scene)


def test_a_step_waits_until_every_worker_could_serve_it(play: Any) -> None:
    async def scene(stage: Stage) -> None:
        stage.index.advance("a", "begin", stage.new)
        step = asyncio.create_task(stage.models.require_everywhere("a", stage.new))
        await asyncio.sleep(0.1)
        assert not step.done()
        await stage.models.look()
        await step
        stage.index.origins[stage.new] = "builtin:nothing"
        stage.encoders.remove("a", stage.new)
        await stage.models.look()
        with pytest.raises(GenerationConflict, match="1 worker"):
            await stage.models.require_everywhere("a", stage.new)

    play(scene)
