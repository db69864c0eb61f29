"""A text model in the backend's process, by sentence-transformers: for ML_MODE local and db."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any


class LocalModel:
    """Loads at the first text. Safe from any thread."""

    def __init__(self, name: str) -> None:
        """name: of a model in the hub's cache, or a directory."""
        self._name = name
        self._model: Any = None
        self._lock = threading.Lock()

    def encode(self, text: str) -> Sequence[float]:
        """Return the unit vector of a text."""
        with self._lock:
            if self._model is None:
                try:
                    from sentence_transformers import SentenceTransformer  # takes seconds
                except ModuleNotFoundError as exc:
                    raise ModuleNotFoundError(
                        "Backend(encode=...) is the backend's own model; without it this needs: "
                        "pip install 'uhok-vector-client[local]'"
                    ) from exc

                self._model = SentenceTransformer(self._name)
            return self._model.encode(text, normalize_embeddings=True).tolist()  # type: ignore[no-any-return]
