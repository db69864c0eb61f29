"""The plots of a report's page, as SVG: no script, no host. Every text is escaped; colours are the page's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from service.app.report.result import DistanceShift, Percentiles, RankMoves

_MOVES = (
    ("up", "up"),
    ("same", "same rank"),
    ("down_1_to_3", "down 1 to 3"),
    ("down_4_to_9", "down 4 to 9"),
    ("down_10_or_more", "down 10 or more"),
    ("left", "not in 25 any more"),
)
_WIDTH, _LEFT, _BAR, _GAP = 460, 150, 18, 10
_HISTOGRAM_HEIGHT, _BASE = 150, 24


def overlap_plot(counts: Sequence[int]) -> str:
    """Return queries by overlap@10; counts: eleven, from 0 to 1."""
    most = max(counts, default=0) or 1
    step = _WIDTH / len(counts)
    bars = []
    for tenth, count in enumerate(counts):
        height = (_HISTOGRAM_HEIGHT - 2 * _BASE) * count / most
        left, top = tenth * step + 3, _HISTOGRAM_HEIGHT - _BASE - height
        label = (
            f'<text x="{left + step / 2 - 3:.1f}" y="{top - 4:.1f}" class="n">{count}</text>' if count else ""
        )
        bars.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{step - 6:.1f}" height="{height:.1f}" rx="2" '
            f'class="bar"><title>overlap {tenth / 10:.1f}: {count} queries</title></rect>{label}'
            f'<text x="{left + step / 2 - 3:.1f}" y="{_HISTOGRAM_HEIGHT - 8}" class="tick">'
            f"{tenth / 10:.1f}</text>"
        )
    line = _HISTOGRAM_HEIGHT - _BASE
    return _svg(
        _HISTOGRAM_HEIGHT,
        "Queries by overlap of their first ten results",
        f'<line x1="0" x2="{_WIDTH}" y1="{line}" y2="{line}" class="axis"/>{"".join(bars)}',
    )


def moves_plot(moves: RankMoves) -> str:
    """Return where the first ten of before stand after, as bars."""
    counts = [(label, int(getattr(moves, name))) for name, label in _MOVES]
    total = sum(count for _, count in counts) or 1
    room = _WIDTH - _LEFT - 60
    rows = []
    for place, (label, count) in enumerate(counts):
        top = place * (_BAR + _GAP)
        width = room * count / total
        rows.append(
            f'<text x="{_LEFT - 8}" y="{top + 14}" class="label">{escape(label)}</text>'
            f'<rect x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2" class="bar"/>'
            f'<text x="{_LEFT + width + 6:.1f}" y="{top + 14}" class="value">{count / total:.0%}</text>'
        )
    return _svg(len(counts) * (_BAR + _GAP), "Where the first ten of before stand after", "".join(rows))


def distance_plot(shift: DistanceShift) -> str:
    """Return the spread of distances before and after: 5 to 95 % as a line, the middle half as a box."""
    rows = [
        ("first, before", "before", shift.first_before),
        ("first, after", "after", shift.first_after),
        ("tenth, before", "before", shift.tenth_before),
        ("tenth, after", "after", shift.tenth_after),
    ]
    known = [spread for _, _, spread in rows if spread is not None]
    if not known:
        return '<p class="quiet">No query found anything.</p>'
    low, high = min(each.p5 for each in known), max(each.p95 for each in known)
    span = (high - low) or 1.0
    drawn = []
    for place, (label, side, spread) in enumerate(rows):
        top = place * (_BAR + _GAP)
        drawn.append(f'<text x="{_LEFT - 8}" y="{top + 14}" class="label">{label}</text>')
        if spread is not None:
            drawn.append(_box(spread, side, top, low, span))
    bottom = len(rows) * (_BAR + _GAP) + 4
    drawn.append(
        f'<text x="{_LEFT}" y="{bottom + 10}" class="tick start">{low:.3g}</text>'
        f'<text x="{_WIDTH - 8}" y="{bottom + 10}" class="tick end">{high:.3g}</text>'
    )
    return _svg(bottom + 16, "Distances of the first and the tenth result", "".join(drawn))


def _box(spread: Percentiles, side: str, top: float, low: float, span: float) -> str:
    def at(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 8) * (value - low) / span

    middle = top + _BAR / 2
    told = f"{spread.p5:.4g} · {spread.p25:.4g} · {spread.p50:.4g} · {spread.p75:.4g} · {spread.p95:.4g}"
    return (
        f'<g class="{side}"><title>5, 25, 50, 75, 95 %: {told}</title>'
        f'<line x1="{at(spread.p5):.1f}" x2="{at(spread.p95):.1f}" y1="{middle}" y2="{middle}" '
        'class="whisker"/>'
        f'<rect x="{at(spread.p25):.1f}" y="{top}" width="{max(2.0, at(spread.p75) - at(spread.p25)):.1f}" '
        f'height="{_BAR}" rx="2" class="box"/>'
        f'<line x1="{at(spread.p50):.1f}" x2="{at(spread.p50):.1f}" y1="{top}" y2="{top + _BAR}" '
        'class="median"/></g>'
    )


def _svg(height: float, title: str, inner: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{inner}</svg>'
