"""How good the answers of the shipped text model are, on a small sample of our own: a change that makes them
worse fails here.

The recipes of the demo, and 60 queries by kind with the recipes that answer each, judged by who wrote them
(CC0, tests/fixtures/demo_judgements.jsonl, which `python -m service evaluate` reads). The floors are what was
measured less .06: one answer that moves by a place, as another processor's rounding may do, breaks none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.quality_index import K
from benchmarks.quality_modes import MODEL, ndcg_by_kind
from benchmarks.quality_queries import RECIPE_TEXT, DataSet, Document, JudgedQuery, rows_of
from benchmarks.quality_service import Setting, filled_service
from service.demo.catalogue import recipes
from service.embedding.catalog.preload import EarlyModels
from tests.fixtures.models import built_models

JUDGEMENTS = Path(__file__).parents[1] / "fixtures" / "demo_judgements.jsonl"
FLOORS: Mapping[str, Mapping[Setting, float]] = {
    "name": {"dense": 0.94, "hybrid, words": 0.94},
    "sentence": {"dense": 0.79, "hybrid, words": 0.80},
    "ingredient": {"dense": 0.79, "hybrid, words": 0.83},
    "trait": {"dense": 0.82, "hybrid, words": 0.84},
    "spelling": {"dense": 0.88, "hybrid, words": 0.88},
    "romanised": {"dense": 0.11, "hybrid, words": 0.94},
    "english": {"hybrid, words": 0.94},
    "wrong_keyboard": {"hybrid, words": 0.94},
}
"""Of nDCG@10, by kind of query."""
ASKED: tuple[Setting, ...] = ("dense", "hybrid, words")


def _sample() -> DataSet:
    rows = recipes()
    places = {row.recipe_id: place for place, row in enumerate(rows)}
    documents = [
        Document(
            RECIPE_TEXT.format(
                title=row.title, description=row.description, ingredients=", ".join(row.ingredients)
            ),
            {"title": row.title, "ingredients": list(row.ingredients)},
        )
        for row in rows
    ]
    queries = [
        JudgedQuery(each["kind"], each["query"], frozenset(places[id] for id in each["relevant"]))
        for each in rows_of(JUDGEMENTS)
    ]
    return DataSet("recipes", ("title", "ingredients"), documents, queries)


@pytest.fixture(scope="module")
def measured() -> Mapping[Setting, Mapping[str, float]]:
    """nDCG@10 by setting, then by kind. No vector is remembered from a run before."""
    sample = _sample()
    with filled_service([sample], MODEL, built_models(), EarlyModels) as service:
        answers = service.answers([sample], ASKED, K)
    return {setting: ndcg_by_kind(sample, answers["recipes", setting]) for setting in ASKED}


@pytest.mark.parametrize("kind", FLOORS)
def test_no_kind_of_query_is_answered_worse(
    measured: Mapping[Setting, Mapping[str, float]], kind: str
) -> None:
    found = {setting: measured[setting][kind] for setting in FLOORS[kind]}
    assert all(found[setting] >= floor for setting, floor in FLOORS[kind].items()), (found, FLOORS[kind])


def test_words_harm_no_kind_of_query(measured: Mapping[Setting, Mapping[str, float]]) -> None:
    dense, hybrid = (measured[setting] for setting in ASKED)
    assert {
        kind: round(dense[kind] - hybrid[kind], 3) for kind in dense if hybrid[kind] < dense[kind] - 0.05
    } == {}
