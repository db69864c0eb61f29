"""Embedders without a model: each deterministic, each with an embedding_version of its own.

Hashed n-grams and the descriptor carry real likeness and are honest small choices. The placeholder carries
none: it stands in for a model that isn't there, and says so.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from service.embedding.manifest import version_string
from service.embedding.port import EmbeddedTexts, Modality, ModelInfo, Pixels, Role
from service.embedding.runtimes.colour_descriptor import DESCRIPTOR_DIM, describe

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


class HashedNgrams:
    """Texts by their character n-grams, hashed with sign into `dim` places."""

    def __init__(self, dim: int) -> None:
        self._info = info_without_model(HASHED, "text", dim)

    @property
    def info(self) -> ModelInfo:
        """See TextEmbedder."""
        return self._info

    def embed_texts(self, texts: Sequence[str], role: Role) -> EmbeddedTexts:  # noqa: ARG002
        """See TextEmbedder. Queries and documents are embedded alike."""
        rows = [_hashed(text, self._info.dim) for text in texts]
        vectors = np.stack(rows) if rows else np.empty((0, self._info.dim), np.float32)
        return EmbeddedTexts(vectors, np.zeros(len(texts), np.bool_))

    def close(self) -> None:
        """Nothing to release."""


def _ngrams(text: str) -> Iterator[tuple[str, float]]:
    """Yield n-grams of the words, ends marked, with weights; punctuation parts words and says nothing."""
    lettered = "".join(c if c.isalnum() else " " for c in text.lower())
    for word in lettered.split() or [text]:
        marked = f"^{word}$"
        for size, weight in enumerate(_NGRAM_WEIGHTS, start=1):
            piece = word if size == 1 else marked
            for start in range(len(piece) - size + 1):
                yield piece[start : start + size], weight


def _hashed(text: str, dim: int) -> npt.NDArray[np.float32]:
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
    unit: npt.NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


class Descriptor:
    """Pictures by colours, edges and layout (512 values)."""

    def __init__(self) -> None:
        self._info = info_without_model(DESCRIPTOR, "image", DESCRIPTOR_DIM)

    @property
    def info(self) -> ModelInfo:
        """See ImageEmbedder."""
        return self._info

    def embed_images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """See ImageEmbedder."""
        rows = [describe(pixels) for pixels in images]
        return np.stack(rows) if rows else np.empty((0, DESCRIPTOR_DIM), np.float32)

    def close(self) -> None:
        """Nothing to release."""


class PlaceholderTexts:
    """Unit noise seeded by sha256 of the text: equal texts meet, nothing else does."""

    def __init__(self, dim: int) -> None:
        self._info = info_without_model(PLACEHOLDER, "text", dim)

    @property
    def info(self) -> ModelInfo:
        """See TextEmbedder."""
        return self._info

    def embed_texts(self, texts: Sequence[str], role: Role) -> EmbeddedTexts:  # noqa: ARG002
        """See TextEmbedder. The vectors carry no meaning."""
        rows = [_noise(text.encode(), self._info.dim) for text in texts]
        vectors = np.stack(rows) if rows else np.empty((0, self._info.dim), np.float32)
        return EmbeddedTexts(vectors, np.zeros(len(texts), np.bool_))

    def close(self) -> None:
        """Nothing to release."""


class PlaceholderImages:
    """Unit noise seeded by sha256 of the decoded pixels: the same picture meets itself, nothing else does."""

    def __init__(self, dim: int) -> None:
        self._info = info_without_model(PLACEHOLDER, "image", dim)

    @property
    def info(self) -> ModelInfo:
        """See ImageEmbedder."""
        return self._info

    def embed_images(self, images: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """See ImageEmbedder. The vectors carry no meaning."""
        rows = [_noise(repr(p.shape).encode() + p.tobytes(), self._info.dim) for p in images]
        return np.stack(rows) if rows else np.empty((0, self._info.dim), np.float32)

    def close(self) -> None:
        """Nothing to release."""


def _noise(content: bytes, dim: int) -> npt.NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(content).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(dim)
    unit: npt.NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit
