"""What happens to a product picture between two shops: cropped, turned, relit, compressed."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance


def near_duplicate(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return `picture` turned up to 8 degrees, cropped to 75-90 %, relit, through JPEG quality 30-60."""
    return Image.open(io.BytesIO(near_duplicate_jpeg(picture, rng))).convert("RGB")


def near_duplicate_jpeg(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """The same, as the bytes of the JPEG file."""
    width, height = picture.size
    turned = picture.rotate(rng.uniform(-8, 8), resample=Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    share = rng.uniform(0.75, 0.9)
    wide, high = int(width * share), int(height * share)
    left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
    cut = turned.crop((left, top, left + wide, top + high))
    lit = ImageEnhance.Brightness(cut).enhance(rng.uniform(0.8, 1.2))
    coloured = ImageEnhance.Color(lit).enhance(rng.uniform(0.8, 1.2))
    out = io.BytesIO()
    coloured.save(out, "JPEG", quality=int(rng.integers(30, 61)))
    return out.getvalue()
