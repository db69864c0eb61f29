"""Pixels to the float array that a picture model reads: the same for building, serving and fitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.embedding.port import Pixels

DECODE_LABEL = "pil-draft448-reduce-exif-white"  # embedding.pictures: how it reduces changes vectors a little

LONG_MAX = 4


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Shorter edge to `side` (bicubic, as torchvision does on PIL), centre crop, (x/255 - mean) / std."""

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def parts(self) -> dict[str, Any]:
        """What a manifest and a fingerprint record of it."""
        return {
            "resize": "shorter-edge-bicubic", "crop": "centre", "decode": DECODE_LABEL,
            "side": self.side, "mean": list(self.mean), "std": list(self.std),
        }  # fmt: skip

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> Preprocess:
        """Return the preprocessing that a manifest records. Raises KeyError where a part is missing."""
        mean, std = parts["mean"], parts["std"]
        return cls(int(parts["side"]), (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def picture_input(pixels: Pixels, how: Preprocess) -> npt.NDArray[np.float32]:
    """Return (3, side, side) float32, contiguous."""
    return normalised(whole_view(pixels, how.side), how)


def normalised(view: Pixels, how: Preprocess) -> npt.NDArray[np.float32]:
    """Return what a model reads of a view of `how.side`: (3, side, side) float32, contiguous."""
    scale = np.float32(1) / (np.float32(255) * np.asarray(how.std, np.float32))
    shift = np.asarray(how.mean, np.float32) / np.asarray(how.std, np.float32)
    return np.ascontiguousarray((view.astype(np.float32) * scale - shift).transpose(2, 0, 1))


def whole_view(pixels: Pixels, side: int) -> Pixels:
    """Return the centre of a picture, its shorter edge brought to `side`: (side, side, 3)."""
    pixels = central(pixels)
    height, width = pixels.shape[:2]
    if height <= width:
        size = (max(side, int(side * width / height)), side)
    else:
        size = (side, max(side, int(side * height / width)))
    image = Image.fromarray(pixels)
    if size != (width, height):
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(image)[top : top + side, left : left + side]


def central(pixels: Pixels) -> Pixels:
    """Cut what the centre crop would drop anyway off very long pictures, before they are enlarged."""
    height, width = pixels.shape[:2]
    span = LONG_MAX * min(height, width)
    if max(height, width) <= span:
        return pixels
    top, left = max(0, (height - span) // 2), max(0, (width - span) // 2)
    return pixels[top : top + span, left : left + span]
