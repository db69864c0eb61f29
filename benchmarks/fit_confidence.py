"""Fit the numbers of service/confidence to judged queries, and print how far a confidence can be believed.

    python -m benchmarks.fit_confidence [DATA_DIR] [--models-dir .models] [--model REF] [--out FILE]
    python -m benchmarks.fit_confidence --items ITEMS.jsonl --judgements JUDGEMENTS.jsonl --out FILE

DATA_DIR holds kok_products.csv, the names of a food shop, and recipes.jsonl with recipe_queries.jsonl; small
shops are random parts of both. What is asked for and is there: the queries of `benchmarks.quality_queries`,
each kind as much as any other. What is not there: absent_goods.txt, as much as all those together. Both modes
are asked of an index.

A collection of one's own: a line an item, {"id": 7, "text": what its vector is made of, "fields": {metadata
that words are searched in}}, and a line a query, {"query": "galbi", "relevant": [7, 9]}, with no ids where
nothing that is there is right; a hundred of each kind at least. Then those count, and nothing else.

AUC: how well the confidence of the first hit tells queries for what is there from the others. ECE: how far
confidence and share lie apart in ten bins, of queries (is it there?) and of first hits (is it right?). No
query is judged by numbers that were fitted to it: ten times one random half judges the other (200 and 200
queries), all parts judge the one that is left out, and each collection judges the other. The numbers that are
printed at the end are fitted to all. --out writes them to a file that a collection names as its `confidence`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.bench_quality import BESIDE
from benchmarks.calibration_math import Numbers, area, calibration_error, chances, fitted
from benchmarks.quality_index import sealed_index, table
from benchmarks.quality_queries import DataSet, Document, JudgedQuery, data_sets, rows_of
from benchmarks.remembered_vectors import RememberingEmbedder
from index_store.request.confidence import Background, ConfidenceQuery, Curve
from index_store.types import CollectionSpec, Id, ItemWrite, SearchRequest, TextQuery, Vector
from service.confidence.calibration import Calibration, Coefficients, query_features
from service.embedding.catalog.loader import load_embedder
from service.embedding.port import Role
from service.embedding.text import normalise_text

Mode: TypeAlias = Literal["dense", "dense_with_words", "hybrid"]
"""Dense: without words in the index, or with them, by which only the share is known."""
ABSENT_GOODS = Path(__file__).with_name("absent_goods.txt")
SEED = 5
HALVES = 10
AT_ONCE = 200
"""Queries for what is there, and as many for what is not, that a half holds."""
SIZES: Mapping[int, int] = {60: 6, 150: 3, 600: 1}
"""So many items in a part of a collection, and how many such parts are asked, as one."""
LEFT_OUT = {"trait_type", "english", "wrong_keyboard"}
"""Kinds whose first answer is mostly wrong, or that are read as another text before they are searched."""


@dataclass(frozen=True, slots=True)
class Asked:
    """First hits of one collection in one mode. features: (n, f), as `features_of` makes them. is_there,
    is_right: of the query, of its first hit. kinds: of the query; those of what is not there begin with -.
    weights: each kind counts alike, and what is there as much as what is not."""

    features: Numbers
    is_there: npt.NDArray[np.bool_]
    is_right: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.str_]
    weights: Numbers
    background: Background

    def at(self, places: npt.NDArray[np.int64]) -> Asked:
        """Return some of them, weighed anew."""
        kinds = self.kinds[places]
        return Asked(
            self.features[places],
            self.is_there[places],
            self.is_right[places],
            kinds,
            weights_of(kinds),
            self.background,
        )


def weights_of(kinds: npt.NDArray[np.str_]) -> Numbers:
    """Return the weight of each query; all together weigh 2."""
    counts = Counter(kinds.tolist())
    there = sum(not kind.startswith("-") for kind in counts)
    absent = sum(count for kind, count in counts.items() if kind.startswith("-"))
    weights = [1 / absent if kind.startswith("-") else 1 / there / counts[kind] for kind in kinds.tolist()]
    return np.array(weights)


def absent_goods() -> list[JudgedQuery]:
    """What no kitchen has, by department."""
    lines = ABSENT_GOODS.read_text("utf-8").replace("\n    ", " ").splitlines()[1:]
    return [
        JudgedQuery(f"-{department}", goods.strip(), frozenset())
        for department, _, all_goods in (line.partition(":") for line in lines)
        for goods in all_goods.split(",")
    ]


def own_set(items: Path, judgements: Path) -> DataSet:
    """A collection of one's own. Raises OSError, ValueError, KeyError."""
    rows = rows_of(items)
    places = {row["id"]: place for place, row in enumerate(rows)}
    documents = [Document(row["text"], row.get("fields", {})) for row in rows]
    queries = [
        JudgedQuery(
            "judged" if each["relevant"] else "-judged",
            each["query"],
            frozenset(places[one] for one in each["relevant"]),
        )
        for each in rows_of(judgements)
    ]
    lexical = sorted({key for each in documents for key in each.fields})
    return DataSet("own", lexical, documents, queries)


