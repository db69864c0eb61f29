"""Which model embeds for which collection, and whether it is loaded. No collection uses another one's."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, TypeVar

from index_store.errors import VersionMismatch
from service.collections import NO_MODEL
from service.embedding.port import Encoding, ModelInfo
from service.errors import InvalidImage, InvalidInput, ModelUnavailable, Overloaded, Starting

ContentT = TypeVar("ContentT", contravariant=True)


class Encoder(Protocol[ContentT]):
    """A loaded model with its queue. ContentT: a normalised text, or the bytes of a picture file. All methods
    raise Overloaded, DeadlineExceeded."""

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""

    async def embed_query(self, content: ContentT, caller: str = "") -> Encoding:
        """Return the vector of a content. caller: whose share of the model, and of what comes before it, this
        takes. Raises InvalidImage."""

    async def embed_queries(self, contents: Sequence[ContentT], caller: str = "") -> Sequence[Encoding]:
        """Return the same for each; all are admitted together, or none."""

    def known_query(self, content: ContentT) -> Encoding | None:
        """Return what `embed_query` would, without waiting, if it is cached; else None."""

    def is_under_way(self, content: ContentT) -> bool:
        """Whether an equal query is being embedded, so that another one costs nothing."""

    def refusal(self, size: int, caller: str) -> Overloaded | None:
        """Return why `embed_query` would refuse a content that is neither cached nor under way, or None.

        size: characters of a text, bytes of a picture."""

    async def embed_documents(self, contents: Sequence[ContentT]) -> Sequence[Encoding | InvalidImage]:
        """Return the vector of each content, for writing, or an error: a bad picture fails alone. Raises
        TryLater."""

    def close(self) -> None:
        """End its threads; what waits is refused."""


TextEncoder: TypeAlias = Encoder[str]
ImageEncoder: TypeAlias = Encoder[bytes]


@dataclass(slots=True)
class Slot:
    """A model's place: empty while it loads, then filled (`text`, `image` or, of one space, both) or failed
    (`reason`, `hint`). text_template: what the collection's texts are made by; part of what the vectors mean.

    Written and read on the event loop only.
    """

    reference: str
    text_template: str = ""
    text: TextEncoder | None = None
    image: ImageEncoder | None = None
    info: ModelInfo | None = None
    reason: str = ""
    hint: str = ""

    def fill(self, *, text: TextEncoder | None = None, image: ImageEncoder | None = None) -> None:
        """Serve from now on."""
        self.info = self.info_with(text=text, image=image)
        self.text, self.image = text, image

    def info_with(self, *, text: TextEncoder | None = None, image: ImageEncoder | None = None) -> ModelInfo:
        """Return what the model is. image: decides, where both are given."""
        encoder = image or text
        assert encoder is not None
        return encoder.info if image else with_template(encoder.info, self.text_template)

    @property
    def is_loading(self) -> bool:
        """Whether neither a model nor a reason why there is none has come yet."""
        return self.info is None and not self.reason

    @property
    def is_available(self) -> bool:
        """Whether a real model is loaded; a placeholder is none."""
        return self.info is not None and not self.info.is_placeholder

    @property
    def reads_text(self) -> bool:
        """Whether texts can be embedded, now or once the model is here: not by a model of pictures alone, nor
        without a model."""
        return self.text is not None or (self.info is None and self.reference != NO_MODEL)

    def fail(self, error: ModelUnavailable) -> None:
        """Say that the model can't load, and why."""
        self.reason, self.hint = error.reason, error.hint

    def unavailable(self) -> Starting | ModelUnavailable:
        """Return the error for a request that needs the model while there is none."""
        if self.is_loading:
            return Starting(f"The model {self.reference} is still loading.")
        return ModelUnavailable(self.reason, self.hint)


_TEMPLATE_MARK = re.compile(r"\.t[0-9a-f]{8}$")


def with_template(info: ModelInfo, text_template: str) -> ModelInfo:
    """Return `info` under the version that its vectors have where texts are made by `text_template`.

    The same model under another template gives vectors that answer other questions, so they never meet.
    """
    return replace(info, embedding_version=info.embedding_version + template_suffix(text_template))


def template_suffix(text_template: str) -> str:
    """Return what a text template adds to its model's embedding_version; nothing without a template."""
    return f".t{hashlib.sha256(text_template.encode()).hexdigest()[:8]}" if text_template else ""


def has_same_template(embedding_version: str, other: str) -> bool:
    """Whether the vectors of both versions are made of the same texts, by what `template_suffix` has added to
    them."""
    marks = [_TEMPLATE_MARK.search(version) for version in (embedding_version, other)]
    first, second = (mark[0] if mark else "" for mark in marks)
    return first == second


