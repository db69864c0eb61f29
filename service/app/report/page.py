"""The report as one page that needs nothing else: no script, no other host. Every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan

from index_store.types import Id
from service.app.report.gates import GateResult
from service.app.report.page_style import STYLE
from service.app.report.plots import distance_plot, moves_plot, overlap_plot
from service.app.report.reports import FoundReport
from service.app.report.result import Agreement, ChangedQuery, Report, ShownHit

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What the page may load, as Content-Security-Policy: nothing."""
_OPEN = 5
"""Queries whose answers are shown without a click."""
_IDS_CHARS_MAX = 400


def report_page(found: FoundReport) -> str:
    """Return the page as HTML."""
    report = found.report
    sections = [
        _head(found),
        gates_section(found.gates),
        _plots(report),
        _tables(report),
        _quality(report),
        _ids(report),
        changed_section(report.changed),
        _timing(report),
    ]
    return framed_page(f"{report.collection}: what a switch would change", sections)


def framed_page(title: str, sections: Sequence[str]) -> str:
    """Return a page of these sections, which are HTML. title: as text."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main></body></html>\n"
    )


def _head(found: FoundReport) -> str:
    report = found.report
    sides = "".join(
        f"<div><dt>{name}</dt><dd><b>{escape(side.embedding_version)}</b> "
        f"<span>{escape(side.generation)} · {side.live:,} live · seq {side.seq:,}</span></dd></div>"
        for name, side in (("before", report.before), ("after", report.after))
    )
    stale = (
        '<p class="note">Something was written since this report was made. <code>report --fresh</code> '
        "makes it again.</p>"
        if found.is_stale
        else ""
    )
    changes = ", ".join(f"{name} = {value}" for name, value in report.rehearsed.items())
    rehearsed = f'<p class="note">A rehearsal: after is the same generation with {escape(changes)}.</p>'
    skipped = f" · skipped: {_counts(report.skipped)}" if report.skipped else ""
    return (
        f"<header><h1>{escape(report.collection)}</h1><dl class='sides'>{sides}</dl>"
        f'<p class="quiet">{_counts(report.sources) or "no queries"}{skipped} · made '
        f"{escape(report.timing.made_at)}</p>{stale}{rehearsed if changes else ''}</header>"
    )


def gates_section(gates: Sequence[GateResult]) -> str:
    """Return the gates as HTML, each with its value and limit."""
    broken = sum(not gate.holds for gate in gates)
    verdict = f"{broken} of {len(gates)} gates do not hold" if broken else "All gates hold"
    cards = "".join(
        f'<li class="{_state(gate)}"><span class="mark">{_mark(gate)}</span>'
        f"<b>{escape(gate.name)}</b><span class='figure'>{_value(gate.value)}</span>"
        f"<span class='quiet'>limit {_limit(gate)}"
        f"{' · ' + escape(gate.kind) if gate.kind else ''}</span></li>"
        for gate in gates
    )
    return f'<section><h2>{verdict}</h2><ul class="gates">{cards}</ul></section>'


def _state(gate: GateResult) -> str:
    return "unknown" if gate.value is None else "holds" if gate.holds else "broken"


def _limit(gate: GateResult) -> str:
    return "off" if gate.name.endswith("_min") and not gate.limit else _value(gate.limit)


def _mark(gate: GateResult) -> str:
    if gate.value is None:
        return "– not measured"
    return "✓ holds" if gate.holds else "✕ broken"


def _plots(report: Report) -> str:
    if report.overall is None:
        return '<section><p class="quiet">No query could be put to both generations.</p></section>'
    plots = (
        (
            "Overlap of the first ten",
            "queries, from no result in common to all",
            overlap_plot(report.overlap_histogram),
        ),
        ("Where the first ten went", "share of the results of before", moves_plot(report.rank_moves)),
        ("Distances", "5 to 95 % as a line, the middle half as a box", distance_plot(report.distances)),
    )
    figures = "".join(
        f"<figure><figcaption><b>{name}</b> <span class='quiet'>{what}</span></figcaption>{plot}</figure>"
        for name, what, plot in plots
    )
    return f'<section class="plots">{figures}</section>'


def _tables(report: Report) -> str:
    if report.overall is None:
        return ""
    rows = [_agreement_row("all", report.overall, "sum")]
    rows += [_agreement_row(name, row, "") for name, row in report.by_kind.items()]
    if report.by_language:
        rows.append('<tr class="break"><th colspan="8">texts by language</th></tr>')
        rows += [_agreement_row(name, row, "") for name, row in report.by_language.items()]
    head = "".join(
        f"<th>{name}</th>"
        for name in ("queries", "overlap@1", "@10", "@25", "RBO", "empty before", "empty after")
    )
    return (
        f'<section><h2>Agreement</h2><div class="wide"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _agreement_row(name: str, row: Agreement, kind: str) -> str:
    shares = (row.overlap_at_1, row.overlap_at_10, row.overlap_at_25, row.rbo)
    cells = "".join(f'<td><meter value="{share}"></meter>{share:.3f}</td>' for share in shares)
    new = f" <b>(+{row.zero_new} new)</b>" if row.zero_new else ""
    return (
        f'<tr class="{kind}"><th>{escape(name)}</th><td>{row.queries:,}</td>{cells}'
        f"<td>{row.zero_before:,}</td><td>{row.zero_after:,}{new}</td></tr>"
    )


def _quality(report: Report) -> str:
    rows = [
        (f"own content finds its item: {kind} ({found.items})", found.found_before, found.found_after)
        for kind, found in report.known_items.items()
    ]
    if report.judged is not None:
        judged = report.judged
        rows += [
            (f"nDCG@10 ({judged.queries} judged)", judged.ndcg_at_10_before, judged.ndcg_at_10_after),
            ("recall@10", judged.recall_at_10_before, judged.recall_at_10_after),
        ]
    if not rows:
        return ""
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{before:.3f}</td><td>{after:.3f}</td>"
        f'<td class="{trend(after - before)}">{after - before:+.3f}</td></tr>'
        for name, before, after in rows
    )
    return (
        '<section><h2>Quality</h2><div class="wide"><table><thead><tr><th></th><th>before</th><th>after</th>'
        f"<th>change</th></tr></thead><tbody>{cells}</tbody></table></div></section>"
    )


def trend(change: float) -> str:
    """Return the class of a figure by whether it became better."""
    return "worse" if change < 0 else "better" if change > 0 else ""


def _ids(report: Report) -> str:
    shown = report.shown_ids
    lost = _examples(shown.lost_examples, shown.lost)
    gained = _examples(shown.gained_examples, shown.gained)
    empty = "".join(f"<li>{escape(label)}</li>" for label in report.zero_new)
    return (
        f"<section><h2>Ids among the first ten</h2><p>{shown.before:,} before, {shown.after:,} after: "
        f"<b>{shown.lost:,} lost</b>, <b>{shown.gained:,} gained</b></p>"
        + (f'<p class="quiet">lost: {escape(lost)}</p>' if lost else "")
        + (f'<p class="quiet">gained: {escape(gained)}</p>' if gained else "")
        + (f"<h3>Queries that find nothing any more</h3><ul class='empty'>{empty}</ul>" if empty else "")
        + "</section>"
    )


def _examples(ids: Sequence[Id], count: int) -> str:
    listed = ", ".join(map(str, ids))[:_IDS_CHARS_MAX]
    return f"{listed} …" if count > len(ids) else listed


def changed_section(queries: Sequence[ChangedQuery]) -> str:
    """Return queries with both answers as HTML; nothing without any."""
    if not queries:
        return ""
    shown = "".join(_changed_query(query, is_open=place < _OPEN) for place, query in enumerate(queries))
    return f"<section><h2>Queries that changed most</h2>{shown}</section>"


def _changed_query(query: ChangedQuery, *, is_open: bool) -> str:
    facts = [
        query.kind,
        query.language or "",
        f"overlap@10 {query.overlap_at_10:.1f}",
        f"RBO {query.rbo:.2f}",
    ]
    summary = " · ".join(escape(fact) for fact in facts if fact)
    return (
        f"<details{' open' if is_open else ''}><summary><b>{escape(query.label)}</b> "
        f'<span class="quiet">{summary}</span></summary><div class="pair">'
        f"{_answer('before', query.before)}{_answer('after', query.after)}</div></details>"
    )


def _answer(name: str, hits: Sequence[ShownHit]) -> str:
    rows = "".join(_hit(name, rank, hit) for rank, hit in enumerate(hits, start=1))
    return f"<div><h4>{name}</h4><ol>{rows or '<li class=quiet>nothing</li>'}</ol></div>"


def _hit(name: str, rank: int, hit: ShownHit) -> str:
    if hit.other_rank is None:
        kind, note = "only", "gone" if name == "before" else "new"
    else:
        kind = "moved"
        note = "=" if hit.other_rank == rank else f"{'now' if name == 'before' else 'was'} {hit.other_rank}"
    distance = "" if isnan(hit.distance) else f"{hit.distance:.4g} · "  # words alone have none
    title = f"<span class='title'>{escape(hit.title)}</span>" if hit.title else ""
    return (
        f'<li class="{kind}"><span class="id">{escape(str(hit.id))}</span>{title}'
        f"<span class='quiet'>{distance}{note}</span></li>"
    )


def _timing(report: Report) -> str:
    timing = report.timing
    if timing.before_ms is None or timing.after_ms is None:
        return ""
    spread = "".join(
        f"<tr><th>{name}</th><td>{each.p50:.2f}</td><td>{each.p75:.2f}</td><td>{each.p95:.2f}</td></tr>"
        for name, each in (("before", timing.before_ms), ("after", timing.after_ms))
    )
    slow = "".join(
        f"<tr><th>{escape(each.label)}</th><td>{each.before_ms:.2f}</td><td>{each.after_ms:.2f}</td></tr>"
        for each in timing.slowest
    )
    return (
        '<section><h2>Time in the index, ms</h2><p class="quiet">Without embedding; made in '
        f"{timing.took_s:.1f} s, "
        'one query at a time beside searches.</p><div class="pair"><table><thead><tr><th></th><th>50 %</th>'
        f"<th>75 %</th><th>95 %</th></tr></thead><tbody>{spread}</tbody></table>"
        '<table class="slow"><thead><tr><th>slowest</th><th>before</th><th>after</th></tr></thead>'
        f"<tbody>{slow}"
        "</tbody></table></div></section>"
    )


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {escape(name.replace('_', ' '))}" for name, count in counts.items())
