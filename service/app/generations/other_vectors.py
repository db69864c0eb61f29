"""Vectors of one write for the generations that are not current, each by its own model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from index_store.types import Content, Vector
from service.app.encoders import Encoders, Slot
from service.errors import InvalidImage, TryLater

log = logging.getLogger(__name__)


class OtherVectors:
    """Event loop only."""

    def __init__(self, encoders: Encoders, content_kept_for: Collection[str]) -> None:
        """content_kept_for: the collections in which an item without a vector can be filled in later."""
        self._encoders = encoders
        self._content_kept_for = content_kept_for

    async def vectors_for_others(
        self, collection: str, contents: Sequence[Content | None]
    ) -> Mapping[str, Sequence[Vector | None]]:
        """Return by version one vector for each content, None for what is no content, or none for that model.

        Where a model has no time the items wait in its generation, if they are kept. Raises TryLater else.
        """
        others = self._encoders.others(collection)
        found = await asyncio.gather(
            *[self._by_one(collection, version, slot, contents) for version, slot in others.items()]
        )
        return dict(zip(others, found, strict=True))

    async def _by_one(
        self, collection: str, version: str, slot: Slot, contents: Sequence[Content | None]
    ) -> Sequence[Vector | None]:
        try:
            return await vectors_of(slot, contents)
        except TryLater as exc:
            if collection not in self._content_kept_for:
                raise
            log.warning(
                "vectors_left_to_fill",
                extra={"collection": collection, "version": version, "reason": str(exc)},
            )
            return [None] * len(contents)


async def vectors_of(slot: Slot, contents: Sequence[Content | None]) -> list[Vector | None]:
    """Return the vector of each text or picture by the model in `slot`, in order; None where there is none to
    be made: no content, an address, a picture that can't be read. Raises TryLater."""
    vectors: list[Vector | None] = [None] * len(contents)
    if slot.text is not None and slot.image is None:
        places = [place for place, each in enumerate(contents) if each is not None and each.kind == "text"]
        texts = [_data(contents[place]).decode() for place in places]
        if texts:
            embedded = await slot.text.embed_documents(texts)
            for place, vector in zip(places, embedded.vectors, strict=True):
                vectors[place] = vector
    if slot.image is not None:
        places = [place for place, each in enumerate(contents) if each is not None and each.kind == "picture"]
        if places:
            found = await slot.image.embed_documents([_data(contents[place]) for place in places])
            for place, outcome in zip(places, found, strict=True):
                vectors[place] = None if isinstance(outcome, InvalidImage) else outcome
    return vectors


def _data(content: Content | None) -> bytes:
    assert content is not None
    return content.data
