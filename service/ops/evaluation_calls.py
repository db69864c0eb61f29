"""A user's judgements or clicks put to the running service, under one setting of the searches or two."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from service.ops.evaluation import (
    Evaluation,
    Quality,
    SearchSetting,
    gate_results,
    ids_of,
    qualities,
    value_text,
)
from service.ops.evaluation_page import evaluation_page
from service.ops.judgement_file import JudgedSearch, read_judgements
from service.ops.report import EXIT_GATES, EXIT_USAGE, OpsCalls, gate_lines

_BATCH = 20
_GENERATION = "generation"
_NAME_CHARS_MAX = 24
_CLICKS = (
    "grades from {clicks} clicks, by rank ** {bias:g}: what was never shown counts as wrong, so the setting\n"
    "under which they were gathered is favoured; a loss may be one of what nobody could click"
)


def evaluate(given: argparse.Namespace, calls: OpsCalls) -> int:
    """Run the command; return its exit code. Raises what the calls raise."""
    try:
        setting, against = _settings(given)
        file = read_judgements(given.file, given.position_bias)
    except (OSError, ValueError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return EXIT_USAGE
    collection, id_field = _collection(calls, given.collection)
    hits = _hits_found(calls, collection, file.searches, setting)
    others = None if against is None else _hits_found(calls, collection, file.searches, against)
    rankings = [ids_of(each, id_field) for each in hits]
    other_rankings = None if others is None else [ids_of(each, id_field) for each in others]
    rows = qualities(file.searches, rankings, other_rankings)
    gates = gate_results(rows, given.min_ndcg, given.max_loss)
    found = Evaluation(collection, id_field, file, setting, against, hits, others, rows, gates)
    if given.html:
        given.html.write_text(evaluation_page(found), "utf-8")
    if given.json:
        sys.stdout.write(json.dumps(_document(found), ensure_ascii=False, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(evaluation_lines(found, given.position_bias)) + "\n")
    return 0 if all(gate.holds for gate in gates) else EXIT_GATES


def _settings(given: argparse.Namespace) -> tuple[SearchSetting, SearchSetting | None]:
    """Raises ValueError. Where one of two names a generation, the other is the current one: both are asked in
    the same way then."""
    first = dict(map(_field, given.with_))
    if given.mode:
        first["mode"] = given.mode
    other = dict(map(_field, given.against_)) if given.against_ else None
    if given.max_loss is not None and other is None:
        raise ValueError("--max-loss needs --against: what to compare with")
    if not 0 <= given.position_bias <= 2:
        raise ValueError("--position-bias must be 0 to 2")
    if other is not None and (_GENERATION in first or _GENERATION in other):
        first, other = ({_GENERATION: "current", **each} for each in (first, other))
    return _setting(first), None if other is None else _setting(other)


def _setting(fields: Mapping[str, Any]) -> SearchSetting:
    own = {name: value for name, value in fields.items() if name != _GENERATION}
    return SearchSetting(own, value_text(fields.get(_GENERATION, "")))


def _field(text: str) -> tuple[str, Any]:
    """A value that is no JSON is a text. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text}: must be NAME=VALUE")
    if name in ("query", "top_k", "cursor", "collection", "include"):
        raise ValueError(f"{name} is what the command itself says")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _collection(calls: OpsCalls, name: str | None) -> tuple[str, str]:
    """The collection's name and the field of its ids. Raises what the calls raise."""
    collections = calls.call("GET", "/v1/collections")["collections"]
    texts = [each for each in collections if each["modality"] == "text"] or collections
    named = [each for each in collections if each["name"] == name] if name else texts
    if not named:
        calls.call("GET", f"/v1/collections/{quote(str(name), safe='')}/generations")  # says what is wrong
    return str(named[0]["name"]), str(named[0]["id_field"])


def _hits_found(
    calls: OpsCalls, collection: str, searches: Sequence[JudgedSearch], setting: SearchSetting
) -> list[list[Mapping[str, Any]]]:
    """The hits of each query."""
    bodies = [
        {
            **each.fields,
            **setting.fields,
            "query": each.query,
            "top_k": 10,
            "collection": collection,
            "include": ["metadata"],
        }
        for each in searches
    ]
    return [answer["results"] for answer in _answers(calls, collection, bodies, setting.generation)]


def _answers(
    calls: OpsCalls, collection: str, bodies: Sequence[Mapping[str, Any]], generation: str
) -> Iterator[Mapping[str, Any]]:
    if generation:
        path = f"/v1/collections/{quote(collection, safe='')}/generations/{quote(generation, safe='')}/search"
        for body in bodies:
            yield calls.call("POST", path, body)
        return
    for start in range(0, len(bodies), _BATCH):
        yield from calls.call("POST", "/v1/search-batch", {"searches": bodies[start : start + _BATCH]})[
            "responses"
        ]


def evaluation_lines(found: Evaluation, position_bias: float) -> list[str]:
    """Return an evaluation as lines of text: gates, and a table by kind and language."""
    against = "" if found.against is None else f" against {found.against.label}"
    lines = [f"{found.collection}: {len(found.file.searches)} queries, {found.setting.label}{against}"]
    if found.file.clicks:
        lines += _CLICKS.format(clicks=found.file.clicks, bias=position_bias).split("\n")
    lines += ["", *gate_lines([asdict(each) for each in found.gates])]
    width = min(_NAME_CHARS_MAX, max(len(row.name) for row in found.rows))
    head = f"{'':{width}} queries  nDCG@10  95 %            recall@10   MRR@10  no result"
    lines.append(head + ("" if found.against is None else "  against  change  95 %"))
    return lines + [_line(row, width) for row in found.rows]


def _line(row: Quality, width: int) -> str:
    ndcg, recall, reciprocal, empty = row.measured.values()
    line = (
        f"{row.name[:width]:{width}} {row.queries:7d}  {ndcg.mean:7.3f}  "
        f"{ndcg.low:.3f} to {ndcg.high:.3f}  {recall.mean:9.3f}  {reciprocal.mean:7.3f}  {empty.mean:9.1%}"
    )
    if row.against is None or row.change is None:
        return line
    change = row.change["ndcg_at_10"]
    return (
        f"{line}  {row.against['ndcg_at_10'].mean:7.3f}  {change.mean:+6.3f}  "
        f"{change.low:+.3f} to {change.high:+.3f}"
    )


def _document(found: Evaluation) -> dict[str, Any]:
    return {
        "collection": found.collection,
        "holds": all(gate.holds for gate in found.gates),
        "gates": [asdict(each) for each in found.gates],
        "queries": len(found.file.searches),
        "clicks": found.file.clicks,
        "setting": asdict(found.setting),
        "against": None if found.against is None else asdict(found.against),
        "rows": [asdict(row) for row in found.rows],
    }
