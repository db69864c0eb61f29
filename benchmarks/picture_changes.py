"""What happens to a product picture between two shops: cropped, turned, relit, compressed, shown at another
scale."""

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


_WHITE = 255 - 24
_SIDE, _SHOWN = 224, 0.8


def at_one_scale_jpeg(picture: Image.Image) -> bytes:
    """Return `picture` with what is not white in the middle, its longer side four fifths of a white square,
    as the bytes of a JPEG file: whatever scale it was shown at before."""
    pixels = np.asarray(picture)
    rows, columns = ((pixels < _WHITE).any(axis=2).any(axis=axis).nonzero()[0] for axis in (1, 0))
    whole = Image.new("RGB", (_SIDE, _SIDE), (255, 255, 255))
    if len(rows):
        cut = picture.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
        scale = _SHOWN * _SIDE / max(cut.size)
        size = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
        whole.paste(
            cut.resize(size, Image.Resampling.BICUBIC), ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2)
        )
    out = io.BytesIO()
    whole.save(out, "JPEG", quality=90)
    return out.getvalue()