def with_all_that_holds(data: DataSet) -> list[JudgedQuery]:
    """The queries of a shop, with every product as an answer whose name holds all of the words that were
    asked for, however they were written: another size of the same thing is what was asked for."""
    names = [document.text.replace(" ", "").lower() for document in data.documents]
    words: dict[frozenset[int], list[str]] = {}
    found = []
    for query in data.queries:
        if query.kind in ("words", "head_noun"):  # the other kinds follow theirs
            words[query.relevant] = query.text.lower().split()
        own = words[query.relevant]
        held = [place for place, name in enumerate(names) if all(word in name for word in own)]
        found.append(replace(query, relevant=query.relevant.union(held)))
    return found


def kitchen_sets(data: Path) -> Iterator[DataSet]:
    """Recipes and products, asked for what is not there as well."""
    for each in data_sets(data):
        if each.name in ("products", "recipes"):
            queries = with_all_that_holds(each) if each.name == "products" else each.queries
            yield replace(each, queries=[*queries, *absent_goods()])


def part_of(data: DataSet, size: int, rng: np.random.Generator) -> DataSet:
    """Some of the items, with the queries for what is there, and those for what is nowhere."""
    places = np.sort(rng.permutation(len(data.documents))[:size]).tolist()
    new = {place: number for number, place in enumerate(places)}
    queries = []
    for each in data.queries:
        relevant = frozenset(new[place] for place in each.relevant if place in new)
        if relevant or not each.relevant:
            queries.append(replace(each, relevant=relevant))
    return replace(data, documents=[data.documents[place] for place in places], queries=queries)


def asked(sets: Sequence[DataSet], mode: Mode, model: RememberingEmbedder) -> Asked:
    """Put all queries of these to an index each."""
    kinds: list[str] = []
    rows: list[tuple[float, ...]] = []
    is_right: list[bool] = []
    seen: list[Background] = []

    def note(_: str, __: str, background: Background) -> Curve:
        seen.append(background)
        return Curve(1.0, 0.0)

    for data in sets:
        queries = [each for each in data.queries if each.kind not in LEFT_OUT]
        texts = [normalise_text(each.text) for each in queries]
        requests = [
            SearchRequest(
                vector,
                k=1,
                exact=True,
                text=TextQuery(text) if mode == "hybrid" else None,
                confidence=ConfidenceQuery(text, note),
            )
            for vector, text in zip(_embedded(model, texts, "query"), texts, strict=True)
        ]
        backgrounds = len(seen)
        hits = _first_hits(data, () if mode == "dense" else data.lexical, model, requests)
        for query, text, (place, score), usual in zip(queries, texts, hits, seen[backgrounds:], strict=True):
            rows.append(((score - usual.middle) / usual.spread, *query_features(text, usual)))
            is_right.append(place in query.relevant)
            kinds.append(query.kind)
    names = np.array(kinds)
    is_there = np.array([not kind.startswith("-") for kind in kinds])
    return Asked(np.array(rows), is_there, np.array(is_right), names, weights_of(names), seen[0])


def _embedded(model: RememberingEmbedder, texts: Sequence[str], role: Role) -> Vector:
    return np.asarray(model.embed(texts, role).vectors)


def _first_hits(
    data: DataSet, lexical: Sequence[str], model: RememberingEmbedder, requests: Sequence[SearchRequest]
) -> list[tuple[Id, float]]:
    """Place and score of each first hit; without words the score is the similarity."""
    vectors = _embedded(model, [normalise_text(each.text) for each in data.documents], "document")
    spec = CollectionSpec("asked", "int64", vectors.shape[1], "cosine", tuple(lexical))
    items = [
        ItemWrite(place, vector, metadata=document.fields)
        for place, (vector, document) in enumerate(zip(vectors, data.documents, strict=True))
    ]
    with sealed_index(spec, model.info.embedding_version, items) as index:
        found = [index.search(spec.name, [each])[0].hits[0] for each in requests]
    return [(hit.id, 1.0 - hit.distance if hit.score is None else hit.score) for hit in found]


