"""Ingest: items with content or vectors become one durable write under one embedding_version."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

from index_store.errors import GenerationConflict, VersionMismatch
from index_store.port import VectorIndex
from index_store.types import Ack, Content, Filter, Id, ItemDelete, ItemWrite, Metadata, Vector, WriteBatch
from service.app.encoders import Encoders, has_same_template
from service.app.generations.other_vectors import OtherVectors
from service.embedding.port import Encoding
from service.embedding.serving.futures import gathered
from service.errors import (
    BatchRejected,
    InvalidImage,
    InvalidInput,
    ModelUnavailable,
    Overloaded,
    Reject,
)
from service.observing.metrics import Metrics
from service.observing.stage_timing import COMMIT
from service.observing.tracing.tracer import note_stage

T = TypeVar("T")

_LOADING_S_MAX = 20.0
"""How long a write waits for the model of a generation that was promoted."""
_FOLLOW_ATTEMPTS = 4
"""Embeddings of one write while generations are promoted and rolled back."""


class PictureSource(Protocol):
    """Where pictures behind an address come from. Raises InvalidImage."""

    async def fetch(self, url: str) -> bytes:
        """Return the bytes behind `url`. Raises InvalidImage, Overloaded."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """One item as it came: at most one of vector, text, picture, picture_url.

    place: among the request's items. text: normalised. active, metadata: None keeps what is stored. merge:
    put over the metadata that is stored.
    """

    place: int
    id: Id
    vector: Vector | None = None
    text: str | None = None
    picture: bytes | None = None
    picture_url: str | None = None
    active: bool | None = None
    metadata: Metadata | None = None
    source_version: int | None = None
    merge: Metadata | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """One write as asked. rejects: items that were found wrong before they became NewItems. except_versions:
    of generations that take nothing of it. only_where: of stored items, those that still pass."""

    collection: str
    items: Sequence[NewItem] = ()
    deletes: Sequence[ItemDelete] = ()
    rejects: Sequence[Reject] = ()
    embedding_version: str | None = None
    cursors: Mapping[str, str] = field(default_factory=dict)
    except_versions: Sequence[str] = ()
    only_where: Filter | None = None


_Embedded: TypeAlias = tuple[NewItem, Content, Encoding | InvalidImage]
"""An item, what it is made of, and its vector or why it has none."""


class _AnotherVersion(Exception):
    """The collection's current generation is of another version than the model that has just embedded."""

    def __init__(self, mismatch: VersionMismatch) -> None:
        super().__init__(str(mismatch))
        self.mismatch = mismatch


