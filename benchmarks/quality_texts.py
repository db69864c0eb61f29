"""How good the answers to text queries are: Korean recipes by kind of query, for bench_quality."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.embedding_service import Row
from benchmarks.quality_index import OFF_MAX, K, Places, Rows, by_index, nearest, table, worst_off
from service.app.report.ranking_metrics import ndcg_at, recall_at
from service.embedding.catalog.loader import load_embedder
from service.embedding.port import Encoding
from service.embedding.serving.encoders import queued_texts
from service.embedding.text import normalise_text
from service.errors import InvalidImage, ModelUnavailable

MODELS = (
    "builtin:multilingual-e5-small",
    "builtin:multilingual-e5-small+int8",
    "builtin:hashed-ngrams",
    "builtin:placeholder",
)
TEMPLATE = "{title}: {description}. 재료: {ingredients}"
TEMPLATES = {
    "title": "{title}",
    "title, description, ingredients": "{title}: {description} {ingredients}",
    "the same with the word 재료 (default)": TEMPLATE,
}
E5_NDCG_MIN = 0.78


@dataclass(frozen=True, slots=True)
class Scores:
    """(nDCG, recall) of each query, by its kind."""

    by_kind: Mapping[str, npt.NDArray[np.float64]]

    def all(self) -> npt.NDArray[np.float64]:
        mean: npt.NDArray[np.float64] = np.concatenate(list(self.by_kind.values())).mean(axis=0)
        return mean


def judged(recipes: Rows, queries: Rows, models_dir: Path, tables: list[str]) -> Iterator[Row]:
    """Yield what must hold of each embedder and template; the table by kind goes to `tables`."""
    columns: dict[str, Scores] = {}
    for ref in MODELS:
        for label, template in TEMPLATES.items():
            try:
                exact, index = asyncio.run(_judge(ref, models_dir, recipes, queries, template))
            except ModelUnavailable as exc:  # a form that is made on demand
                print(f"{ref} left out: {exc.hint}")
                break
            (ndcg, recall), seen = exact.all(), index.all()
            name = f"{ref.removeprefix('builtin:')}, {label}"
            said = f"nDCG@{K} {ndcg:.3f}, recall@{K} {recall:.3f}; index {seen[0]:.3f}, {seen[1]:.3f}"
            yield Row(f"{name}: index off", worst_off(seen - exact.all()), OFF_MAX, detail=said)
            if template == TEMPLATE:
                columns[ref.removeprefix("builtin:")] = exact
                if ref == MODELS[0]:
                    yield Row(f"{name}: nDCG@{K} of the index", float(seen[0]), E5_NDCG_MIN, True)
    tables.append(_by_kind(columns))


def _by_kind(columns: Mapping[str, Scores]) -> str:
    first = next(iter(columns.values())).by_kind
    rows = [("all", str(sum(map(len, first.values()))), *(_pair(each.all()) for each in columns.values()))]
    for kind, pairs in sorted(first.items()):
        cells = (_pair(each.by_kind[kind].mean(axis=0)) for each in columns.values())
        rows.append((kind, str(len(pairs)), *cells))
    return table((f"nDCG@{K} / recall@{K}", "queries", *columns), rows)


def _pair(found: npt.NDArray[np.float64]) -> str:
    return f"{found[0]:.3f} / {found[1]:.3f}"


async def _judge(
    ref: str, models_dir: Path, recipes: Rows, queries: Rows, template: str
) -> tuple[Scores, Scores]:
    """Return the scores of the exact answers, and of the index's."""
    encoder = queued_texts(load_embedder(ref, "text", models_dir=models_dir, dim=384, threads=1))
    encoder.start()
    try:
        filled = [template.format(**{**r, "ingredients": ", ".join(r["ingredients"])}) for r in recipes]
        encoded = await encoder.embed_documents([normalise_text(t) for t in filled])
        documents = np.stack([each.vector for each in encoded if not isinstance(each, InvalidImage)])
        asked = [normalise_text(q["query"]) for q in queries]
        found: list[Encoding] = []
        for start in range(0, len(asked), 100):  # within what may wait
            found += await encoder.embed_queries(asked[start : start + 100])
    finally:
        encoder.close()
    ids = np.array([r["recipe_id"] for r in recipes])
    vectors = np.stack([vector for vector, _ in found])
    exact, index = nearest(vectors, documents), by_index(vectors, documents)
    return _scores(ids, queries, exact), _scores(ids, queries, index)


def _scores(ids: npt.NDArray[Any], queries: Rows, order: Places) -> Scores:
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for query, found in zip(queries, ids[order].tolist(), strict=True):
        grades = dict.fromkeys(query["relevant"], 1.0)
        scores[query["kind"]].append((ndcg_at(K, found, grades), recall_at(K, found, grades)))
    return Scores({kind: np.array(pairs) for kind, pairs in scores.items()})
