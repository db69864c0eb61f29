"""How good each embedder's answers are: Korean recipes by kind of query, and pictures changed or redrawn.

    python -m benchmarks.bench_quality DATA_DIR [--models-dir .models] [--pictures N]

DATA_DIR holds recipes.jsonl, recipe_queries.jsonl, images.jsonl and images/. Texts go through normalise_text
and the collection's template, pictures as JPEG bytes through decode_image, both through the batchers, as in
the service. The answers are exact; those of a sealed index stand beside them and may be .005 off.
Near-duplicate: a picture cropped, turned, relit and compressed finds its original among all. Cross-rendering:
a flat drawing finds the 3D rendering of the same thing.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.picture_changes import near_duplicate_jpeg
from index_store.embedded.engine import EmbeddedIndex
from index_store.embedded.maintenance import Maintenance
from index_store.types import CollectionSpec, ItemWrite, SearchRequest, WriteBatch
from service.embedding.batcher import Batcher, ImageBatcher
from service.embedding.models import load_image_embedder, load_text_embedder
from service.embedding.text import normalise_text
from service.errors import InvalidImage, ModelUnavailable

TEXT_MODELS = (
    "builtin:multilingual-e5-small",
    "builtin:multilingual-e5-small+int8",
    "builtin:hashed-ngrams",
    "builtin:placeholder",
)
IMAGE_MODELS = ("builtin:efficientnet-lite0", "builtin:descriptor", "builtin:placeholder")
TEMPLATES = {
    "title": "{title}",
    "title + description + ingredients": "{title}: {description} {ingredients}",
    "the same with the word 재료 (default)": "{title}: {description}. 재료: {ingredients}",
}
K = 10
SEED = 11
GAINS = 1 / np.log2(np.arange(K) + 2)
INDEX_OFF_MAX = 0.005
Rows = list[dict[str, Any]]
Scores = dict[str, list[tuple[float, float]]]
Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--models-dir", type=Path, default=Path(".models"))
    parser.add_argument("--pictures", type=int, default=0, metavar="N", help="only the first N (0: all)")
    given = parser.parse_args()
    recipes, queries = (_rows(given.data / f"{n}.jsonl") for n in ("recipes", "recipe_queries"))
    print(f"recipes: {len(recipes)} documents, {len(queries)} queries, nDCG@{K} / recall@{K}")
    for ref in TEXT_MODELS:
        for label, template in TEMPLATES.items():
            try:
                exact, index = asyncio.run(judge_texts(ref, given.models_dir, recipes, queries, template))
            except ModelUnavailable as exc:  # a form that is made on demand
                print(f"{ref:30} left out: {exc.mend}")
                break
            report_texts(ref, label, exact, index)
    labels = _rows(given.data / "images.jsonl")[: given.pictures or None]
    print(f"\npictures: {len(labels)}, seed {SEED}")
    for ref in IMAGE_MODELS:
        print(asyncio.run(judge_pictures(ref, given.models_dir, given.data / "images", labels)))


def _rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


async def judge_texts(
    ref: str, models_dir: Path, recipes: Rows, queries: Rows, template: str
) -> tuple[Scores, Scores]:
    """Return (nDCG, recall) of each query by its kind: of the exact answers, and of the index's."""
    batcher = Batcher(load_text_embedder(ref, models_dir=models_dir, dim=384, threads=1))
    batcher.start()
    try:
        filled = [template.format(**{**r, "ingredients": ", ".join(r["ingredients"])}) for r in recipes]
        documents = (await batcher.embed_documents([normalise_text(t) for t in filled])).vectors
        asked = [normalise_text(q["query"]) for q in queries]
        found: list[tuple[Vectors, bool]] = []
        for start in range(0, len(asked), 100):  # within what may wait
            found += await asyncio.gather(*[batcher.embed_query(t) for t in asked[start : start + 100]])
    finally:
        batcher.close()
    ids = np.array([r["recipe_id"] for r in recipes])
    vectors = np.stack([vector for vector, _ in found])
    answers = (_nearest(vectors, documents), by_index(vectors, documents))
    exact, index = (_scores(ids, queries, order) for order in answers)
    return exact, index