def coefficients_of(*parts: Asked) -> Numbers:
    """Fit to all of them, each as much as any other."""
    return fitted(
        np.concatenate([each.features for each in parts]),
        np.concatenate([each.is_right for each in parts]),
        np.concatenate([each.weights for each in parts]) * AT_ONCE,
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """Of queries that were not fitted to."""

    area: float
    error_of_queries: float
    error_of_hits: float


def confidences(coefficients: Numbers, part: Asked) -> Numbers:
    """Return that of each first hit: (n,)."""
    return chances(part.features @ coefficients[:-1] + coefficients[-1])


def judged(coefficients: Numbers, part: Asked) -> Judged:
    values = confidences(coefficients, part)
    return Judged(
        area(values, part.is_there),
        calibration_error(values, part.is_there, part.weights),
        calibration_error(values, part.is_right, part.weights),
    )


def halves(part: Asked, rng: np.random.Generator) -> tuple[Asked, Asked]:
    """Two halves that have no query in common: of what is there each kind alike, `AT_ONCE` in all, and as
    many of what is not, or half of all."""
    sides: tuple[list[int], list[int]] = ([], [])
    there = sorted(set(part.kinds[part.is_there].tolist()))
    for kind in [*there, "-"]:
        own = part.kinds == kind if kind != "-" else ~part.is_there
        places = rng.permutation(np.flatnonzero(own))
        count = min(len(places) // 2, AT_ONCE // len(there) if kind != "-" else AT_ONCE)
        sides[0].extend(places[:count].tolist())
        sides[1].extend(places[count : 2 * count].tolist())
    return part.at(np.array(sides[0])), part.at(np.array(sides[1]))


def by_halves(part: Asked) -> Judged:
    """Fit to one half, judge the other, `HALVES` times; the mean."""
    rng = np.random.default_rng(SEED)
    found = []
    for _ in range(HALVES):
        mine, others = halves(part, rng)
        found.append(judged(coefficients_of(mine), others))
    return Judged(*(float(np.mean([getattr(each, name) for each in found])) for name in Judged.__slots__))


def by_kind(parts: Mapping[str, Asked], coefficients: Numbers) -> list[Sequence[str]]:
    """Of each kind: queries, share of right first hits, confidence at the 10th, 50th and 90th percentile."""
    rows: list[Sequence[str]] = []
    for name, part in parts.items():
        values = confidences(coefficients, part)
        for kind in sorted(set(part.kinds.tolist())):
            own = part.kinds == kind
            spread = " / ".join(f"{each:.2f}" for each in np.percentile(values[own], (10, 50, 90)))
            rows.append((name, kind, str(own.sum()), f"{part.is_right[own].mean():.2f}", spread))
    return rows


def calibration(version: str, parts: Mapping[Mode, Mapping[str, Asked]]) -> Calibration:
    """Fitted to everything."""
    fits = {
        mode: Coefficients(*np.round(coefficients_of(*own.values()), 3).tolist())
        for mode, own in parts.items()
    }
    usual = [part.background for part in parts["dense"].values()]
    return Calibration(
        version,
        float(np.mean([each.middle for each in usual])),
        float(np.mean([each.spread for each in usual])),
        fits["dense"],
        fits.get("dense_with_words"),
        fits.get("hybrid"),
    )


def _parts(sets: Mapping[str, DataSet]) -> Iterator[tuple[str, Sequence[DataSet]]]:
    """Yield each collection whole, and its parts by size."""
    rng = np.random.default_rng(SEED)
    for name, data in sets.items():
        yield name, [data]
        for size, count in SIZES.items():
            if 2 * size <= len(data.documents):
                yield f"{name}, {size}", [part_of(data, size, rng) for _ in range(count)]


def comparisons(mode: Mode, parts: Mapping[str, Asked]) -> Iterator[tuple[str, str, str, Judged]]:
    """Yield mode, what was judged, what by, and how well."""
    for name, part in parts.items():
        if ", " not in name:
            yield mode, name, "its other half", by_halves(part)
        rest = [each for other, each in parts.items() if other != name]
        if rest:
            yield mode, name, "all others", judged(coefficients_of(*rest), part)
        strangers = [each for other, each in parts.items() if other.split(",")[0] != name.split(",")[0]]
        if strangers:
            yield mode, name, "the other collection", judged(coefficients_of(*strangers), part)
        plain = part.at(np.flatnonzero(part.kinds != "romanised"))
        if rest and mode != "hybrid" and len(plain.kinds) < len(part.kinds):
            found = judged(coefficients_of(*rest), plain)
            yield mode, f"{name}, nothing romanised", "all others", found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=BESIDE)
    parser.add_argument("--models-dir", type=Path, default=Path(".models"))
    parser.add_argument("--model", default="builtin:multilingual-e5-small")
    parser.add_argument("--items", type=Path)
    parser.add_argument("--judgements", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = RememberingEmbedder(
        load_embedder(given.model, "text", models_dir=given.models_dir, dim=384, threads=1)
    )
    if given.items is not None:
        sets = {"own": own_set(given.items, given.judgements)}
    else:
        sets = {each.name: each for each in kitchen_sets(given.data)}
    sets_of = dict(_parts(sets))
    has_words = all(each.lexical for each in sets.values())
    modes: Sequence[Mode] = ("dense", "dense_with_words", "hybrid") if has_words else ("dense",)
    parts: dict[Mode, dict[str, Asked]] = {
        mode: {name: asked(each, mode, model) for name, each in sets_of.items()} for mode in modes
    }
    rows = [row for mode, own in parts.items() for row in comparisons(mode, own)]
    head = ("mode", "collection", "fitted to", "AUC", "ECE of queries", "ECE of hits")
    print(
        table(
            head, [(*row[:3], *(f"{getattr(row[3], each):.3f}" for each in Judged.__slots__)) for row in rows]
        )
    )
    for mode, own in parts.items():
        print(f"\n{mode}\n")
        print(
            table(
                ("collection", "kind", "queries", "right", "confidence"),
                by_kind(own, coefficients_of(*own.values())),
            )
        )
    found = calibration(model.info.embedding_version, parts)
    model.close()
    text = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
    print(f"\n{text}")
    if given.out is not None:
        given.out.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
