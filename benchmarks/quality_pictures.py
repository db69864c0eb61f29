"""How good the answers to picture queries are: pictures changed or redrawn, for bench_quality."""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.embedding_service import Row, Served, picture_bodies
from benchmarks.http_load import one_by_one, post
from benchmarks.picture_changes import at_one_scale_jpeg, near_duplicate_jpeg
from benchmarks.quality_index import (
    OFF_MAX,
    K,
    Places,
    Vectors,
    by_index,
    nearest,
    table,
    with_interval,
    worst_off,
)
from benchmarks.remembered_vectors import RememberingModels
from service.embedding.port import Encoding
from service.embedding.serving.encoders import queued_pictures
from service.errors import InvalidImage

SHIPPED = "builtin:efficientnet-lite0-views"
FORMER = "builtin:efficientnet-lite0"
"""Shipped before: no source of pictures may be found less than by that."""
MODELS = (SHIPPED, FORMER, "builtin:descriptor", "builtin:placeholder")
SEED = 11
VIEWS_R1_MIN = 0.94
NEAR_DUPLICATE_MIN, CROSS_RENDERING_MIN = 0.945, 0.58
BOUNDARY = "a-boundary-that-no-picture-holds"
FLAT, SOLID = ("noto", "twemoji"), ("fluent3d",)


@dataclass(frozen=True, slots=True)
class Picture:
    """One JPEG file, what it shows, and who drew it."""

    file: bytes
    item: str
    source: str


def judged(pictures: Sequence[Picture], models_dir: Path, tables: list[str]) -> Iterator[Row]:
    """Yield what must hold of each embedder; the tables go to `tables`."""
    rng = np.random.default_rng(SEED)
    files = [p.file for p in pictures]
    changed = [near_duplicate_jpeg(Image.open(io.BytesIO(p.file)).convert("RGB"), rng) for p in pictures]
    scaled = [at_one_scale_jpeg(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    lines = []
    found: dict[str, Found] = {}
    for ref in MODELS:
        name = ref.removeprefix("builtin:")
        base, queries, level = asyncio.run(_vectors(ref, models_dir, files, changed, scaled))
        answers = nearest(queries, base)
        exact, index = _shares(answers), _shares(by_index(queries, base))
        upload = _shares(_by_upload(ref, models_dir, files, changed))
        off = worst_off([*(index - exact), *(upload - exact)])
        said = f"R@1, R@{K} exact {_both(exact)}; index {_both(index)}; upload {_both(upload)}"
        yield Row(f"{name}, near-duplicate: index and upload off", off, OFF_MAX, detail=said)
        if ref == SHIPPED and any(p.source in SOLID for p in pictures):  # the demo's are drawn alike
            yield Row(f"{name}, near-duplicate: R@1 by upload", float(upload[0]), VIEWS_R1_MIN, True)
        found[ref] = Found(answers[:, 0] == np.arange(len(answers)), _redrawn(pictures, base))
        redrawn = _pair(found[ref].redrawn), _pair(_redrawn(pictures, level))
        lines.append((name, _both(exact), _both(index), _both(upload), *redrawn))
    yield from _limits(pictures, found)
    redrawn_heads = ("cross-rendering", "at one scale")
    tables.append(table((f"R@1 / R@{K}", "near-duplicate, exact", "index", "upload", *redrawn_heads), lines))
    tables.append(_by_source(pictures, found))


@dataclass(frozen=True, slots=True)
class Found:
    """What one embedder finds. own: (pictures,) whether a change of each finds it first. redrawn: (drawings,
    2) whether each finds its rendering first, and among K; none where there are no renderings."""

    own: npt.NDArray[np.bool_]
    redrawn: npt.NDArray[np.bool_]


def _limits(pictures: Sequence[Picture], found: Mapping[str, Found]) -> Iterator[Row]:
    """What the shipped embedder must reach, and that it falls behind the former one for no source."""
    shipped, name = found[SHIPPED], SHIPPED.removeprefix("builtin:")
    if not len(shipped.redrawn):
        return  # pictures of the demo are drawn alike
    said = with_interval(shipped.own)
    yield Row(f"{name}, near-duplicate: R@1", float(shipped.own.mean()), NEAR_DUPLICATE_MIN, True, said)
    reached = float(shipped.redrawn[:, 0].mean())
    said = with_interval(shipped.redrawn[:, 0])
    yield Row(f"{name}, cross-rendering: R@1", reached, CROSS_RENDERING_MIN, True, said)
    for source, places in _sources(pictures).items():
        lost = found[FORMER].own[places].astype(float) - shipped.own[places]
        label = f"{name}, near-duplicate of {source}: R@1 behind {FORMER.removeprefix('builtin:')}"
        yield Row(label, float(lost.mean()), 0.0, detail=with_interval(lost))


def _sources(pictures: Sequence[Picture]) -> dict[str, Places]:
    sources = np.array([p.source for p in pictures])
    return {source: np.flatnonzero(sources == source) for source in dict.fromkeys(sources.tolist())}


def _by_source(pictures: Sequence[Picture], found: Mapping[str, Found]) -> str:
    rows = [
        (source, str(len(places)), *(with_interval(each.own[places]) for each in found.values()))
        for source, places in _sources(pictures).items()
    ]
    names = (ref.removeprefix("builtin:") for ref in found)
    return table(("near-duplicate R@1 (95 %)", "pictures", *names), rows)


def _pair(redrawn: npt.NDArray[np.bool_]) -> str:
    return _both(redrawn.mean(axis=0)) if len(redrawn) else "–"


def _both(shares: Sequence[float] | Vectors) -> str:
    return f"{shares[0]:.3f} / {shares[1]:.3f}"


def _shares(answers: Places) -> Vectors:
    """How many find their own picture first, and among K: query n is a change of picture n."""
    own = answers == np.arange(len(answers))[:, None]
    return np.array([own[:, 0].mean(), own.any(axis=1).mean()])


def _redrawn(pictures: Sequence[Picture], base: Vectors) -> npt.NDArray[np.bool_]:
    """Of each flat drawing whether it finds the 3D rendering of the same thing first, and among K, out of all
    of those: (drawings, 2)."""
    items, sources = np.array([p.item for p in pictures]), np.array([p.source for p in pictures])
    flat, solid = np.flatnonzero(np.isin(sources, FLAT)), np.flatnonzero(np.isin(sources, SOLID))
    if not len(flat) or not len(solid):
        return np.empty((0, 2), np.bool_)
    same = items[solid][nearest(base[flat], base[solid])] == items[flat][:, None]
    return np.stack([same[:, 0], same.any(axis=1)], axis=1)


async def _vectors(ref: str, models_dir: Path, *batches: Sequence[bytes]) -> list[Vectors]:
    """Return the vectors of each batch of files."""
    model = RememberingModels(models_dir, threads=1, runtime="auto").load("image", ref, 512)
    encoder = queued_pictures(model)
    encoder.start()
    try:
        return [_whole(await encoder.embed_documents(files)) for files in batches]
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