class Ingester:
    """Embeds and writes. Event loop only; each write waits for its commit on a thread of `writers`."""

    def __init__(
        self,
        encoders: Encoders,
        pictures: PictureSource,
        index: VectorIndex,
        writers: Executor,
        metrics: Metrics,
        *,
        writes_max: int,
        content_kept_for: Collection[str] = (),
    ) -> None:
        """content_kept_for: the collections whose texts, or pictures' bytes, are kept."""
        self._encoders = encoders
        self._pictures = pictures
        self._index = index
        self._writers = writers
        self._metrics = metrics
        self._writes_max = writes_max
        self._content_kept_for = frozenset(content_kept_for)
        self._other_vectors = OtherVectors(encoders, self._content_kept_for)
        self._writes = 0

    async def ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        """Return once the write is on disk and visible everywhere.

        With `partial` the good items are stored and the bad ones returned; without it one bad item raises
        BatchRejected and nothing is stored. Raises Refused, TryLater, IndexStoreError.
        """
        if self._writes >= self._writes_max:
            raise Overloaded("Too many writes are waiting.", reason="write")
        self._writes += 1
        try:
            return await self._ingest(intake, partial=partial)
        finally:
            self._writes -= 1

    async def _ingest(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        if intake.rejects and not partial:
            raise BatchRejected(intake.rejects)
        for _ in range(_FOLLOW_ATTEMPTS):
            try:
                ack, rejects = await self._attempt(intake, partial=partial)
            except _AnotherVersion as exc:
                mismatch = exc.mismatch
                until = time.monotonic() + _LOADING_S_MAX
                if not await self._encoders.follow_in_time(intake.collection, mismatch.expected, until):
                    break
                continue
            self._metrics.written(intake.collection, ack.upserted, ack.deleted, len(rejects))
            return ack, rejects
        raise ModelUnavailable(f"embedding_version_mismatch: {mismatch}") from mismatch

    async def _attempt(self, intake: Intake, *, partial: bool) -> tuple[Ack, Sequence[Reject]]:
        """Embed and write by the model that serves now, or that of the version that was named. Raises
        _AnotherVersion."""
        version = await self._version(intake)
        contents: dict[int, Content] = {}
        is_embedded_here = any(_has_content(item) for item in intake.items)
        is_for_current = is_embedded_here and self._serves(intake.collection, version)
        writes, rejects = await self._embedded(intake, contents, None if is_for_current else version)
        rejects = sorted([*intake.rejects, *rejects], key=_place)
        if rejects and not partial:
            raise BatchRejected(rejects)
        others: Mapping[str, Sequence[Vector | None]] = {}
        if contents:
            bad = {reject.loc[1] for reject in rejects if reject.loc[0] == "items"}
            made_of = [contents.get(item.place) for item in intake.items if item.place not in bad]
            others = await self._other_vectors.vectors_for_others(
                intake.collection, made_of, version, intake.except_versions
            )
        batch = WriteBatch(
            writes,
            intake.deletes,
            version,
            intake.cursors,
            others,
            is_for_current=is_for_current,
            except_versions=intake.except_versions,
            takes_content=_same_texts(version),
            only_where=intake.only_where,
        )
        began_at = time.perf_counter()
        ack = await self._on_writer(
            lambda: self._write(intake.collection, batch, is_embedded_here=is_for_current)
        )
        ended_at = time.perf_counter()
        self._metrics.stages.observe(COMMIT, ended_at - began_at)
        note_stage("commit", began_at, ended_at)
        return ack, [*rejects, *_grown_too_large(ack, intake)]

    async def _version(self, intake: Intake) -> str | None:
        """The space of this write's vectors; None when it has none."""
        if any(_has_content(item) for item in intake.items):
            return self._encoders.info(intake.collection, intake.embedding_version).embedding_version
        if intake.embedding_version is not None or all(item.vector is None for item in intake.items):
            return intake.embedding_version
        return await self._on_writer(partial(self._only_version, intake.collection))

    def _serves(self, collection: str, embedding_version: str | None) -> bool:
        return self._encoders.info(collection).embedding_version == embedding_version

    def _only_version(self, collection: str) -> str:
        status = self._index.status(collection)
        if status.current is None or status.others:
            raise InvalidInput(
                "embedding_version",
                "must be named: the collection doesn't hold exactly one",
                "invalid_vector",
            )
        return status.current.embedding_version

    async def _embedded(
        self, intake: Intake, contents: dict[int, Content], version: str | None
    ) -> tuple[list[ItemWrite], list[Reject]]:
        """contents: is filled with what each item is made of, by its place. version: by which model; None: by
        the one that serves."""
        vectors = {item.place: item.vector for item in intake.items if item.vector is not None}
        rejects: list[Reject] = []
        for item, content, outcome in [
            *await self._texts(intake, version),
            *await self._pictures_of(intake, version),
        ]:
            if isinstance(outcome, InvalidImage):
                rejects.append(_unreadable(item, outcome))
            else:
                vectors[item.place], contents[item.place] = outcome.vector, content
        bad = {reject.loc[1] for reject in rejects}
        writes = [
            self._item_write(intake.collection, item, vectors.get(item.place), contents.get(item.place))
            for item in intake.items
            if item.place not in bad
        ]
        return writes, rejects

    async def _texts(self, intake: Intake, version: str | None) -> list[_Embedded]:
        items = [(item, item.text) for item in intake.items if item.text is not None]
        if not items:
            return []
        encoder = self._encoders.text(intake.collection, version)
        found = await encoder.embed_documents([text for _, text in items])
        return [
            (item, Content("text", text.encode()), outcome)
            for (item, text), outcome in zip(items, found, strict=True)
        ]

    async def _pictures_of(self, intake: Intake, version: str | None) -> list[_Embedded]:
        items = [item for item in intake.items if _is_picture(item)]
        if not items:
            return []
        # Before anything is awaited: another may serve by then.
        image = self._encoders.image(intake.collection, version)
        fetched = await gathered(map(self._content, items))
        outcomes = iter(
            await image.embed_documents([each for each in fetched if not isinstance(each, InvalidImage)])
        )
        return [
            (item, Content("picture", b""), each)
            if isinstance(each, InvalidImage)
            else (item, Content("picture", each), next(outcomes))
            for item, each in zip(items, fetched, strict=True)
        ]

    async def _content(self, item: NewItem) -> bytes | InvalidImage:
        if item.picture is not None:
            return item.picture
        try:
            return await self._pictures.fetch(str(item.picture_url))
        except InvalidImage as error:
            return error

    def _write(self, collection: str, batch: WriteBatch, *, is_embedded_here: bool) -> Ack:
        """Create the first generation of a collection, under the version of its first vectors."""
        try:
            return self._index.write(collection, batch)
        except VersionMismatch as exc:
            if exc.expected and not is_embedded_here:
                raise
            if exc.expected:
                raise _AnotherVersion(exc) from exc
        # Another worker may begin it at this moment; the write below tells whether it is the same version.
        with contextlib.suppress(GenerationConflict):
            self._index.advance(collection, "begin", str(batch.embedding_version))
        return self._index.write(collection, batch)

    def _item_write(
        self, collection: str, item: NewItem, vector: Vector | None, content: Content | None
    ) -> ItemWrite:
        return ItemWrite(
            id=item.id,
            vector=vector,
            active=item.active,
            metadata=item.metadata,
            source_version=item.source_version,
            merge=item.merge,
            content_hash=None if content is None else hashlib.sha256(content.data).digest(),
            content=None if content is None else self._to_keep(collection, item, content),
        )

    def _to_keep(self, collection: str, item: NewItem, content: Content) -> Content | None:
        """What of an item's content stays with it, so that another model can read it one day."""
        if collection in self._content_kept_for:
            return content
        return Content("address", item.picture_url.encode()) if item.picture_url is not None else None

    async def _on_writer(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writers, call)


def _same_texts(embedding_version: str | None) -> Callable[[str], bool] | None:
    return None if embedding_version is None else partial(has_same_template, embedding_version)


def _has_content(item: NewItem) -> bool:
    return item.text is not None or _is_picture(item)


def _is_picture(item: NewItem) -> bool:
    return item.picture is not None or item.picture_url is not None


def _unreadable(item: NewItem, error: InvalidImage) -> Reject:
    content = "image" if item.picture is not None else "image_url"
    return Reject(("items", item.place, content), item.id, error.code, str(error))


def _grown_too_large(ack: Ack, intake: Intake) -> list[Reject]:
    """Items that only the commit could refuse: what they would be is known there."""
    if not ack.too_large_ids:
        return []
    places = {item.id: item.place for item in intake.items}
    said = "the merged metadata would be larger than an item's may be (METADATA_BYTES_MAX)"
    return [Reject(("ids", places[each]), each, "metadata_too_large", said) for each in ack.too_large_ids]


def _place(reject: Reject) -> tuple[bool, str | int]:
    """Items in their order, then deletes."""
    return reject.loc[0] != "items", reject.loc[1]
