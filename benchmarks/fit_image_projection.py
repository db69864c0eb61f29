"""Fit the projection of EfficientNet's features that service/embedding/data ships, and print how good it is.

    python -m benchmarks.fit_image_projection WEIGHTS.pth IMAGES.jsonl IMAGES_DIR [--write]

Fitted on the half of the pictures whose item hashes even, judged on the other half: a picture changed by
crop, turn, light and JPEG must be found again, and a flat drawing must find the 3D rendering of the same
thing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from benchmarks.picture_changes import near_duplicate
from service.embedding.catalog.builtin import EFFICIENTNET_PREPROCESS
from service.embedding.convert.efficientnet_graph import write_features
from service.embedding.convert.projection import PROJECTION_FILE
from service.embedding.convert.torch_file import read_state_dict
from service.embedding.preprocess import picture_input

DIM = 512
WHITENING = 0.5  # 0 keeps the variances (a plain PCA), 1 makes them equal
SEED = 11


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
    base = _features(session, pictures)
    changed = _features(session, [near_duplicate(p, rng) for p in pictures])
    even = np.array([zlib.crc32(row["item"].encode()) % 2 == 0 for row in rows])
    mean, basis = fit(base[even])
    print(f"{even.sum()} pictures to fit, {(~even).sum()} to judge, seed {SEED}")
    report("features, 1280", base, changed, rows, ~even)
    report("projection, 512", project(base, mean, basis), project(changed, mean, basis), rows, ~even)
    if given.write:
        target = Path(__file__).parents[1] / "service" / "embedding" / "data" / PROJECTION_FILE
        np.savez_compressed(target, mean=mean.astype(np.float16), basis=basis.astype(np.float16))
        print(f"wrote {target}")


def fit(features: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean and basis of the 512 main directions of the roots, partly whitened."""
    roots = np.sqrt(features)
    mean = roots.mean(axis=0)
    _, spread, directions = np.linalg.svd(roots - mean, full_matrices=False)
    basis = directions[:DIM].T * (spread[0] / spread[:DIM]) ** WHITENING
    return mean.astype(np.float32), basis.astype(np.float32)


def project(
    features: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], basis: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return what the shipped float16 file makes of `features`."""
    centred = np.sqrt(features) - mean.astype(np.float16).astype(np.float32)
    projected: npt.NDArray[np.float32] = centred @ basis.astype(np.float16).astype(np.float32)
    return projected


def report(
    name: str, base: npt.NDArray[np.float32], changed: npt.NDArray[np.float32], rows: list[dict[str, str]],
    judged: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    base, changed = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (base, changed))
    found = np.argsort(-(changed[judged] @ base.T), axis=1)[:, :10] == np.flatnonzero(judged)[:, None]
    items = np.array([row["item"] for row in rows])
    sources = np.array([row["source"] for row in rows])
    flat = np.flatnonzero(judged & np.isin(sources, ["noto", "twemoji"]))
    solid = np.flatnonzero(sources == "fluent3d")
    near = solid[np.argsort(-(base[flat] @ base[solid].T), axis=1)[:, :10]]
    same = items[near] == items[flat][:, None]
    print(
        f"{name:18} near-duplicate R@1 {found[:, 0].mean():.3f} R@10 {found.any(axis=1).mean():.3f}"
        f"   cross-rendering R@1 {same[:, 0].mean():.3f} R@10 {same.any(axis=1).mean():.3f}"
    )


def _feature_session(weights: Path) -> onnxruntime.InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        write_features(read_state_dict(weights), path)
        return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def _features(session: onnxruntime.InferenceSession, pictures: list[Image.Image]) -> npt.NDArray[np.float32]:
    out = []
    for start in range(0, len(pictures), 16):
        inputs = [picture_input(np.asarray(p), EFFICIENTNET_PREPROCESS) for p in pictures[start : start + 16]]
        out.append(session.run(None, {"pixels": np.stack(inputs)})[0])
    return np.concatenate(out)


if __name__ == "__main__":
    main()
