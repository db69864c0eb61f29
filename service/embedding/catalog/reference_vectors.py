"""Known answers that lie beside a model: contents and the vectors that its reference gave for them.

They are made once, when a model is turned into another form, and asked again each time it is opened: a
library, a processor or a file that computes something else is noticed before the first query.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from service.embedding.manifest import BadModelDirectory
from service.embedding.port import Embedder, ImageEmbedder, Modality, Pixels, Role, TextEmbedder

SAMPLES = "samples.json"
AT_START = 3
"""Samples of a kind that are asked when a model is opened; a conversion asks all of them."""
TEXTS: tuple[tuple[Role, str], ...] = (
    ("query", "매운 국물이 있는 찌개"),
    ("document", "소고기 미역국: 소고기를 넣고 끓인 맑은 국물 소고기, 미역, 국간장, 마늘"),
    ("query", "a bowl of spicy soup"),
    ("query", "떡뽁이"),
    ("document", "2～3인분 순살 치킨 500g!! &amp; “세일”"),
    ("query", "ㅋㅋㅋ"),
    ("document", "🍜 라면"),
    ("document", "된장찌개 두부와 애호박 " * 80),
)
_SEED = 5
_SHAPES = ((96, 96), (64, 150), (130, 48), (40, 40))


@dataclass(frozen=True, slots=True)
class Samples:
    """role is empty for pictures, which are (height, width, 3) bytes in base64. cosine_min: what a vector
    must agree to with the stored one."""

    cosine_min: float
    roles: list[Role]
    texts: list[str]
    text_vectors: list[list[float]]
    shapes: list[tuple[int, int]]
    pictures: list[str]
    picture_vectors: list[list[float]]


def ask(texts: TextEmbedder | None, images: ImageEmbedder | None, cosine_min: float) -> Samples:
    """Return what the reference answers to every sample content."""
    vectors = [] if texts is None else [texts.embed([t], role).vectors[0].tolist() for role, t in TEXTS]
    pictures = _pictures() if images is not None else []
    answers = [] if images is None else [images.embed([p], "document").vectors[0].tolist() for p in pictures]
    return Samples(
        cosine_min=cosine_min,
        roles=[role for role, _ in TEXTS] if texts else [],
        texts=[text for _, text in TEXTS] if texts else [],
        text_vectors=vectors,
        shapes=[(p.shape[0], p.shape[1]) for p in pictures],
        pictures=[base64.b64encode(p.tobytes()).decode() for p in pictures],
        picture_vectors=answers,
    )


def write_samples(directory: Path, samples: Samples) -> None:
    """Write the samples into a model's directory. Raises OSError."""
    text = json.dumps(asdict(samples), ensure_ascii=False)
    (directory / SAMPLES).write_text(text + "\n", "utf-8")


def read_samples(directory: Path) -> Samples | None:
    """Return the samples in `directory`; None when it has none. Raises BadModelDirectory."""
    path = directory / SAMPLES
    if not path.is_file():
        return None
    try:
        return Samples(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as exc:
        raise BadModelDirectory(f"{path} can't be read: {exc}.") from exc


def check_samples(
    samples: Samples, modality: Modality, embedder: Embedder[Any], most: int | None = None
) -> float:
    """Return the lowest cosine between stored and computed vectors of `modality`, 1 where there are none.

    most: look at so many samples only. Raises BadModelDirectory.
    """
    lowest = 1.0
    for place, (content, role, stored) in enumerate(islice(_rows(samples, modality), most)):
        (found,) = embedder.embed([content], role).vectors
        one, other = np.asarray(found, np.float64), np.asarray(stored, np.float64)
        cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
        if not cosine >= samples.cosine_min:  # also for NaN
            kind = "text" if modality == "text" else "picture"
            raise BadModelDirectory(
                f"{embedder.info.name} does not compute what its reference did: stored {kind} sample {place} "
                f"agrees to cosine {cosine:.5f}, at least {samples.cosine_min} must; its vectors would not "
                "fit the index."
            )
        lowest = min(lowest, cosine)
    return lowest


def _rows(samples: Samples, modality: Modality) -> Iterator[tuple[Any, Role, Sequence[float]]]:
    """Yield each content as a model reads it, its role and the vector stored."""
    if modality == "text":
        yield from zip(samples.texts, samples.roles, samples.text_vectors, strict=True)
        return
    pictures = zip(samples.shapes, samples.pictures, samples.picture_vectors, strict=True)
    for (height, width), raw, vector in pictures:
        yield np.frombuffer(base64.b64decode(raw), np.uint8).reshape(height, width, 3), "document", vector


def _pictures() -> list[Pixels]:
    """Coarse coloured noise in several shapes: real pictures have areas, white noise has none."""
    rng = np.random.default_rng(_SEED)
    found = []
    for height, width in _SHAPES:
        coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
        found.append(coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width].copy())
    return found
