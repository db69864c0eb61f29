"""The ports of an embedding model: content in, unit vectors out, under one embedding_version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Modality: TypeAlias = Literal["text", "image"]
Role: TypeAlias = Literal["query", "document"]
Pixels: TypeAlias = npt.NDArray[np.uint8]
"""(height, width, 3) RGB, upright, alpha already on white, as `embedding.pictures` gives it."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is. embedding_version = readable name + fingerprint over weights, tokenizer, pooling,
    preprocessing, normalisation, dim and runtime precision class: equal versions mean comparable vectors.

    is_placeholder: the vectors carry no meaning (the seed's placeholder) and /health must say so.
    """

    name: str
    embedding_version: str
    dim: int
    modality: Modality
    revision: str
    runtime: str
    tokens_max: int | None
    is_placeholder: bool


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """vectors: (n, dim) float32, unit length, in order. truncated: (n,) bool: longer than the model reads."""

    vectors: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]


class TextEmbedder(Protocol):
    """A loaded text model. Calls are safe from any thread; a text's vector does not depend on its batch
    beyond cosine .9999."""

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""

    def embed_texts(self, texts: Sequence[str], role: Role) -> EmbeddedTexts:
        """texts: each stripped, NFC, not empty (normalise_text). role: some models prefix queries."""

    def close(self) -> None:
        """Release the model. Nothing is embedded afterwards."""


class ImageEmbedder(Protocol):
    """A loaded picture model. Calls are safe from any thread."""

    @property
    def info(self) -> ModelInfo:
        """What the model is. Constant."""

    def embed_images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Return (n, dim) float32, unit length, order kept."""

    def close(self) -> None:
        """Release the model. Nothing is embedded afterwards."""
