"""What contents go through before a model reads them: texts nothing, picture files a decoder.

Each kind says what its contents weigh and admits what it has to do itself, so that one encoder serves both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from service.embedding.pictures.decoders import DecodeLimits, Decoders
from service.embedding.port import Pixels, Role
from service.embedding.serving.futures import all_results
from service.embedding.serving.queue import QueueLimits, WorkQueue
from service.errors import InvalidImage, Overloaded

ContentT = TypeVar("ContentT", contravariant=True)
InputT = TypeVar("InputT", covariant=True)

_CHARS_A_TOKEN_MAX = 4
_WEIGHT_OF_ANY = 8
_PICTURE_WEIGHT_OF_ANY = 30_000
_ALL = 1 << 60
PICTURES_AT_ONCE = 32  # of one write, decoded and waiting for the model: 2 MB each


class Preparation(Protocol[ContentT, InputT]):
    """How contents become what a model reads. Used from one event loop. size: len of a content."""

    at_once: int
    """So many documents are prepared, and wait for the model, at a time."""

    def start(self) -> None:
        """Start what it needs. Call on the event loop."""

    def close(self) -> None:
        """End it; what waits is refused."""

    def weight_of(self, size: int) -> int:
        """Return how much work a content is for the model."""

    def preparing_error(self, size: int, caller: str) -> Overloaded | None:
        """Return why a query would not be prepared now, or None."""

    def admit_preparing(self, sizes: Sequence[int], caller: str) -> None:
        """Take queries into account before they are prepared. Raises Overloaded."""

    async def prepare(
        self, role: Role, contents: Sequence[ContentT], deadline_ms: float, caller: str
    ) -> Sequence[InputT | InvalidImage]:
        """Return what the model reads of each content, or why it can't be read. Raises TryLater."""


class TextPreparation:
    """Fits Preparation: a model reads normalised texts as they are."""

    at_once = _ALL

    def __init__(self, tokens_max: int | None) -> None:
        """tokens_max: what the model cuts off costs nothing."""
        self._tokens_max = tokens_max

    def start(self) -> None:
        """Nothing to start."""

    def close(self) -> None:
        """Nothing to end."""

    def weight_of(self, size: int) -> int:
        """Characters stand for tokens: both models of Korean text make about one of each two."""
        tokens_max = self._tokens_max
        counted = size if tokens_max is None else min(size, _CHARS_A_TOKEN_MAX * tokens_max)
        return counted + _WEIGHT_OF_ANY

    def preparing_error(self, size: int, caller: str) -> None:
        """Nothing is to be done."""

    def admit_preparing(self, sizes: Sequence[int], caller: str) -> None:
        """Nothing is to be done."""

    async def prepare(
        self,
        role: Role,  # noqa: ARG002
        contents: Sequence[str],
        deadline_ms: float,  # noqa: ARG002
        caller: str,  # noqa: ARG002
    ) -> Sequence[str]:
        """Return the texts."""
        return contents


class PicturePreparation:
    """Fits Preparation: picture files are decoded in bounded processes, with a queue before them."""

    at_once = PICTURES_AT_ONCE

    def __init__(
        self,
        pictures: DecodeLimits | None = None,
        limits: QueueLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        passes_max: int = 1,
    ) -> None:
        """pictures: bounds of one file. limits: of the queue. passes_max: of the model over one picture."""
        self._passes_max = passes_max
        self._decoders = Decoders(pictures or DecodeLimits())
        self._decoding: WorkQueue[bytes, Pixels | InvalidImage] = WorkQueue(
            "picture-decoder", self._decode, limits or QueueLimits(batch_items_max=1), clock
        )

    def start(self) -> None:
        """See Preparation."""
        self._decoding.start()

    def close(self) -> None:
        """See Preparation."""
        self._decoders.close()  # first: the threads of the queue wait for what it ends
        self._decoding.close()

    def weight_of(self, size: int) -> int:  # noqa: ARG002
        """Decoded pictures are all of one size; in how many views one is seen is not known before."""
        return self._passes_max

    def preparing_error(self, size: int, caller: str) -> Overloaded | None:
        """See Preparation."""
        return self._decoding.admission_error(_decoding_weight(size), caller)

    def admit_preparing(self, sizes: Sequence[int], caller: str) -> None:
        """See Preparation."""
        self._decoding.admit(sum(map(_decoding_weight, sizes)), caller)

    async def prepare(
        self, role: Role, contents: Sequence[bytes], deadline_ms: float, caller: str
    ) -> Sequence[Pixels | InvalidImage]:
        """See Preparation."""
        weights = [_decoding_weight(len(content)) for content in contents]
        return await all_results(self._decoding.submit(role, contents, weights, deadline_ms, caller))

    def _decode(self, contents: Sequence[bytes], role: Role) -> list[Pixels | InvalidImage]:
        return [self._decoders.decode(content, role) for content in contents]


def _decoding_weight(size: int) -> int:
    """Bytes tell best what decoding takes before anything is decoded."""
    return size + _PICTURE_WEIGHT_OF_ANY