class Encoders:
    """Text and pictures in, unit vectors out, by collection. Event loop only.

    A collection is served by the slot of its current generation; the slots of its other generations stand by.
    """

    def __init__(self, slots: Mapping[str, Slot]) -> None:
        self._slots = dict(slots)
        self._others: dict[str, dict[str, Slot]] = {name: {} for name in slots}
        self._not_coming: dict[str, Set[str]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._sought = asyncio.Event()

    def slots(self) -> list[Slot]:
        """Return every place, of current and other generations."""
        standing_by = [slot for others in self._others.values() for slot in others.values()]
        return [*self._slots.values(), *standing_by]

    def has(self, collection: str, embedding_version: str) -> bool:
        """Whether a model of that version is here, serving or standing by."""
        info = self._slots[collection].info
        serves = info is not None and info.embedding_version == embedding_version
        return serves or embedding_version in self._others[collection]

    def others(self, collection: str, embedding_version: str | None = None) -> Mapping[str, Slot]:
        """Return the filled slots of the generations that are not of that version, by version. None: that are
        not current."""
        others, serving = dict(self._others[collection]), self._slots[collection]
        if embedding_version is None or serving.info is None:
            return others
        found = {serving.info.embedding_version: serving, **others}
        found.pop(embedding_version, None)
        return found

    def by_version(self, collection: str, embedding_version: str) -> Slot | None:
        """Return the slot of that version, serving or standing by."""
        slot = self._slots[collection]
        if slot.info is not None and slot.info.embedding_version == embedding_version:
            return slot
        return self._others[collection].get(embedding_version)

    def add_standby(self, collection: str, slot: Slot) -> None:
        """Let a filled slot stand by."""
        assert slot.info is not None
        self._others[collection][slot.info.embedding_version] = slot
        self._wake()

    def expect_none(self, collection: str, embedding_versions: Set[str]) -> None:
        """Say of which generations' versions no model comes; one of any other is being loaded, or will be.
        Said by who loads them: before it is, nobody waits for a model."""
        if self._not_coming.get(collection) != embedding_versions:
            self._not_coming[collection] = embedding_versions
            self._wake()

    async def sought(self, seconds: float) -> None:
        """Return when somebody waits for a model, or so many seconds later."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # in Python 3.11 `wait_for` can lose a cancellation
                await self._sought.wait()
        self._sought.clear()

    async def follow_in_time(self, collection: str, embedding_version: str, until: float) -> bool:
        """As `follow`; waits for a model that is on its way, until `until` on `time.monotonic`."""
        while not self.follow(collection, embedding_version):
            left = until - time.monotonic()
            if left <= 0 or embedding_version in self._not_coming.get(collection, {embedding_version}):
                return False
            self._sought.set()
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await asyncio.wait([waiter], timeout=left)
        return True

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def remove(self, collection: str, embedding_version: str) -> Slot | None:
        """Let go of a slot that stands by, and return it. Its model stays open: another collection may share
        it."""
        return self._others[collection].pop(embedding_version, None)

    def follow(self, collection: str, embedding_version: str) -> bool:
        """Serve by the model of that version from now on: the current generation is of it. Return whether
        it does: not if it is not here."""
        found = self._others[collection].pop(embedding_version, None)
        if found is None:
            info = self._slots[collection].info
            return info is not None and info.embedding_version == embedding_version
        before = self._slots[collection]
        if before.info is not None:
            self._others[collection][before.info.embedding_version] = before
        self._slots[collection] = found
        return True

    def slot(self, collection: str) -> Slot:
        """Return the place of a collection's model. Raises KeyError for an unknown collection."""
        return self._slots[collection]

    def info(self, collection: str, embedding_version: str | None = None) -> ModelInfo:
        """Return what the collection's model is. embedding_version: of the model of that version, serving or
        standing by; None: of the one that serves. Raises Starting or ModelUnavailable when it can't embed
        now, InvalidInput when there is none, VersionMismatch when none of that version is here."""
        slot = self._slot_of(collection, embedding_version)
        if slot.info is None:
            raise self._missing(slot, collection, "")
        return slot.info

    def text(self, collection: str, embedding_version: str | None = None) -> TextEncoder:
        """Raises as `info`, and InvalidInput when the model reads no text."""
        slot = self._slot_of(collection, embedding_version)
        if slot.text is None:
            raise self._missing(slot, collection, "text")
        return slot.text

    def image(self, collection: str, embedding_version: str | None = None) -> ImageEncoder:
        """Raises as `info`, and InvalidInput when the model reads no pictures."""
        slot = self._slot_of(collection, embedding_version)
        if slot.image is None:
            raise self._missing(slot, collection, "pictures")
        return slot.image

    def _slot_of(self, collection: str, embedding_version: str | None) -> Slot:
        serving = self._slots[collection]
        if embedding_version is None:
            return serving
        found = self.by_version(collection, embedding_version)
        if found is None:
            served = serving.info.embedding_version if serving.info else ""
            raise VersionMismatch(collection, served, embedding_version)
        return found

    def encoder(self, collection: str, content: str | bytes) -> Encoder[Any]:
        """Return what embeds such a content: a text, or a picture file. Raises as `text` and `image`."""
        return self.text(collection) if isinstance(content, str) else self.image(collection)

    @staticmethod
    def _missing(slot: Slot, collection: str, content: str) -> Exception:
        if slot.info is not None:
            return InvalidInput("collection", f"{collection!r} has a model that reads no {content}")
        if slot.reference == NO_MODEL:  # no fault that passes: asking again does not help
            return InvalidInput("collection", f"{collection!r} has no model: it is searched by vectors only")
        return slot.unavailable()
