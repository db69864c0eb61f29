"""Recall/latency curves as an SVG, written by hand so that drawing needs no library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Curve = Sequence[tuple[float, float]]
"""(recall, microseconds)."""

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 760, 460, 70, 50, 40, 170
_COLOURS = ("#1f6fb4", "#d1571f", "#2f8f46", "#8a4fb0", "#555555")
_RECALLS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def draw(title: str, curves: Mapping[str, Curve]) -> str:
    """Return an SVG: recall on a scale that opens up towards 1, time logarithmic."""
    kept = {name: [(r, us) for r, us in curve if r >= _RECALLS[0]] for name, curve in curves.items()}
    times = [us for curve in kept.values() for _, us in curve] or [1.0, 10.0]
    low, high = math.log(min(times) * 0.9), math.log(max(times) * 1.1)

    def x(recall: float) -> float:
        far = -math.log10(max(1 - recall, 4e-4))
        near = -math.log10(1 - _RECALLS[0])
        return _LEFT + (far - near) / (-math.log10(4e-4) - near) * (_WIDTH - _LEFT - _RIGHT)

    def y(us: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log(us) - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{title}</text>',
    ]
    for recall in _RECALLS:
        parts.append(_line(x(recall), _TOP, x(recall), _HEIGHT - _BOTTOM, "#dddddd"))
        parts.append(f'<text x="{x(recall):.0f}" y="{_HEIGHT - 32}" text-anchor="middle">{recall}</text>')
    for us in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000):
        if low <= math.log(us) <= high:
            parts.append(_line(_LEFT, y(us), _WIDTH - _RIGHT, y(us), "#dddddd"))
            parts.append(f'<text x="{_LEFT - 6}" y="{y(us) + 4:.0f}" text-anchor="end">{us} µs</text>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 10}">recall (right is better; down is faster)</text>')
    for number, (name, curve) in enumerate(kept.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(r):.1f},{y(us):.1f}" for r, us in curve)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(r):.1f}" cy="{y(us):.1f}" r="3" fill="{colour}"/>' for r, us in curve]
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 10}" y="{_TOP + 18 * number + 10}" fill="{colour}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
