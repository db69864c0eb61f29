"""Fills the gaps of a generation: items that have content and no vector of its version yet.

Safe to be killed at any item and to run twice: a vector is stored only where its item still waits and is made
of the same content.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from index_store.awaiting import AwaitingItem
from index_store.port import FootprintSource, RebuildSource, VectorIndex
from index_store.types import Content, Id, ItemWrite, Vector, WriteBatch
from service.app.encoders import Slot
from service.app.generations.other_vectors import vectors_of
from service.app.ingest import PictureSource
from service.embedding.serving.futures import gathered
from service.errors import InvalidImage

T = TypeVar("T")

BATCH_ITEMS = 16
"""Few: a forward pass of many holds up queries behind it."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Where to fill: one generation of one collection."""

    collection: str
    embedding_version: str


@dataclass(frozen=True, slots=True)
class GapStep:
    """What one batch did. after: where the next one begins; None: nothing was left behind it. failed: ids
    that can't be embedded, with the reason."""

    after: Id | None
    stored: int
    failed: Sequence[tuple[Id, str]]


class RebuildIndex(VectorIndex, RebuildSource, FootprintSource, Protocol):
    """What a filler needs of an index."""


class Filler:
    """Event loop only; reads and writes on threads."""

    def __init__(
        self, index: RebuildIndex, pictures: PictureSource, readers: Executor, writers: Executor
    ) -> None:
        self._index = index
        self._pictures = pictures
        self._readers = readers
        self._writers = writers

    async def fill_next(self, gap: Gap, slot: Slot, after: Id | None) -> GapStep:
        """Embed and store the next items behind `after`. Raises TryLater, IndexStoreError."""
        read = partial(self._index.awaiting, gap.collection, gap.embedding_version, after, BATCH_ITEMS)
        found = await self._run(self._readers, read)
        if not found:
            return GapStep(None, 0, ())
        fetched = await gathered(map(self._content, found))
        contents = [each if isinstance(each, Content) else None for each in fetched]
        vectors = await vectors_of(slot, contents)
        items: list[ItemWrite] = []
        failed: list[tuple[Id, str]] = []
        for item, content, vector in zip(found, fetched, vectors, strict=True):
            if not isinstance(content, Content):
                failed.append((item.id, content))
            elif vector is None:
                failed.append((item.id, "not_readable_by_the_model"))
            else:
                items.append(_filled(item, content, vector))
        stored = 0
        if items:
            batch = WriteBatch(items, embedding_version=gap.embedding_version)
            write = partial(self._index.write, gap.collection, batch)
            stored = (await self._run(self._writers, write)).upserted
        return GapStep(found[-1].id, stored, failed)

    async def _content(self, item: AwaitingItem) -> Content | str:
        """The text or picture, or why there is none."""
        if item.content is None:
            return "content_damaged"
        if item.content.kind != "address":
            return item.content
        try:
            return Content("picture", await self._pictures.fetch(item.content.data.decode()))
        except InvalidImage as exc:
            return exc.code

    @staticmethod
    def _run(executor: Executor, call: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(executor, call)


def _filled(item: AwaitingItem, content: Content, vector: Vector) -> ItemWrite:
    """A picture behind an address may be another one by now: the hash tells of what was embedded."""
    return ItemWrite(
        id=item.id,
        vector=vector,
        content_hash=hashlib.sha256(content.data).digest(),
        content=item.content,
        fills=item.content_hash,
    )
