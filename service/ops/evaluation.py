"""How good answers are, by kind and language, with how sure that is. Pure.

Intervals hold 95 % of the means of samples drawn with replacement from the queries (bootstrap): they say how
much other queries like these would differ. What two settings differ by is drawn in pairs, query by query.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from index_store.types import Id
from service.app.report.gates import GateResult
from service.app.report.queries import language_of
from service.app.report.ranking_metrics import interval_of_means, ndcg_at, recall_at, reciprocal_rank_at
from service.ops.judgement_file import JudgedSearch, JudgementFile

MEASURES = ("ndcg_at_10", "recall_at_10", "mrr_at_10", "zero_results")
FIRST = 10
KIND_QUERIES_MIN = 50
"""A kind of fewer queries breaks no gate by itself: one query must not stop a deployment."""
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class ValueRange:
    """A mean, and where 95 % of the means of drawn samples lie."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """A row of the table, by measure. against, change: of the other setting, and after less against; None
    where there is one setting."""

    name: str
    queries: int
    measured: Mapping[str, ValueRange]
    against: Mapping[str, ValueRange] | None
    change: Mapping[str, ValueRange] | None


@dataclass(frozen=True, slots=True)
class SearchSetting:
    """How is asked. fields: of the search. generation: whose answers; empty for those that callers get."""

    fields: Mapping[str, Any]
    generation: str = ""

    @property
    def label(self) -> str:
        """In words."""
        named = {**({"generation": self.generation} if self.generation else {}), **self.fields}
        return ", ".join(f"{name}={value_text(value)}" for name, value in named.items()) or "as callers ask"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one run found. hits, against_hits: of each query, the answer's hits."""

    collection: str
    id_field: str
    file: JudgementFile
    setting: SearchSetting
    against: SearchSetting | None
    hits: Sequence[Sequence[Mapping[str, Any]]]
    against_hits: Sequence[Sequence[Mapping[str, Any]]] | None
    rows: Sequence[Quality]
    gates: Sequence[GateResult]


def value_text(value: object) -> str:
    """Return a value as it is typed."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def ids_of(hits: Sequence[Mapping[str, Any]], id_field: str) -> list[Id]:
    """Return the ids of an answer as texts, as the grades have them."""
    return [str(hit[id_field]) for hit in hits]


def measures_of(ranking: Sequence[Id], grades: Mapping[Id, float]) -> tuple[float, ...]:
    """Return nDCG, recall and reciprocal rank of the first ten, and 1 for an empty answer."""
    return (
        ndcg_at(FIRST, ranking, grades),
        recall_at(FIRST, ranking, grades),
        reciprocal_rank_at(FIRST, ranking, grades),
        float(not ranking),
    )


def qualities(
    searches: Sequence[JudgedSearch],
    rankings: Sequence[Sequence[Id]],
    against: Sequence[Sequence[Id]] | None,
) -> list[Quality]:
    """Return a row for all queries, one for each kind that the file names, one for each language. rankings,
    against: ids by query, under the one and the other setting."""
    first = _measured(searches, rankings)
    other = None if against is None else _measured(searches, against)
    groups: dict[str, list[int]] = {"all": list(range(len(searches)))}
    for place, each in enumerate(searches):
        if each.kind:
            groups.setdefault(f"kind {each.kind}", []).append(place)
    for place, each in enumerate(searches):
        groups.setdefault(each.language or language_of(each.query), []).append(place)
    return [_quality(name, places, first, other) for name, places in groups.items()]


def gate_results(
    rows: Sequence[Quality], ndcg_min: float | None, ndcg_loss_max: float | None
) -> list[GateResult]:
    """Return the gates that have a limit. The kind or language that lost most decides over the loss, where it
    has `KIND_QUERIES_MIN` queries: a good mean must not hide a broken one."""
    found = []
    if ndcg_min is not None:
        value = rows[0].measured["ndcg_at_10"].mean
        found.append(GateResult("ndcg_at_10_min", value, ndcg_min, holds=value >= ndcg_min))
    if ndcg_loss_max is not None:
        losses = {
            "" if row is rows[0] else row.name: -row.change["ndcg_at_10"].mean
            for row in rows
            if row.change is not None and (row is rows[0] or row.queries >= KIND_QUERIES_MIN)
        }
        kind, loss = max(losses.items(), key=lambda each: each[1])
        found.append(
            GateResult("ndcg_loss_max", round(loss, _DIGITS), ndcg_loss_max, loss <= ndcg_loss_max, kind)
        )
    return found


def _measured(searches: Sequence[JudgedSearch], rankings: Sequence[Sequence[Id]]) -> npt.NDArray[np.float64]:
    """(queries, measures)."""
    rows = [measures_of(ids, each.grades) for each, ids in zip(searches, rankings, strict=True)]
    return np.array(rows, np.float64)


def _quality(
    name: str,
    places: Sequence[int],
    first: npt.NDArray[np.float64],
    other: npt.NDArray[np.float64] | None,
) -> Quality:
    own = first[places]
    if other is None:
        return Quality(name, len(places), _by_measure(own), None, None)
    before = other[places]
    return Quality(name, len(places), _by_measure(own), _by_measure(before), _by_measure(own - before))


def _by_measure(values: npt.NDArray[np.float64]) -> dict[str, ValueRange]:
    low, high = interval_of_means(values)
    columns = zip(MEASURES, values.mean(axis=0), low, high, strict=True)
    return {name: ValueRange(*(round(float(each), _DIGITS) for each in found)) for name, *found in columns}
