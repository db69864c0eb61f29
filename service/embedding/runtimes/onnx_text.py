"""A text model in the serving form: model.onnx and tokenizer.json, run without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.embedding.manifest import Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Role
from service.embedding.runtimes.session import open_session
from service.embedding.runtimes.tokenizer import open_tokenizer

TOKENS_BUDGET = 512  # tokens of one forward pass, padding counted: more leaves the cache, and is slower


class OnnxTextEmbedder:
    """A text model of a verified directory. Calls are safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        parts = manifest.parts
        self._prefixes: dict[str, str] = parts["prefixes"]
        self._tokens_max: int = parts["tokens_max"]
        self._inputs: list[str] = manifest.interface["inputs"]
        self._pool_here: bool = manifest.interface["output"] == "tokens"
        self._tokenizer = open_tokenizer(directory / "tokenizer.json", self._tokens_max)
        self._session = open_session(directory, manifest, "model_file", threads)
        self._pad_id: int = manifest.interface["pad_id"]
        self._info = info_of(manifest, "text", "onnxruntime", self._tokens_max)

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:
        """Embed in order of length, so that little padding is computed; the answer keeps the given order."""
        prefix = self._prefixes[role]
        ids, truncated = self._tokenizer.encode([prefix + text for text in contents])
        vectors = np.empty((len(ids), self._info.dim), np.float32)
        lengths = [len(i) for i in ids]
        for places in length_batches(lengths, TOKENS_BUDGET):
            vectors[places] = self._forward([ids[p] for p in places])
        return Embedded(vectors, np.array(truncated, np.bool_), lengths)

    def _forward(self, ids: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        width = max(len(i) for i in ids)
        batch = np.full((len(ids), width), self._pad_id, np.int64)
        mask = np.zeros((len(ids), width), np.int64)
        for row, one in enumerate(ids):
            batch[row, : len(one)] = one
            mask[row, : len(one)] = 1
        feeds = {"input_ids": batch, "attention_mask": mask, "token_type_ids": np.zeros_like(batch)}
        (output,) = self._session.run(None, {name: feeds[name] for name in self._inputs})[:1]
        vectors: npt.NDArray[np.float32] = mean_pooled(output, mask) if self._pool_here else output
        return vectors

    def close(self) -> None:
        """Let go of weights and vocabulary: who else refers to this may stay for long."""
        for name in ("_session", "_tokenizer"):
            vars(self).pop(name, None)


def mean_pooled(tokens: npt.NDArray[np.float32], mask: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return unit vectors (n, dim): the mean over the unmasked tokens of each row."""
    weights = mask[:, :, None].astype(np.float32)
    means = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
    unit: npt.NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def length_batches(lengths: Sequence[int], budget: int) -> Iterable[list[int]]:
    """Yield places, longest first, so that rows times the longest length stays within `budget`.

    One row longer than the budget is a batch of its own: it must never wait for ever.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
