"""A picture model in the serving form: model.onnx over preprocessed pixels, run without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.embedding.manifest import Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Pixels, Role, of_pictures
from service.embedding.preprocess import Preprocess, picture_input
from service.embedding.runtimes.session import open_session

BATCH_ITEMS = 4  # 16 at once took half as long again each, and 290 MB more


class OnnxImageEmbedder:
    """A picture model of a verified directory. Calls are safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        self._preprocess = Preprocess.from_parts(manifest.parts["preprocess"])
        self._session = open_session(directory, manifest, "model_file", threads)
        self._info = info_of(manifest, "image", "onnxruntime")

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[Pixels], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder. Some at a time: see `BATCH_ITEMS`."""
        vectors = np.empty((len(contents), self._info.dim), np.float32)
        for start in range(0, len(contents), BATCH_ITEMS):
            batch = np.stack(
                [picture_input(p, self._preprocess) for p in contents[start : start + BATCH_ITEMS]]
            )
            vectors[start : start + BATCH_ITEMS] = self._session.run(None, {"pixels": batch})[0]
        return of_pictures(vectors)

    def close(self) -> None:
        """Let go of the weights: who else refers to this may stay for long."""
        vars(self).pop("_session", None)
