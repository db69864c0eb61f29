"""Opening a collection's model: its files, the threads behind it, one query through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from service.app.encoders import Encoder, ImageEncoder, Slot, TextEncoder
from service.collections import Collection

_WARM_UP_TEXT = "갈비탕"


class Loader(Protocol):
    """Opens model files and starts the threads behind them. Blocking; raises ModelUnavailable."""

    def load_text(self, reference: str, dim: int) -> TextEncoder:
        """Return the encoder of the text model `reference`, of `dim` numbers, started."""

    def load_image(self, reference: str, dim: int) -> ImageEncoder:
        """Return the same for a picture model."""

    def started_encoders(self) -> Sequence[Encoder[Any]]:
        """Return every encoder that is open."""

    def release_encoder(self, encoder: Encoder[Any]) -> None:
        """Close an encoder that nobody uses any more; the next who asks for its model opens it again."""

    def load_text_tower(self, reference: str, dim: int) -> TextEncoder | None:
        """Return what puts texts among the pictures of this picture model; None when it has none."""


RunBeside: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a blocking call beside the event loop and returns what it returned."""

Encoded: TypeAlias = tuple[TextEncoder | None, ImageEncoder | None]


async def open_encoders(loader: Loader, collection: Collection, reference: str, run: RunBeside) -> Encoded:
    """Return the text and the picture encoder that `reference` gives the collection, one query embedded, so
    that the first caller does not pay for it. Raises ModelUnavailable, TryLater."""
    dim = collection.dim
    image: ImageEncoder | None = None
    text: TextEncoder | None
    if collection.modality == "text":
        text = await run(lambda: loader.load_text(reference, dim))
    else:
        image = await run(lambda: loader.load_image(reference, dim))
        text = await run(lambda: loader.load_text_tower(reference, dim))
    if text is not None:
        await text.embed_query(_WARM_UP_TEXT)
    return text, image


def filled_slot(reference: str, text_template: str, encoded: Encoded) -> Slot:
    """Return the place of a model that is open."""
    slot = Slot(reference, text_template)
    slot.fill(text=encoded[0], image=encoded[1])
    return slot
