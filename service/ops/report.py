"""`python -m service report`: what a switch would change, as lines, as JSON or as a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

EXIT_USAGE, EXIT_GATES = 2, 4
_CHANGED_SHOWN = 5
_COLUMNS = ("queries", "overlap_at_1", "overlap_at_10", "overlap_at_25", "rbo", "zero_before", "zero_after")
_HEADS = ("queries", "overlap@1", "@10", "@25", "RBO", "zero before", "after")


class OpsCalls(Protocol):
    """Calls of one running service, which raise what the program answers."""

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer's JSON."""

    def fetch(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, media_type: str = ""
    ) -> bytes:
        """Return the answer in `media_type`."""


def add_report(commands: Any) -> None:
    """Add the command. commands: as `ArgumentParser.add_subparsers` returns them."""
    report = commands.add_parser(
        "report", help="what a switch would change; exit code 4 while a gate does not hold"
    )
    report.add_argument("collection")
    report.add_argument("--generation", default="next", help="which one; default: %(default)s")
    report.add_argument("--fresh", action="store_true", help="make it again; else the stored one is shown")
    report.add_argument("--queries", type=Path, metavar="FILE", help="JSON lines, each a search")
    report.add_argument(
        "--judgements", type=Path, metavar="FILE", help='JSON lines: {"query": ..., "grades": {ID: GRADE}}'
    )
    report.add_argument(
        "--rehearse",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="compare with the same generation under exact=true, ef=N, max_distance=X or query_template=TEXT",
    )
    report.add_argument("--html", type=Path, metavar="FILE", help="write it as one page")
    report.add_argument("--json", action="store_true", help="print it as JSON")
    report.set_defaults(run=_report)


def _report(given: argparse.Namespace, calls: OpsCalls, _: Callable[[float], object]) -> int:
    path = f"/v1/collections/{quote(given.collection)}/generations/{quote(given.generation, safe='')}/report"
    try:
        body: dict[str, Any] = {"queries": _lines(given.queries), "judgements": _lines(given.judgements)}
        if given.rehearse:
            path = f"/v1/collections/{quote(given.collection)}/rehearsal"
            body["change"] = dict(map(_change, given.rehearse))
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return EXIT_USAGE
    is_fresh = given.fresh or given.queries or given.judgements or given.rehearse
    report = calls.call("POST", path, body) if is_fresh else calls.call("GET", path)
    if given.html:
        method, sent = ("POST", body) if given.rehearse else ("GET", None)
        given.html.write_bytes(calls.fetch(method, path, sent, "text/html"))
    if given.json:
        sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(report_lines(report)) + "\n")
    return 0 if report["holds"] else EXIT_GATES


def _change(text: str) -> tuple[str, Any]:
    """Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--rehearse {text}: must be NAME=VALUE")
    if name == "query_template":
        return name, value
    return name, json.loads(value)


def _lines(path: Path | None) -> list[Any]:
    """The objects of a file of JSON lines. Raises OSError, ValueError naming the line."""
    if path is None:
        return []
    found = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as exc:
            raise ValueError(f"{path}:{number} is no JSON: {exc}") from exc
    return found


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a report as lines of text: gates, tables, what changed most."""
    before, after = report["before"], report["after"]
    lines = [
        f"{report['collection']}: {before['embedding_version']} ({before['generation']}) -> "
        f"{after['embedding_version']} ({after['generation']})",
        f"queries: {_counts(report['sources']) or 'none'}"
        + (f"; skipped: {_counts(report['skipped'])}" if report["skipped"] else ""),
    ]
    if report["rehearsed"]:
        changes = ", ".join(f"{name}={value}" for name, value in report["rehearsed"].items())
        lines.append(f"a rehearsal: after is the same generation with {changes}")
    if report["is_stale"]:
        lines.append("Something was written since this report was made: --fresh makes it again.")
    lines += ["", *gate_lines(report["gates"]), "", *_table(report)]
    for kind, found in report["known_items"].items():
        lines.append(
            f"own content finds its item ({kind}, {found['items']}): "
            f"{found['found_before']:.3f} -> {found['found_after']:.3f}"
        )
    if report["judged"]:
        judged = report["judged"]
        lines.append(
            f"judged ({judged['queries']}): nDCG@10 {judged['ndcg_at_10_before']:.3f} -> "
            f"{judged['ndcg_at_10_after']:.3f}, recall@10 {judged['recall_at_10_before']:.3f} -> "
            f"{judged['recall_at_10_after']:.3f}"
        )
    shown = report["shown_ids"]
    lines.append(
        f"ids in the first ten: {shown['before']} -> {shown['after']}, {shown['lost']} lost, "
        f"{shown['gained']} gained"
    )
    return lines + _changed_lines(report["changed"])


def gate_lines(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each gate."""
    return [
        f"{'holds ' if gate['holds'] else 'BROKEN'} {gate['name']:20} "
        f"{'not measured' if gate['value'] is None else gate['value']} (limit {gate['limit']})"
        + (f" {gate['kind']}" if gate["kind"] else "")
        for gate in gates
    ]


def _table(report: Mapping[str, Any]) -> list[str]:
    if report["overall"] is None:
        return ["No query could be put to both."]
    rows = {"all": report["overall"], **report["by_kind"], **report["by_language"]}
    head = f"{'':10}" + "".join(f"{name:>12}" for name in _HEADS)
    return [head, *(f"{name:10}" + "".join(map(_cell, _values(row))) for name, row in rows.items())]


def _values(row: Mapping[str, Any]) -> list[Any]:
    return [row[column] for column in _COLUMNS]


def _cell(value: float) -> str:
    return f"{value:12.3f}" if isinstance(value, float) else f"{value:12d}"


def _changed_lines(changed: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["", "changed most:"] if changed else []
    for each in changed[:_CHANGED_SHOWN]:
        before, after = (", ".join(str(hit["id"]) for hit in each[side][:5]) for side in ("before", "after"))
        lines.append(f"  {each['label'][:60]} (overlap@10 {each['overlap_at_10']}): {before} -> {after}")
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
