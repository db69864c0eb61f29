"""Judgements of a user, or clicks, as a file of JSON lines, to what is asked and what should be found.

{"query": "김치찌개", "relevant": {"12": 3, "7": 1}}        or [12, 7], each of grade 1; or "grades"
{"query": "김치찌개", "clicked": 12, "shown": [5, 12, 7]}   or "rank": 2 in place of "shown"

Both may have `kind` and `language`, by which is told apart, and `search`: more fields of the search (filter,
exclude_ids). A file holds lines of one of the two forms.

Clicks are no judgements: people click what stands high, and cannot click what was not shown. Each click at
rank r counts r ** bias times, r at most `RANK_MAX` (inverse propensity, clipped), so that a click far down
says more than one at the top; what was clicked most by that count has grade 1, the others their share of it.
What was never shown keeps grade 0, so a setting that shows new items is judged too low: a comparison by
clicks favours the setting under which they were gathered.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from index_store.types import Id

RANK_MAX = 10
GRADES_MAX = 1000
"""Of one query."""
_Key: TypeAlias = tuple[str, str, str, str]
"""Query, kind, language, the other fields of the search as JSON: what is one question."""


@dataclass(frozen=True, slots=True)
class JudgedSearch:
    """One question. grades: by id, always as a text, above 0 for what answers it. kind, language: empty where
    the file says none. fields: of the search, beside the query."""

    query: str
    grades: Mapping[Id, float]
    kind: str = ""
    language: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgementFile:
    """clicks: from which the grades come; 0: they are judgements."""

    searches: Sequence[JudgedSearch]
    clicks: int = 0


def read_judgements(path: Path, position_bias: float) -> JudgementFile:
    """Return what a file asks for, equal questions joined. position_bias: the exponent by which a click's
    rank counts; 0: each counts once. Raises OSError, ValueError naming the line."""
    grades: dict[_Key, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    clicks = judged = 0
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            own = grades[_question(row)]
            if "clicked" in row:
                clicks += 1
                for id, weight in _clicked(row, position_bias).items():
                    own[id] += weight
            else:
                judged += 1
                for id, grade in _relevant(row).items():
                    own[id] = max(own[id], grade)
            if clicks and judged:
                raise ValueError("the file holds judgements and clicks: keep them apart")
            if len(own) > GRADES_MAX:
                raise ValueError(f"the query has more than {GRADES_MAX} ids")
        except ValueError as exc:
            raise ValueError(f"{path}:{number}: {exc}") from exc
    if not grades:
        raise ValueError(f"{path}: has no line")
    return JudgementFile([_search(key, own, bool(clicks)) for key, own in grades.items()], clicks)


def _search(key: _Key, grades: Mapping[str, float], is_clicked: bool) -> JudgedSearch:
    query, kind, language, fields = key
    most = max(grades.values()) if is_clicked else 1.0
    return JudgedSearch(
        query, {id: grade / most for id, grade in grades.items()}, kind, language, json.loads(fields)
    )


def _question(row: object) -> _Key:
    if not isinstance(row, dict):
        raise ValueError("must be an object")
    query, kind, language = (row.get(name, "") for name in ("query", "kind", "language"))
    if not all(isinstance(each, str) for each in (query, kind, language)) or not query.strip():
        raise ValueError("query must be a text that is not empty; kind and language are texts")
    fields = row.get("search", {})
    if not isinstance(fields, dict):
        raise ValueError("search must be an object: more fields of the search")
    return query, kind, language, json.dumps(fields, sort_keys=True, ensure_ascii=False)


def _relevant(row: Mapping[str, Any]) -> dict[str, float]:
    """The grades of one judgement."""
    named = [name for name in ("relevant", "grades") if name in row]
    if len(named) != 1:
        raise ValueError("must have relevant (or grades), or clicked")
    given = row[named[0]]
    found = dict.fromkeys(map(_id, given), 1.0) if isinstance(given, list) else given
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{named[0]} must be ids, or an object of id to grade, and not empty")
    for grade in found.values():
        if isinstance(grade, bool) or not isinstance(grade, int | float) or not math.isfinite(grade):
            raise ValueError(f"{named[0]}: a grade must be a number")
    if max(found.values()) <= 0:
        raise ValueError(f"{named[0]} must have a grade above 0: else every answer is as good as another")
    return {id: float(grade) for id, grade in found.items()}


def _clicked(row: Mapping[str, Any], position_bias: float) -> dict[str, float]:
    """How much the clicks of one line count, by id."""
    given = row["clicked"]
    clicked = [_id(each) for each in (given if isinstance(given, list) else [given])]
    if not clicked:
        raise ValueError("clicked must name an id; leave out who clicked nothing")
    if "shown" in row:
        if not isinstance(row["shown"], list):
            raise ValueError("shown must be ids, the first one first")
        ranks = {id: rank for rank, id in reversed(list(enumerate(map(_id, row["shown"]), start=1)))}
        missing = [id for id in clicked if id not in ranks]
        if missing:
            raise ValueError(f"clicked {missing[0]} is not among shown")
        return {id: _weight(ranks[id], position_bias) for id in clicked}
    rank = row.get("rank", 1)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError("rank must be a whole number from 1")
    return dict.fromkeys(clicked, _weight(rank, position_bias))


def _weight(rank: int, position_bias: float) -> float:
    return float(min(rank, RANK_MAX) ** position_bias)


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an id must be a whole number or a text")
    return str(value)
