"""Vectors of texts that were embedded once, kept in .cache/, so that a benchmark takes seconds the next time.

One file for each embedding version and role; a version names the model's weights and all that goes before
and behind them, so another model, or another form of it, begins anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.embedding_service import ROOT
from service.embedding.catalog.preload import EarlyModels
from service.embedding.port import Embedded, Embedder, Modality, ModelInfo, Role, TextEmbedder

CACHE = ROOT / ".cache" / "vectors"
_AT_ONCE = 32


class _KeptVectors:
    """Vectors by the text's hash, in memory and in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[npt.NDArray[np.float32], bool]] = {}
        self._is_changed = False
        if path.exists():
            with np.load(path) as held:
                rows = zip(held["keys"].tolist(), held["vectors"], held["truncated"].tolist(), strict=True)
                self._known = {key: (vector, truncated) for key, vector, truncated in rows}

    def find(self, text: str) -> tuple[npt.NDArray[np.float32], bool] | None:
        return self._known.get(_key(text))

    def put(self, text: str, vector: npt.NDArray[np.float32], truncated: bool) -> None:
        self._known[_key(text)] = vector, truncated
        self._is_changed = True

    def save(self) -> None:
        """Raises OSError."""
        if not self._is_changed:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp.npz")
        vectors, truncated = zip(*self._known.values(), strict=True)
        np.savez(temporary, keys=list(self._known), vectors=np.stack(vectors), truncated=truncated)
        temporary.replace(self._path)
        self._is_changed = False


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class RememberingTexts:
    """Fits `TextEmbedder`: asks the model only for texts that it never saw. Safe from any thread, as far as
    the model is: two that ask for one new text embed it twice."""

    def __init__(self, model: TextEmbedder) -> None:
        self._model = model
        name = re.sub(r"[^\w.+-]", "_", model.info.embedding_version)
        self._kept = {role: _KeptVectors(CACHE / f"{name}-{role}.npz") for role in ("query", "document")}

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._model.info

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:
        """See Embedder."""
        kept = self._kept[role]
        new = sorted({text for text in contents if kept.find(text) is None}, key=len)
        for start in range(0, len(new), _AT_ONCE):  # alike in length: little of a batch is padding
            some = new[start : start + _AT_ONCE]
            made = self._model.embed(some, role)
            for text, vector, truncated in zip(some, made.vectors, made.truncated.tolist(), strict=True):
                kept.put(text, vector, truncated)
        found = [row for row in map(kept.find, contents) if row is not None]
        return Embedded(np.stack([vector for vector, _ in found]), np.array([cut for _, cut in found]))

    def close(self) -> None:
        """Keep what is new, and release the model. Raises OSError."""
        for kept in self._kept.values():
            kept.save()
        self._model.close()


class RememberingModels(EarlyModels):
    """Opens models as a service does, those of texts with what they gave before."""

    def load(self, modality: Modality, reference: str, dim: int) -> Embedder[Any]:
        """See EarlyModels."""
        model = super().load(modality, reference, dim)
        return RememberingTexts(model) if modality == "text" else model
