"""How good answers are: of each embedder by kind of query, of dense, lexical and hybrid search, of pictures.

    python -m benchmarks.bench_quality [DATA_DIR] [--only kinds texts pictures] [--models-dir .models]

DATA_DIR holds recipes.jsonl, recipe_queries.jsonl, images.jsonl and images/, and for `kinds`
kok_products.csv, osm_presets_ko.jsonl, emoji_ko.jsonl and tuxpaint_ko.jsonl; what is not there is left out,
and said to be. `kinds`: dense, lexical and hybrid answers of a service to each kind of query
(benchmarks/quality_queries.py says how each is made), with 95 % intervals of what hybrid gains by paired
bootstrap. Vectors are kept in .cache/vectors: a second run takes half a minute.
`texts`: every embedder and template on the recipes. Without labelled data the demo's pictures are changed and
found again, without a limit. Texts go through normalise_text and the collection's
template, pictures as JPEG bytes through decode_image, both through the batchers, as in the service. The
answers are exact; those of a sealed index stand beside them, and for pictures those of a running service that
got them by upload; they may be .005 off. Near-duplicate: a picture cropped, turned, relit and compressed
finds its original among all. Cross-rendering: a flat drawing finds the 3D rendering of the same thing, also
where both are shown at one scale. The tables go to .out/quality.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import quality_modes, quality_pictures, quality_texts
from benchmarks.embedding_service import OUT, Report
from benchmarks.quality_pictures import Picture
from benchmarks.quality_queries import rows_of
from service.demo.catalogue import products

PARTS = ("kinds", "texts", "pictures")
BESIDE = Path(__file__).parents[2] / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=BESIDE)
    parser.add_argument("--models-dir", type=Path, default=Path(".models"))
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    report = Report("quality")
    tables: list[str] = []
    if "kinds" in given.only:
        for row in quality_modes.judged(given.data, given.models_dir, tables):
            report.add([row])
    if "texts" in given.only:
        names = ("recipes", "recipe_queries")
        if (given.data / "recipes.jsonl").exists():
            recipes, queries = (rows_of(given.data / f"{name}.jsonl") for name in names)
            print(f"recipes: {len(recipes)} documents, {len(queries)} queries")
            for row in quality_texts.judged(recipes, queries, given.models_dir, tables):
                report.add([row])
        else:
            print(f"recipes: none at {given.data}, left out")
    if "pictures" in given.only:
        pictures = _pictures(given.data)
        print(f"pictures: {len(pictures)}, seed {quality_pictures.SEED}")
        for row in quality_pictures.judged(pictures, given.models_dir, tables):
            report.add([row])
    print("", *tables, sep="\n\n")
    (OUT / "quality.md").write_text("\n\n".join(tables) + "\n", "utf-8")


def _pictures(data: Path) -> list[Picture]:
    """Return the labelled ones, else the demo's."""
    if not (data / "images.jsonl").exists():
        print(f"pictures: none at {data}, those of the demo instead")
        return [Picture(each.jpeg, each.product_id, "demo") for each in products()]
    rows = rows_of(data / "images.jsonl")
    return [Picture((data / "images" / row["file"]).read_bytes(), row["item"], row["source"]) for row in rows]


if __name__ == "__main__":
    main()
