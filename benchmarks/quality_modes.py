"""Dense, lexical and hybrid answers of each kind of query, with intervals and limits, for bench_quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.embedding_service import Row
from benchmarks.quality_index import K, table, with_interval
from benchmarks.quality_queries import DataSet, data_sets
from benchmarks.quality_service import SETTINGS, Answers, Setting, filled_service
from service.app.report.ranking_metrics import ndcg_at

MODEL = "builtin:multilingual-e5-small"
Scores = npt.NDArray[np.float64]
"""(queries,) nDCG@K."""
_GUARDED_MIN, _GUARD = 50, 0.01
"""No kind of so many queries may lose more than that to dense."""
_ALL = "all"


@dataclass(frozen=True, slots=True)
class Limit:
    """The least that a setting must reach on some kind of a set."""

    name: str
    kind: str
    setting: Setting
    least: float


LIMITS = (
    Limit("recipes", _ALL, "hybrid", 0.865),
    Limit("recipes", _ALL, "hybrid, words", 0.91),
    Limit("recipes", "romanised", "hybrid", 0.92),
    Limit("recipes", "wrong_keyboard", "hybrid", 0.95),
    Limit("recipes", "english", "hybrid, words", 0.80),
    Limit("recipes", "ingredient_type", "hybrid", 0.965),
    Limit("recipes", "trait_type", "hybrid", 0.65),
    Limit("products", "words", "hybrid", 0.97),
    Limit("products", "no_spaces", "hybrid", 0.97),
    Limit("products", "jamo_wrong", "hybrid", 0.93),
    Limit("products", "romanised", "hybrid", 0.90),
    Limit("products", "head_noun", "hybrid", 0.87),
    Limit("places", "english", "hybrid", 0.52),
)
_TO_DENSE = {("places", "synonyms"): 0.005, ("emoji", "synonyms"): 0.005}
"""How much hybrid may lose to dense where people named the items."""
_APART = frozenset(("wrong_keyboard",))
"""Kinds of recipes that are made here and count for no total."""


def judged(data: Path, models_dir: Path, tables: list[str], model: str = MODEL) -> Iterator[Row]:
    """Yield what must hold of each kind; the table by kind goes to `tables`."""
    sets = list(data_sets(data))
    if not sets:
        return
    with filled_service(sets, model, models_dir) as service:
        answers = service.answers(sets, SETTINGS, K)
    lines = []
    for one in sets:
        scores = {setting: _ndcg(one, answers[one.name, setting]) for setting in SETTINGS}
        for kind, places in _kinds(one).items():
            own = {setting: found[places] for setting, found in scores.items()}
            lines.append((f"{one.name}: {kind}", str(len(places)), *map(_cell, own.values()), _gain(own)))
            yield from _rows(one.name, kind, own)
    head = (f"nDCG@{K}, {model.removeprefix('builtin:')}", "queries", *SETTINGS, "hybrid - dense (95 %)")
    tables.append(table(head, lines))


def _kinds(one: DataSet) -> dict[str, npt.NDArray[np.int64]]:
    """Places of queries by kind; `all` where a set brought its own kinds along."""
    kinds = np.array([each.kind for each in one.queries])
    found = {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds.tolist())}
    whole = np.flatnonzero(~np.isin(kinds, list(_APART)))
    return {_ALL: whole, **found} if one.name == "recipes" else found


def ndcg_by_kind(one: DataSet, answers: Answers) -> dict[str, float]:
    """Return the mean nDCG@K of each kind of query."""
    scores = _ndcg(one, answers)
    return {kind: float(scores[places].mean()) for kind, places in _kinds(one).items()}


def _ndcg(one: DataSet, answers: Answers) -> Scores:
    asked = zip(one.queries, answers, strict=True)
    return np.array([ndcg_at(K, ids, dict.fromkeys(query.relevant, 1.0)) for query, ids in asked])


def _rows(name: str, kind: str, scores: Mapping[Setting, Scores]) -> Iterator[Row]:
    dense = float(scores["dense"].mean())
    for limit in LIMITS:
        if (limit.name, limit.kind) == (name, kind):
            value = float(scores[limit.setting].mean())
            yield Row(f"{name}, {kind}: {limit.setting}", value, limit.least, True, f"dense {dense:.3f}")
    may_lose = _TO_DENSE.get((name, kind))
    if may_lose is None and len(scores["dense"]) >= _GUARDED_MIN:
        may_lose = _GUARD
    if may_lose is not None:
        for setting in ("hybrid", "hybrid, words"):
            lost = scores["dense"] - scores[setting]
            said = f"dense - hybrid {with_interval(lost, signed=True)}"
            label = f"{name}, {kind} ({len(lost)}): {setting} loses to dense"
            yield Row(label, float(lost.mean()), may_lose, detail=said)


def _cell(scores: Scores) -> str:
    return f"{scores.mean():.3f}"


def _gain(scores: Mapping[Setting, Scores]) -> str:
    return with_interval(scores["hybrid"] - scores["dense"], signed=True)
