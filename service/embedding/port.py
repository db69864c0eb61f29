"""The port of an embedding model: content in, unit vectors out, under one embedding_version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

Modality: TypeAlias = Literal["text", "image"]
ContentT = TypeVar("ContentT", contravariant=True)
"""What a model reads: a text, or the pixels of a picture."""
Role: TypeAlias = Literal["query", "document"]
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3) RGB, upright, alpha already on white, as `embedding.pictures` gives it."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is. embedding_version = readable name + fingerprint over weights, tokenizer, pooling,
    preprocessing, normalisation, dim and runtime precision class: equal versions mean comparable vectors.

    is_placeholder: the vectors carry no meaning (the seed's placeholder) and /health must say so. passes_max:
    forward passes that one content may take. language_shift: (dim,), from its English queries to its Korean
    ones; None where it was not measured, or where the model does not know both.
    """

    name: str
    embedding_version: str
    dim: int
    modality: Modality
    revision: str
    runtime: str
    tokens_max: int | None
    is_placeholder: bool
    passes_max: int = 1
    language_shift: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Embedded:
    """vectors: (n, dim) float32, unit length, in order. truncated: (n,) bool: longer than the model reads; of
    a picture never. tokens: (n,) int, that the model read of each text, special ones included; None for a
    model without tokens."""

    vectors: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]
    tokens: Sequence[int] | None = None


class Encoding(NamedTuple):
    """What a model made of one content. vector: (dim,) float32, unit length, read-only. truncated: whether
    the content was longer than the model reads; of a picture never. tokens: that the model read; 0 where it
    has none."""

    vector: npt.NDArray[np.float32]
    truncated: bool
    tokens: int = 0


class Embedder(Protocol[ContentT]):
    """A loaded model. Calls are safe from any thread; a content's vector does not depend on its batch beyond
    cosine .9999."""

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""

    def embed(self, contents: Sequence[ContentT], role: Role) -> Embedded:
        """Return one vector a content, in order.

        contents: texts, each stripped, NFC and not empty (`normalise_text`), or pictures. role: some text
        models put a prefix before queries.
        """

    def close(self) -> None:
        """Release what the model holds."""


TextEmbedder: TypeAlias = Embedder[str]
ImageEmbedder: TypeAlias = Embedder[Pixels]


def of_pictures(vectors: npt.NDArray[np.float32]) -> Embedded:
    """Return `vectors` of contents that are never truncated."""
    return Embedded(vectors, np.zeros(len(vectors), np.bool_))
