"""The second view of a picture: what stands on its ground, brought near.

Shops show goods small or large on white or another plain ground; a model that sees the ground as well takes
two sizes for two things.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from service.embedding.port import Pixels
from service.embedding.preprocess import central, whole_view

_GROUND_STEPS = 24  # of 255: how far a channel may be from the ground's
_EDGE_SHARE = 0.9  # of the picture's edge that must be of one colour; else the ground is white
_MARGIN = 0.12  # on each side, of the longer side of what is seen
_SAME = 0.98  # of the picture's longer side: a crop as large as that shows nothing new
_WHITE = (255, 255, 255)


def views_parts() -> dict[str, Any]:
    """What a manifest and a fingerprint record of `views_of`."""
    return {
        "seen": ["whole", "content"],
        "ground": _GROUND_STEPS,
        "edge": _EDGE_SHARE,
        "margin": _MARGIN,
        "same": _SAME,
    }


def views_of(pixels: Pixels, side: int) -> list[Pixels]:
    """Return the views of a picture, each (side, side, 3): the whole, and, where that shows something else,
    what stands on its ground, squared."""
    whole = whole_view(pixels, side)
    near = _content_view(central(pixels), side)
    return [whole] if near is None else [whole, near]


def _content_view(pixels: Pixels, side: int) -> Pixels | None:
    ground = _border_colour(pixels)
    box = _content_box(pixels, ground)
    if box is None:
        return None
    left, top, right, bottom = box
    height, width = pixels.shape[:2]
    length = round(max(right - left, bottom - top) * (1 + 2 * _MARGIN))
    if length >= _SAME * max(height, width):
        return None
    left, top = (left + right - length) // 2, (top + bottom - length) // 2
    # Brought to size before the ground is put around it: what stands outside the picture takes no memory.
    x, y = max(0, left), max(0, top)
    part = Image.fromarray(pixels[y : min(height, top + length), x : min(width, left + length)])
    scale = side / length
    size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
    view = Image.new("RGB", (side, side), ground)
    view.paste(
        part.resize(size, Image.Resampling.BICUBIC), (round((x - left) * scale), round((y - top) * scale))
    )
    return np.asarray(view)


def _border_colour(pixels: Pixels) -> tuple[int, int, int]:
    """Return the colour of the picture's edge, if nearly all of it has one."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(np.int16)
    middle = np.median(edge, axis=0).astype(np.int16)
    if (np.abs(edge - middle).max(axis=1) <= _GROUND_STEPS).mean() < _EDGE_SHARE:
        return _WHITE
    red, green, blue = middle.tolist()
    return red, green, blue


def _content_box(pixels: Pixels, ground: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of what is not ground; None where all is."""
    seen = np.zeros(pixels.shape[:2], np.bool_)
    for channel, level in enumerate(ground):
        seen |= pixels[..., channel] < level - _GROUND_STEPS
        if level + _GROUND_STEPS < 255:
            seen |= pixels[..., channel] > level + _GROUND_STEPS
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
