"""Fit the projection of pictures in views that service/embedding/data ships, and print how good it is.

    python -m benchmarks.fit_image_projection WEIGHTS.pth IMAGES.jsonl IMAGES_DIR [--write]

Fitted on the half of the pictures whose item hashes even, judged on the other half and on all: a picture
changed by crop, turn, light and JPEG must be found again, and a flat drawing must find the 3D rendering of
the same thing. The projection of one view stands beside it and is fitted no more (docs/decisions/0012, 0118).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from benchmarks.picture_changes import near_duplicate
from service.embedding.catalog.builtin import EFFICIENTNET_PREPROCESS
from service.embedding.content_view import views_of
from service.embedding.convert.efficientnet_graph import write_features
from service.embedding.convert.projection import PROJECTION_FILE, VIEWS_PROJECTION_FILE, read_projection
from service.embedding.convert.torch_file import read_state_dict
from service.embedding.preprocess import normalised
from service.embedding.runtimes.colour_descriptor import describe

Values: TypeAlias = npt.NDArray[np.float32]
Flags: TypeAlias = npt.NDArray[np.bool_]
Changes: TypeAlias = tuple[Values, Values]
"""Of the pictures as they are, and changed."""

DIM = 512
WHITENING = 0.5  # 0 keeps the variances (a plain PCA), 1 makes them equal
SHARE = 0.4  # how far the descriptor spreads, of the features' spread
SEED = 11
FEATURES = 1280


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the file in service/embedding/data")
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.labels.read_text("utf-8").splitlines()]
    pictures = [Image.open(given.images / row["file"]).convert("RGB") for row in rows]
    rng = np.random.default_rng(SEED)
    session = _feature_session(given.weights)
    base = _seen(session, pictures)
    changed = _seen(session, [near_duplicate(picture, rng) for picture in pictures])
    even = np.array([zlib.crc32(row["item"].encode()) % 2 == 0 for row in rows])
    mean, basis = (each.astype(np.float16) for each in fit(base.beside[even]))
    print(f"{even.sum()} pictures to fit, {(~even).sum()} to judge, seed {SEED}")
    former = read_projection(PROJECTION_FILE)
    contenders = {
        "one view": tuple(_projected(each.whole, *former) for each in (base, changed)),
        "views and descriptor": tuple(_projected(each.beside, mean, basis) for each in (base, changed)),
    }
    for name, (one, other) in contenders.items():
        for judged, told in ((~even, "held out"), (np.ones_like(even), "all")):
            report(f"{name}, {told}", (_unit(one), _unit(other)), rows, judged)
    if given.write:
        target = Path(__file__).parents[1] / "service" / "embedding" / "data" / VIEWS_PROJECTION_FILE
        np.savez_compressed(target, mean=mean, basis=basis)
        print(f"wrote {target}")


class _Seen:
    """whole: roots of the features of one view. beside: those of all views averaged, and the descriptor."""

    def __init__(self, whole: Values, averaged: Values, descriptors: Values) -> None:
        self.whole = whole
        self.beside = np.concatenate([averaged, descriptors], axis=1)


def fit(seen: Values) -> tuple[Values, Values]:
    """Return mean and basis of the 512 main directions, partly whitened; what makes the descriptor count as
    SHARE says is part of the basis."""
    mean = seen.mean(axis=0)
    centred = seen - mean
    spreads = [np.linalg.norm(part, axis=1).mean() for part in np.split(centred, [FEATURES], axis=1)]
    centred[:, FEATURES:] *= (factor := SHARE * spreads[0] / spreads[1])
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    basis = directions[:DIM].T * (spread[0] / spread[:DIM]) ** WHITENING
    basis[FEATURES:] *= factor
    return mean.astype(np.float32), basis.astype(np.float32)


def _projected(seen: Values, mean: npt.NDArray[np.floating], basis: npt.NDArray[np.floating]) -> Values:
    projected: Values = (seen - mean.astype(np.float32)) @ basis.astype(np.float32)
    return projected


def _unit(vectors: Values) -> Values:
    unit: Values = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def report(name: str, vectors: Changes, rows: list[dict[str, str]], judged: Flags) -> None:
    """Print what is found among all pictures of what was `judged`, and by source."""
    base, changed = vectors
    found = np.argsort(-(changed[judged] @ base.T), axis=1)[:, :10] == np.flatnonzero(judged)[:, None]
    items, sources = (np.array([row[key] for row in rows]) for key in ("item", "source"))
    flat = np.flatnonzero(judged & np.isin(sources, ["noto", "twemoji"]))
    solid = np.flatnonzero(sources == "fluent3d")
    near = solid[np.argsort(-(base[flat] @ base[solid].T), axis=1)[:, :10]]
    same = items[near] == items[flat][:, None]
    print(
        f"{name:30} near-duplicate R@1 {found[:, 0].mean():.3f} R@10 {found.any(axis=1).mean():.3f}"
        f"   cross-rendering R@1 {same[:, 0].mean():.3f} R@10 {same.any(axis=1).mean():.3f}   R@1 "
        + " ".join(f"{name} {found[sources[judged] == name, 0].mean():.3f}" for name in sorted(set(sources)))
    )


def _feature_session(weights: Path) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        write_features(read_state_dict(weights), path)
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _seen(session: onnxruntime.InferenceSession, pictures: Sequence[Image.Image]) -> _Seen:
    how = EFFICIENTNET_PREPROCESS
    whole, averaged, descriptors = [], [], []
    for picture in pictures:
        views = views_of(np.asarray(picture), how.side)
        inputs = np.stack([normalised(view, how) for view in views])
        roots = np.sqrt(session.run(None, {"pixels": inputs})[0])
        whole.append(roots[0])
        averaged.append(roots.mean(axis=0))
        descriptors.append(describe(views[-1]))
    return _Seen(np.stack(whole), np.stack(averaged), np.stack(descriptors))


if __name__ == "__main__":
    main()
