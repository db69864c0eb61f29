"""A sentence-transformers directory, run by torch: the reference runtime, and the one for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.embedding.manifest import Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Role
from service.embedding.runtimes.torch_compat import make_torchvision_importable

BATCH_ITEMS = 32


class SentenceTransformerEmbedder:
    """A verified sentence-transformers directory. Calls are safe from any thread."""

    def __init__(
        self, directory: Path, manifest: Manifest, *, threads: int, device: str | None = None
    ) -> None:
        """device: of torch; None takes CUDA or MPS where there is one."""
        make_torchvision_importable()
        from sentence_transformers import SentenceTransformer  # only importable after the line above

        torch.set_num_threads(threads)
        parts = manifest.parts
        self._prefixes: dict[str, str] = parts["prefixes"]
        self.model: Any = SentenceTransformer(
            str(directory),
            local_files_only=True,
            trust_remote_code=False,
            device=device,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
        self.model.max_seq_length = parts["tokens_max"]
        self.model.eval()
        self._info = info_of(manifest, "text", f"torch-{self.model.device.type}", parts["tokens_max"])

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:
        """See Embedder."""
        if not contents:
            return Embedded(np.empty((0, self._info.dim), np.float32), np.empty(0, np.bool_))
        prefixed = [self._prefixes[role] + text for text in contents]
        vectors = self.model.encode(
            prefixed,
            batch_size=BATCH_ITEMS,
            normalize_embeddings=True,  # the production model has no Normalize module of its own
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        lengths = [len(ids) for ids in self.model.tokenizer(prefixed, truncation=False)["input_ids"]]
        truncated = np.asarray(lengths) > self.model.max_seq_length
        tokens = [min(length, self.model.max_seq_length) for length in lengths]
        return Embedded(np.asarray(vectors, np.float32), truncated, tokens)

    def close(self) -> None:
        """Let go of the weights: who else refers to this may stay for long."""
        vars(self).pop("model", None)