def _scores(ids: npt.NDArray[Any], queries: Rows, order: Places) -> Scores:
    scores: Scores = defaultdict(list)
    for query, places in zip(queries, order, strict=True):
        hits = np.isin(ids[places], query["relevant"])
        best = min(K, len(query["relevant"]))
        scores[query["kind"]].append(
            (float(GAINS[hits].sum() / GAINS[:best].sum()), float(hits.sum() / best))
        )
    return scores


def report_texts(ref: str, label: str, exact: Scores, index: Scores) -> None:
    (ndcg, recall), (ndcg_index, recall_index) = (
        np.array([pair for pairs in each.values() for pair in pairs]).mean(axis=0) for each in (exact, index)
    )
    print(
        f"{ref:30} {label:34} all {ndcg:.3f} / {recall:.3f}   index {ndcg_index:.3f} / {recall_index:.3f} "
        f"{verdict(ndcg_index - ndcg, recall_index - recall)}"
    )
    kinds = [f"{kind} {np.mean([p[0] for p in pairs]):.2f}" for kind, pairs in sorted(exact.items())]
    print(f"{'':30} {', '.join(kinds)}")


def verdict(*differences: float) -> str:
    worst = max(map(abs, differences))
    return f"{'PASS' if worst <= INDEX_OFF_MAX else 'MISS'} ({worst:.4f} <= {INDEX_OFF_MAX})"


async def judge_pictures(ref: str, models_dir: Path, folder: Path, labels: Rows) -> str:
    """Return one line of figures."""
    rng = np.random.default_rng(SEED)
    files = [(folder / row["file"]).read_bytes() for row in labels]
    changed = [near_duplicate_jpeg(Image.open(io.BytesIO(f)).convert("RGB"), rng) for f in files]
    batcher = ImageBatcher(load_image_embedder(ref, models_dir=models_dir, dim=512, threads=1))
    batcher.start()
    try:
        base = _vectors(await batcher.embed_documents(files))
        queries = _vectors(await batcher.embed_documents(changed))
    finally:
        batcher.close()
    found = _nearest(queries, base) == np.arange(len(base))[:, None]
    by_it = by_index(queries, base) == np.arange(len(base))[:, None]
    off = verdict(
        by_it[:, 0].mean() - found[:, 0].mean(), by_it.any(axis=1).mean() - found.any(axis=1).mean()
    )
    items, sources = (np.array([row[name] for row in labels]) for name in ("item", "source"))
    flat, solid = np.flatnonzero(np.isin(sources, ["noto", "twemoji"])), np.flatnonzero(sources == "fluent3d")
    same = items[solid][_nearest(base[flat], base[solid])] == items[flat][:, None]
    return (
        f"{ref:30} near-duplicate R@1 {found[:, 0].mean():.3f} R@{K} {found.any(axis=1).mean():.3f}"
        f"   index R@1 {by_it[:, 0].mean():.3f} R@{K} {by_it.any(axis=1).mean():.3f} {off}"
        f"   cross-rendering R@1 {same[:, 0].mean():.3f} R@{K} {same.any(axis=1).mean():.3f}"
    )


def _vectors(found: list[Vectors | InvalidImage]) -> Vectors:
    refused = [v for v in found if isinstance(v, InvalidImage)]
    if refused:
        raise refused[0]
    return np.stack([v for v in found if not isinstance(v, InvalidImage)])


def by_index(queries: Vectors, base: Vectors) -> Places:
    """Return what a sealed index over `base` answers, as places in it."""
    version = "quality"
    with tempfile.TemporaryDirectory() as folder:
        specs = [CollectionSpec("bench", "int64", base.shape[1], "cosine")]
        index = EmbeddedIndex(Path(folder), specs)
        index.open()
        index.advance("bench", "begin", version)
        items = [ItemWrite(place, row) for place, row in enumerate(base)]
        index.write("bench", WriteBatch(items, embedding_version=version))
        index.close()
        if not Maintenance(Path(folder)).rebuild():
            raise AssertionError("nothing was sealed")
        index = EmbeddedIndex(Path(folder), specs)
        index.open()
        try:
            found = index.search("bench", [SearchRequest(vector=query, k=K) for query in queries])
        finally:
            index.close()
    return np.array([[hit.id for hit in each.hits] for each in found])


def _nearest(queries: Vectors, base: Vectors) -> Places:
    return np.argsort(-(queries @ base.T), axis=1, kind="stable")[:, :K]


if __name__ == "__main__":
    main()
