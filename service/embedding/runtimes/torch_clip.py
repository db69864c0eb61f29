"""An open_clip directory: pictures, and texts in the same space, run by torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.embedding.manifest import BadModelDirectory, Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Pixels, Role, of_pictures
from service.embedding.preprocess import Preprocess, picture_input
from service.embedding.runtimes.torch_compat import make_torchvision_importable

log = logging.getLogger(__name__)
BATCH_ITEMS = 16
_RUNTIME = "torch-cpu"
_IMAGE_PARTS = ("visual",)
_TEXT_PARTS = (
    "text", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection",
    "attn_mask",
)  # fmt: skip


class ClipImages:
    """The picture tower. Calls are safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        self.model = _without(_load(directory, manifest, threads), _TEXT_PARTS)
        self._preprocess = Preprocess.from_parts(manifest.parts["preprocess"])
        self._info = info_of(manifest, "image", _RUNTIME)

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[Pixels], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder. Queries and documents are embedded alike."""
        vectors = np.empty((len(contents), self._info.dim), np.float32)
        for start in range(0, len(contents), BATCH_ITEMS):
            batch = np.stack(
                [picture_input(p, self._preprocess) for p in contents[start : start + BATCH_ITEMS]]
            )
            with torch.inference_mode():
                found = self.model.encode_image(torch.from_numpy(batch), normalize=True)
            vectors[start : start + BATCH_ITEMS] = found.numpy()
        return of_pictures(vectors)

    def close(self) -> None:
        """Let go of the weights: who else refers to this may stay for long."""
        vars(self).pop("model", None)


class ClipTexts:
    """The text tower: a text's vector lies in the space of the pictures, under their embedding_version."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        self.model = _without(_load(directory, manifest, threads), _IMAGE_PARTS)
        import open_clip  # importable once _load has run

        self.tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{directory}")
        tokens_max: int = self.model.context_length
        self._info = info_of(manifest, "text", _RUNTIME, tokens_max)

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[str], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder. Queries and documents are embedded alike."""
        vectors = np.empty((len(contents), self._info.dim), np.float32)
        lengths = [self._tokens(text) for text in contents]
        for start in range(0, len(contents), BATCH_ITEMS):
            batch = list(contents[start : start + BATCH_ITEMS])
            with torch.inference_mode():
                found = self.model.encode_text(self.tokenizer(batch), normalize=True)
            vectors[start : start + BATCH_ITEMS] = found.numpy()
        most: int = self.model.context_length
        truncated = np.array([length > most for length in lengths], np.bool_)
        return Embedded(vectors, truncated, [min(length, most) for length in lengths])

    def _tokens(self, text: str) -> int:
        """Count start and end too. A tokenizer without `encode` (a HuggingFace one) counts as fitting."""
        encode = getattr(self.tokenizer, "encode", None)
        return len(encode(text)) + 2 if encode is not None else 0

    def close(self) -> None:
        """Let go of the weights: who else refers to this may stay for long."""
        vars(self).pop("model", None)


def _load(directory: Path, manifest: Manifest, threads: int) -> Any:
    """Return the model, with the activation function that its weights were trained with.

    Loading the openai weights by file name builds GELU instead of QuickGELU in silence, and gives vectors
    that look right and are not; so the directory form is used, and the layers are looked at.
    """
    make_torchvision_importable()
    import open_clip  # only importable after the line above

    torch.set_num_threads(threads)
    model = open_clip.create_model(
        f"local-dir:{directory}", precision="fp32", device="cpu", weights_only=True
    )
    model.eval()
    is_quick = any(type(m).__name__ == "QuickGELU" for m in model.modules())
    if is_quick != manifest.parts["quick_gelu"]:
        built = "QuickGELU" if is_quick else "GELU"
        raise BadModelDirectory(f"{directory} was built with {built}, which its manifest does not say.")
    return model


def _without(model: Any, parts: Sequence[str]) -> Any:
    """Let go of the other tower: half the weights, and each tower is opened on its own."""
    for name in parts:
        if hasattr(model, name):
            delattr(model, name)
    return model
