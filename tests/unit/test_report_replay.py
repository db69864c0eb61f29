"""Replaying beside writes: what an item's change explains is no difference of the models."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.types import (
    Content,
    Id,
    ItemDelete,
    ItemWrite,
    SearchRequest,
    SearchResult,
    StoredItem,
    WriteBatch,
)
from service.app.encoders import Slot
from service.app.rebuild.throttle import FillThrottle
from service.app.report.queries import ReplayQuery, replay_search
from service.app.report.replay import ReplayedQuery, Replayer, ReplaySide, SkippedQuery
from service.collections import Collection
from service.settings import Settings
from service.wiring_models import ModelLoader

RECIPES = Collection("recipes", dim=8)
MODEL = "builtin:placeholder"
TEXTS = [f"상품 {number}" for number in range(40)]


class BetweenSearches:
    """Fits ReplaySource: runs `then` once, after the first search."""

    def __init__(self, index: EmbeddedIndex, then: Callable[[], object]) -> None:
        self._source = index.replay_source()
        self._then: list[Callable[[], object]] = [then]

    def search_version(
        self, collection: str, embedding_version: str, requests: Sequence[SearchRequest]
    ) -> list[SearchResult]:
        found = self._source.search_version(collection, embedding_version, requests)
        if self._then:
            self._then.pop()()
        return found

    def get_version(
        self, collection: str, embedding_version: str, ids: Sequence[Id]
    ) -> list[StoredItem | None]:
        return self._source.get_version(collection, embedding_version, ids)

    def draw_ids(self, collection: str, seed: str, limit: int) -> list[Id]:
        return self._source.draw_ids(collection, seed, limit)

    def draw_contents(
        self, collection: str, seed: str, limit: int, bytes_max: int
    ) -> list[tuple[Id, Content]]:
        return self._source.draw_contents(collection, seed, limit, bytes_max)


Change = Callable[[EmbeddedIndex, ItemWrite], object]


async def replayed(data_dir: Path, change: Change, *, is_shuffled: bool = False, other: int = 9) -> object:
    """What becomes of item 3, searched by its own text, when `change` comes between the two searches, with
    the item that is `other` places from it."""
    loader = ModelLoader(Settings.from_environ({}), None, is_hybrid_possible=False)
    slot = Slot(MODEL)
    slot.fill(text=loader.load_text(MODEL, 8))
    assert slot.text is not None
    vectors = [each.vector for each in await slot.text.embed_queries(TEXTS)]
    index = EmbeddedIndex(data_dir, [RECIPES.spec])
    assert not index.open()
    items = [item(number, vectors[number]) for number in range(len(TEXTS))]
    for version in ("old", "new"):
        index.advance("recipes", "begin", version)
    moved = vectors[7:] + vectors[:7] if is_shuffled else vectors
    index.write("recipes", WriteBatch(items, embedding_version="old", other_vectors={"new": moved}))
    near = np.argsort(np.linalg.norm(np.array(vectors) - vectors[3], axis=1))
    source = BetweenSearches(index, lambda: change(index, items[near[other]]))
    with ThreadPoolExecutor(1) as readers:
        replayer = Replayer(source, readers, FillThrottle(list, 50))
        query = ReplayQuery("own", "sampled", replay_search(RECIPES, content=TEXTS[3]), own_id=3)
        sides = (ReplaySide("old", slot), ReplaySide("new", slot))
        outcome = await replayer.replay(query, *sides)
    index.close()
    slot.text.close()
    return outcome


def item(number: int, vector: object) -> ItemWrite:
    content = Content("text", TEXTS[number].encode())
    return ItemWrite(number, vector, content_hash=hashlib.sha256(content.data).digest(), content=content)  # type: ignore[arg-type]


def deleted(index: EmbeddedIndex, _: ItemWrite) -> None:
    index.write("recipes", WriteBatch(deletes=[ItemDelete(3)]))


def hidden(index: EmbeddedIndex, _: ItemWrite) -> None:
    index.write("recipes", WriteBatch([ItemWrite(3, active=False)]))


def rewritten(index: EmbeddedIndex, other: ItemWrite) -> None:
    written = ItemWrite(3, other.vector, content_hash=other.content_hash, content=other.content)
    others = {"new": [other.vector]}
    index.write("recipes", WriteBatch([written], embedding_version="old", other_vectors=others))


@pytest.mark.long
@pytest.mark.parametrize("change", [deleted, hidden, rewritten])
def test_an_item_that_changed_meanwhile_is_no_loss(tmp_path: Path, change: Change) -> None:
    outcome = asyncio.run(replayed(tmp_path, change))
    assert isinstance(outcome, SkippedQuery) and outcome.reason == "changed_meanwhile"


@pytest.mark.parametrize("other", [1, 11, 20, 39])
def test_wherever_an_item_went_that_was_written_meanwhile_it_is_no_loss(tmp_path: Path, other: int) -> None:
    outcome = asyncio.run(replayed(tmp_path, rewritten, other=other))
    assert isinstance(outcome, SkippedQuery) and outcome.reason == "changed_meanwhile"


def left_to_fill(index: EmbeddedIndex, other: ItemWrite) -> None:
    """Written twice by a worker that has no time for the next generation's model; the content is the first
    again."""
    old = index.get("recipes", [3])[0]
    assert old is not None
    for like in (other, item(3, old.vector)):
        written = ItemWrite(3, like.vector, content_hash=like.content_hash, content=like.content)
        index.write("recipes", WriteBatch([written], embedding_version="old", other_vectors={"new": [None]}))


def test_an_item_that_waits_for_its_vector_is_told_apart_from_a_loss(tmp_path: Path) -> None:
    outcome = asyncio.run(replayed(tmp_path, left_to_fill))
    assert isinstance(outcome, SkippedQuery) and outcome.reason == "awaits_vector"


def unchanged(_: EmbeddedIndex, __: ItemWrite) -> None:
    """Nothing comes between."""


@pytest.mark.long
def test_an_item_under_another_vector_is_a_loss(tmp_path: Path) -> None:
    sound = asyncio.run(replayed(tmp_path / "sound", unchanged))
    assert isinstance(sound, ReplayedQuery) and (sound.before.own_rank, sound.after.own_rank) == (1, 1)
    lost = asyncio.run(replayed(tmp_path / "lost", unchanged, is_shuffled=True))
    assert isinstance(lost, ReplayedQuery) and lost.before.own_rank == 1 != lost.after.own_rank
