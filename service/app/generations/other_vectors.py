"""Vectors of one write for the generations that are not current, each by its own model."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from index_store.types import Content, Vector
from service.app.encoders import Encoder, Encoders, Slot, has_same_template
from service.embedding.serving.futures import gathered
from service.errors import InvalidImage, TryLater

log = logging.getLogger(__name__)


class OtherVectors:
    """Event loop only."""

    def __init__(self, encoders: Encoders, content_kept_for: Collection[str]) -> None:
        """content_kept_for: the collections in which an item without a vector can be filled in later."""
        self._encoders = encoders
        self._content_kept_for = content_kept_for

    async def vectors_for_others(
        self,
        collection: str,
        contents: Sequence[Content | None],
        embedding_version: str | None = None,
        except_versions: Sequence[str] = (),
    ) -> Mapping[str, Sequence[Vector | None]]:
        """Return by version one vector for each content, None for what is no content, or none for that model.

        embedding_version: of the generation that is written; None: the current one. except_versions: nothing
        is made for them. Where a model has no time the items wait in its generation, if they are kept. Raises
        TryLater else.
        """
        others = {
            version: slot
            for version, slot in self._encoders.others(collection, embedding_version).items()
            if version not in except_versions
            and (embedding_version is None or has_same_template(embedding_version, version))
        }
        found = await gathered(
            self._by_one(collection, version, slot, contents) for version, slot in others.items()
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
    kind = "text" if slot.image is None else "picture"
    encoder: Encoder[Any] | None = slot.image or slot.text
    vectors: list[Vector | None] = [None] * len(contents)
    found = [(place, each) for place, each in enumerate(contents) if each is not None and each.kind == kind]
    if encoder is None or not found:
        return vectors
    read = [each.data.decode() if kind == "text" else each.data for _, each in found]
    for (place, _), outcome in zip(found, await encoder.embed_documents(read), strict=True):
        vectors[place] = None if isinstance(outcome, InvalidImage) else outcome.vector
    return vectors
