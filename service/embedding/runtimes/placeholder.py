"""Embedders without a model: each deterministic, each with an embedding_version of its own.

Hashed n-grams and the descriptor carry real likeness and are honest small choices. The placeholder carries
none: it stands in for a model that isn't there, and says so.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from service.embedding.manifest import version_string
from service.embedding.port import Embedded, ImageEmbedder, Modality, ModelInfo, Role, TextEmbedder
from service.embedding.runtimes.colour_descriptor import DESCRIPTOR_DIM, describe

FloatVector: TypeAlias = npt.NDArray[np.float32]
ContentT = TypeVar("ContentT")

HASHED, DESCRIPTOR, PLACEHOLDER = "hashed-ngrams", "descriptor", "placeholder"
_NGRAM_WEIGHTS = (1.0, 2.0, 1.0)  # of one, two and three characters
_REVISION = "1"


def info_without_model(name: str, modality: Modality, dim: int) -> ModelInfo:
    """Return what the embedder `name` is, for version_of and for the embedder itself."""
    labels = {HASHED: "ngram-hash-v1", DESCRIPTOR: "picture-descriptor-v1", PLACEHOLDER: "placeholder-v1"}
    parts = {"method": labels[name], "modality": modality, "dim": dim, "normalise": "l2"}
    return ModelInfo(
        name=name,
        embedding_version=version_string(labels[name], parts),
        dim=dim,
        modality=modality,
        revision=_REVISION,
        runtime="numpy",
        tokens_max=None,
        is_placeholder=name == PLACEHOLDER,
    )


class FunctionEmbedder(Generic[ContentT]):
    """An embedder around one function. Safe from any thread, as the function is."""

    def __init__(self, info: ModelInfo, vector_of: Callable[[ContentT], FloatVector]) -> None:
        self._info = info
        self._vector_of = vector_of

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[ContentT], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder."""
        vectors = np.empty((len(contents), self._info.dim), np.float32)
        for row, content in enumerate(contents):
            vectors[row] = self._vector_of(content)
        return Embedded(vectors, np.zeros(len(contents), np.bool_))

    def close(self) -> None:
        """Nothing to release."""


def hashed_ngrams(dim: int) -> TextEmbedder:
    """Return an embedder of texts by their character n-grams, hashed with sign into `dim` places."""
    return FunctionEmbedder(info_without_model(HASHED, "text", dim), partial(_hashed, dim=dim))


def descriptor() -> ImageEmbedder:
    """Return an embedder of pictures by colours, edges and layout (512 values)."""
    return FunctionEmbedder(info_without_model(DESCRIPTOR, "image", DESCRIPTOR_DIM), describe)


def placeholder_texts(dim: int) -> TextEmbedder:
    """Return unit noise seeded by sha256 of the text: equal texts meet, nothing else does."""
    info = info_without_model(PLACEHOLDER, "text", dim)
    return FunctionEmbedder(info, lambda text: _noise(text.encode(), dim))


def placeholder_images(dim: int) -> ImageEmbedder:
    """Return unit noise seeded by sha256 of the decoded pixels: the same picture meets itself, nothing else
    does."""
    info = info_without_model(PLACEHOLDER, "image", dim)
    return FunctionEmbedder(info, lambda pixels: _noise(repr(pixels.shape).encode() + pixels.tobytes(), dim))


def _ngrams(text: str) -> Iterator[tuple[str, float]]:
    """Yield n-grams of the words, ends marked, with weights; punctuation parts words and says nothing."""
    lettered = "".join(c if c.isalnum() else " " for c in text.lower())
    for word in lettered.split() or [text]:
        marked = f"^{word}$"
        for size, weight in enumerate(_NGRAM_WEIGHTS, start=1):
            piece = word if size == 1 else marked
            for start in range(len(piece) - size + 1):
                yield piece[start : start + size], weight


def _hashed(text: str, dim: int) -> FloatVector:
    weights: dict[str, float] = {}
    for gram, weight in _ngrams(text):
        weights[gram] = weights.get(gram, 0.0) + weight
    vector = np.zeros(dim, np.float64)
    for gram, weight in weights.items():
        # crc32 is linear, so its low bits of like strings are alike; a multiplication mixes them.
        mixed = (zlib.crc32(gram.encode()) * 0x9E3779B1) & 0xFFFFFFFF
        vector[(mixed >> 8) % dim] += np.sqrt(weight) if mixed & 1 else -np.sqrt(weight)
    if not vector.any():
        vector[0] = 1.0  # only when every n-gram cancels another: a zero vector has no direction
    unit: FloatVector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _noise(content: bytes, dim: int) -> FloatVector:
    seed = int.from_bytes(hashlib.sha256(content).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dim)
    unit: FloatVector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
