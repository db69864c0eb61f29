"""How good the answers to picture queries are: pictures changed or redrawn, for bench_quality."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.embedding_service import Row, Served, picture_bodies
from benchmarks.http_load import one_by_one, post
from benchmarks.picture_changes import near_duplicate_jpeg
from benchmarks.quality_index import OFF_MAX, K, Places, Vectors, by_index, nearest, table, worst_off
from service.embedding.catalog.loader import load_embedder
from service.embedding.port import Encoding
from service.embedding.serving.encoders import queued_pictures
from service.errors import InvalidImage

MODELS = (
    "builtin:efficientnet-lite0-views",
    "builtin:efficientnet-lite0",
    "builtin:descriptor",
    "builtin:placeholder",
)
SEED = 11
VIEWS_R1_MIN = 0.94
BOUNDARY = "a-boundary-that-no-picture-holds"
FLAT, SOLID = ("noto", "twemoji"), ("fluent3d",)


@dataclass(frozen=True, slots=True)
class Picture:
    """One JPEG file, what it shows, and who drew it."""

    file: bytes
    item: str
    source: str


def judged(pictures: Sequence[Picture], models_dir: Path, tables: list[str]) -> Iterator[Row]:
    """Yield what must hold of each embedder; the table goes to `tables`."""
    rng = np.random.default_rng(SEED)
    changed = [near_duplicate_jpeg(Image.open(io.BytesIO(p.file)).convert("RGB"), rng) for p in pictures]
    lines = []
    for ref in MODELS:
        name = ref.removeprefix("builtin:")
        base, queries = asyncio.run(_vectors(ref, models_dir, [p.file for p in pictures], changed))
        exact = _shares(nearest(queries, base))
        index = _shares(by_index(queries, base))
        upload = _shares(_by_upload(ref, models_dir, [p.file for p in pictures], changed))
        off = worst_off([*(index - exact), *(upload - exact)])
        said = f"R@1, R@{K} exact {_both(exact)}; index {_both(index)}; upload {_both(upload)}"
        yield Row(f"{name}, near-duplicate: index and upload off", off, OFF_MAX, detail=said)
        if ref == MODELS[0] and any(p.source in SOLID for p in pictures):  # the demo's are drawn alike
            yield Row(f"{name}, near-duplicate: R@1 by upload", float(upload[0]), VIEWS_R1_MIN, True)
        lines.append((name, _both(exact), _both(index), _both(upload), _redrawn(pictures, base)))
    tables.append(
        table((f"R@1 / R@{K}", "near-duplicate, exact", "index", "upload", "cross-rendering"), lines)
    )


def _both(shares: Sequence[float] | Vectors) -> str:
    return f"{shares[0]:.3f} / {shares[1]:.3f}"


def _shares(answers: Places) -> Vectors:
    """How many find their own picture first, and among K: query n is a change of picture n."""
    own = answers == np.arange(len(answers))[:, None]
    return np.array([own[:, 0].mean(), own.any(axis=1).mean()])


def _redrawn(pictures: Sequence[Picture], base: Vectors) -> str:
    """Flat drawings that find the 3D rendering of the same thing, among all of those."""
    items, sources = np.array([p.item for p in pictures]), np.array([p.source for p in pictures])
    flat, solid = np.flatnonzero(np.isin(sources, FLAT)), np.flatnonzero(np.isin(sources, SOLID))
    if not len(flat) or not len(solid):
        return "–"
    same = items[solid][nearest(base[flat], base[solid])] == items[flat][:, None]
    return _both([float(same[:, 0].mean()), float(same.any(axis=1).mean())])


async def _vectors(
    ref: str, models_dir: Path, files: Sequence[bytes], changed: Sequence[bytes]
) -> tuple[Vectors, Vectors]:
    encoder = queued_pictures(load_embedder(ref, "image", models_dir=models_dir, dim=512, threads=1))
    encoder.start()
    try:
        base = _whole(await encoder.embed_documents(files))
        return base, _whole(await encoder.embed_documents(changed))
    finally:
        encoder.close()


def _whole(found: list[Encoding | InvalidImage]) -> Vectors:
    refused = [v for v in found if isinstance(v, InvalidImage)]
    if refused:
        raise refused[0]
    return np.stack([v.vector for v in found if not isinstance(v, InvalidImage)])


def _by_upload(ref: str, models_dir: Path, files: Sequence[bytes], changed: Sequence[bytes]) -> Places:
    """Write the pictures to a service, upload the changed ones, and return the places of its answers."""
    with (
        tempfile.TemporaryDirectory() as work,
        Served(
            Path(work) / "data", models_dir, IMAGE_MODEL=ref, TEXT_MODEL="builtin:hashed-ngrams"
        ) as service,
    ):
        service.fill(picture_bodies(files, 200))
        requests = [_upload(file) for file in changed]
        answers = [json.loads(body) for _, body in one_by_one(service.port, requests)]
    return np.array([[int(hit["product_id"].removeprefix("p")) for hit in each] for each in answers])


def _upload(file: bytes) -> bytes:
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + file + f"\r\n--{BOUNDARY}--\r\n".encode()
    return post(f"/search_similar?top_k={K}", body, f"multipart/form-data; boundary={BOUNDARY}")
