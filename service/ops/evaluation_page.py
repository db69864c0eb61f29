"""An evaluation as one page, in the form of the report before a switch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from index_store.types import Id
from service.app.report.page import changed_section, framed_page, gates_section, trend
from service.app.report.queries import language_of
from service.app.report.ranking_metrics import ndcg_at, overlap_at, rank_biased_overlap
from service.app.report.reports import title_of
from service.app.report.result import ChangedQuery, ShownHit
from service.ops.evaluation import FIRST, MEASURES, Evaluation, Quality, ValueRange, ids_of
from service.ops.judgement_file import JudgedSearch

_CHANGED = 20
_HEADS = ("nDCG@10", "recall@10", "MRR@10", "no result")


def evaluation_page(found: Evaluation) -> str:
    """Return the page as HTML."""
    sections = [_head(found), gates_section(found.gates) if found.gates else "", _table(found)]
    return framed_page(f"{found.collection}: how good its answers are", [*sections, _changed(found)])


def _head(found: Evaluation) -> str:
    sides = [("searched", found.setting)] if found.against is None else []
    if found.against is not None:
        sides = [("before", found.against), ("after", found.setting)]
    shown = "".join(f"<div><dt>{name}</dt><dd><b>{escape(each.label)}</b></dd></div>" for name, each in sides)
    clicks = (
        f'<p class="note">Grades from {found.file.clicks:,} clicks, weighed by rank: what was never shown '
        "counts as wrong, so the setting under which they were gathered is favoured.</p>"
        if found.file.clicks
        else ""
    )
    return (
        f"<header><h1>{escape(found.collection)}</h1><dl class='sides'>{shown}</dl>"
        f'<p class="quiet">{len(found.file.searches):,} judged queries</p>{clicks}</header>'
    )


def _table(found: Evaluation) -> str:
    head = "".join(f"<th>{name}</th>" for name in _HEADS)
    rows = "".join(_row(row, "sum" if row is found.rows[0] else "") for row in found.rows)
    return (
        '<section><h2>Quality</h2><p class="quiet">Means, and where 95 % of the means of drawn samples lie.'
        "</p>"
        f'<div class="wide"><table><thead><tr><th></th><th>queries</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(row: Quality, kind: str) -> str:
    cells = "".join(f"<td>{_cell(row, measure)}</td>" for measure in MEASURES)
    return f'<tr class="{kind}"><th>{escape(row.name)}</th><td>{row.queries:,}</td>{cells}</tr>'


def _cell(row: Quality, measure: str) -> str:
    own = row.measured[measure]
    shown = f"{own.mean:.3f} <span class='quiet'>{own.low:.3f} to {own.high:.3f}</span>"
    if row.against is None or row.change is None:
        return shown
    change = row.change[measure]
    worth = -change.mean if measure == "zero_results" else change.mean
    return f"{shown}<br><span class='{trend(worth)}'>{_signed(change)}</span>"


def _signed(change: ValueRange) -> str:
    return f"{change.mean:+.3f} <span class='quiet'>{change.low:+.3f} to {change.high:+.3f}</span>"


def _changed(found: Evaluation) -> str:
    """Of two settings, the queries whose nDCG differs most, side by side; of one, those answered worst."""
    after = [_ndcg(found, place, found.hits) for place in range(len(found.hits))]
    if found.against_hits is None:
        worst = sorted((ndcg, place) for place, ndcg in enumerate(after) if ndcg < 1)[:_CHANGED]
        rows = "".join(f"<li>{escape(found.file.searches[place].query)} · {n:.2f}</li>" for n, place in worst)
        return f"<section><h2>Answered worst</h2><ul class='empty'>{rows}</ul></section>" if rows else ""
    before = [_ndcg(found, place, found.against_hits) for place in range(len(found.hits))]
    moved = [place for place in range(len(after)) if before[place] != after[place]]
    moved.sort(key=lambda place: -abs(after[place] - before[place]))
    return changed_section(
        [
            _side_by_side(
                found.file.searches[place],
                f"nDCG@10 {before[place]:.2f} to {after[place]:.2f}",
                found.id_field,
                found.against_hits[place],
                found.hits[place],
            )
            for place in moved[:_CHANGED]
        ]
    )


def _ndcg(found: Evaluation, place: int, hits: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    return ndcg_at(FIRST, ids_of(hits[place], found.id_field), found.file.searches[place].grades)


def _side_by_side(
    search: JudgedSearch,
    moved: str,
    id_field: str,
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
) -> ChangedQuery:
    first, second = (ids_of(hits, id_field) for hits in (before, after))
    return ChangedQuery(
        search.query,
        " · ".join(filter(None, (search.kind, moved))),
        search.language or language_of(search.query),
        overlap_at(FIRST, first, second),
        rank_biased_overlap(first, second),
        _shown(first, before, second),
        _shown(second, after, first),
    )


def _shown(ids: Sequence[Id], hits: Sequence[Mapping[str, Any]], others: Sequence[Id]) -> list[ShownHit]:
    ranks = {id: rank for rank, id in enumerate(others, start=1)}
    return [
        ShownHit(id, float(hit.get("distance", math.nan)), title_of(hit.get("metadata")), ranks.get(id))
        for id, hit in zip(ids, hits, strict=True)
    ]
