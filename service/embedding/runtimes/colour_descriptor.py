"""A picture as 512 hand-made values: 77 of colour, 288 of edges, 147 of layout."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.embedding.port import Pixels

DESCRIPTOR_DIM = 512
_SIDE, _CELLS, _TURNS, _GRID = 96, 6, 8, 7
_HUES, _STEPS, _GREYS = 8, 3, 5
_GREY_BELOW = 32  # a saturation under which the hue means nothing
_SHARES = (1.0, 1.0, 1.0)  # weight of colours, edges, layout


def describe(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return (512,) float32, unit length."""
    image = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    parts = (_colours(image), _edges(image), _layout(image))
    scaled = [share * _unit(part) for share, part in zip(_SHARES, parts, strict=True)]
    return _unit(np.concatenate(scaled)).astype(np.float32)


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(values)
    return values / length if length > 0 else values


def _colours(image: Image.Image) -> npt.NDArray[np.float64]:
    """Shares of hue x saturation x brightness (72) and of grey steps (5), as roots so small ones count."""
    hue, saturation, value = (np.asarray(b).astype(np.int64).ravel() for b in image.convert("HSV").split())
    grey = saturation < _GREY_BELOW
    cell = (hue * _HUES // 256 * _STEPS + saturation * _STEPS // 256) * _STEPS + value * _STEPS // 256
    coloured = np.bincount(cell[~grey], minlength=_HUES * _STEPS * _STEPS)
    greys = np.bincount(value[grey] * _GREYS // 256, minlength=_GREYS)
    return np.sqrt(np.concatenate([coloured, greys]) / hue.size)


def _edges(image: Image.Image) -> npt.NDArray[np.float64]:
    """Histograms of edge directions, 8 in each of 6 x 6 cells, each cell to length one at most."""
    grey = np.asarray(image.convert("L"), np.float64) / 255
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    turn = (np.mod(np.arctan2(down, right), np.pi) / np.pi * _TURNS).astype(np.int64) % _TURNS
    row, column = np.indices(grey.shape) * _CELLS // _SIDE
    place = ((row * _CELLS + column) * _TURNS + turn).ravel()
    sums = np.bincount(place, strength.ravel(), minlength=_CELLS * _CELLS * _TURNS)
    cells = sums.reshape(-1, _TURNS)
    normed: npt.NDArray[np.float64] = cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 1.0)
    return normed.ravel()


def _layout(image: Image.Image) -> npt.NDArray[np.float64]:
    """Mean colours of 7 x 7 fields, less the overall mean."""
    small = np.asarray(image.resize((_GRID, _GRID), Image.Resampling.BOX), np.float64) / 255
    centred: npt.NDArray[np.float64] = small - small.mean(axis=(0, 1))
    return centred.ravel()
