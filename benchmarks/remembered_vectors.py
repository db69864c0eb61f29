"""Vectors of contents that were embedded once, kept in .cache/, so that a benchmark is quick the next time.

One file for each embedding version and role; a version names the model's weights and all that goes before
and behind them, so another model, or another form of it, begins anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.embedding_service import ROOT
from service.embedding.catalog.preload import EarlyModels
from service.embedding.port import Embedded, Embedder, Modality, ModelInfo, Pixels, Role

CACHE = ROOT / ".cache" / "vectors"
_AT_ONCE = 32
_ROLES: tuple[Role, ...] = ("query", "document")


_Kept: TypeAlias = tuple[npt.NDArray[np.float32], bool]
"""A vector, and whether its content was truncated."""


class _KeptVectors:
    """Vectors by a hash of the content, in memory and in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, _Kept] = {}
        self._is_changed = False
        if path.exists():
            with np.load(path) as held:
                rows = zip(held["keys"].tolist(), held["vectors"], held["truncated"].tolist(), strict=True)
                self._known = {key: (vector, truncated) for key, vector, truncated in rows}

    def find(self, key: str) -> _Kept | None:
        return self._known.get(key)

    def put(self, key: str, found: _Kept) -> None:
        self._known[key] = found
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


def _key(content: str | Pixels) -> str:
    if isinstance(content, str):
        data = content.encode()
    else:
        data = f"{content.shape}".encode() + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(data).hexdigest()[:32]


class RememberingEmbedder:
    """Fits `Embedder`: asks the model only for contents that it never saw. Safe from any thread, as far as
    the model is: two that ask for one new content embed it twice."""

    def __init__(self, model: Embedder[Any], folder: Path = CACHE) -> None:
        self._model = model
        name = re.sub(r"[^\w.+-]", "_", f"{model.info.embedding_version}-{model.info.modality}")
        self._kept = {role: _KeptVectors(folder / f"{name}-{role}.npz") for role in _ROLES}

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._model.info

    def embed(self, contents: Sequence[Any], role: Role) -> Embedded:
        """See Embedder."""
        kept = self._kept[role]
        keys = [_key(each) for each in contents]
        new = {key: each for key, each in zip(keys, contents, strict=True) if kept.find(key) is None}
        ordered = sorted(new, key=lambda key: len(new[key]))  # alike in length: little of a batch is padding
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            made = self._model.embed([new[key] for key in some], role)
            for key, vector, truncated in zip(some, made.vectors, made.truncated.tolist(), strict=True):
                kept.put(key, (vector, truncated))
        found = [each for each in map(kept.find, keys) if each is not None]
        return Embedded(np.stack([vector for vector, _ in found]), np.array([cut for _, cut in found]))

    def close(self) -> None:
        """Keep what is new, and release the model. Raises OSError."""
        for kept in self._kept.values():
            kept.save()
        self._model.close()


class RememberingModels(EarlyModels):
    """Opens models as a service does, with what they gave before."""

    def load(self, modality: Modality, reference: str, dim: int) -> Embedder[Any]:
        """See EarlyModels."""
        return RememberingEmbedder(super().load(modality, reference, dim))
