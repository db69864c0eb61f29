"""A picture model in the serving form that sees a picture in one or two views, and its colours and layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.embedding.content_view import views_of, views_parts
from service.embedding.manifest import BadModelDirectory, Manifest, info_of
from service.embedding.port import Embedded, ModelInfo, Pixels, Role, of_pictures
from service.embedding.preprocess import Preprocess, normalised
from service.embedding.runtimes.colour_descriptor import describe
from service.embedding.runtimes.session import open_session

VIEWS_MAX = 2
BATCH_ITEMS = 2  # four views at most, as many as `onnx_image` reads at once


class OnnxViewsEmbedder:
    """A picture model of a verified directory. Calls are safe from any thread."""

    def __init__(self, directory: Path, manifest: Manifest, *, threads: int) -> None:
        """Raises BadModelDirectory where the model was fitted on other views than are made here."""
        if manifest.parts["views"] != views_parts():
            raise BadModelDirectory(f"{directory} holds a model of other views than this release makes.")
        self._preprocess = Preprocess.from_parts(manifest.parts["preprocess"])
        self._session = open_session(directory, manifest, "model_file", threads)
        self._info = info_of(manifest, "image", "onnxruntime", passes_max=VIEWS_MAX)

    @property
    def info(self) -> ModelInfo:
        """See Embedder."""
        return self._info

    def embed(self, contents: Sequence[Pixels], role: Role) -> Embedded:  # noqa: ARG002
        """See Embedder. Some at a time: see `BATCH_ITEMS`."""
        vectors = np.empty((len(contents), self._info.dim), np.float32)
        for start in range(0, len(contents), BATCH_ITEMS):
            some = [views_of(each, self._preprocess.side) for each in contents[start : start + BATCH_ITEMS]]
            vectors[start : start + BATCH_ITEMS] = self._session.run(None, self._inputs(some))[0]
        return of_pictures(vectors)

    def _inputs(self, pictures: Sequence[Sequence[Pixels]]) -> dict[str, np.ndarray]:
        """Return what the graph reads of pictures in their views; the nearest tells colours and layout."""
        shares = np.zeros((len(pictures), sum(map(len, pictures))), np.float32)
        first = 0
        for place, views in enumerate(pictures):
            shares[place, first : first + len(views)] = 1 / len(views)
            first += len(views)
        return {
            "pixels": np.stack([normalised(view, self._preprocess) for views in pictures for view in views]),
            "shares": shares,
            "descriptors": np.stack([describe(views[-1]) for views in pictures]),
        }

    def close(self) -> None:
        """Let go of the weights: who else refers to this may stay for long."""
        vars(self).pop("_session", None)
