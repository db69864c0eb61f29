"""The index against the raw libraries, every timing a ratio taken in turns in the same process.

    python -m benchmarks.bench_ann [--rows 98000] [--queries 300] [--synthetic] [--out .out]

Prints a table of what must hold and what was seen; the same as JSON, and recall/latency curves as a picture,
in OUT/bench_ann.{md,json,svg}. From 500,000 rows on only what that size is for: it builds, opens and serves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import faiss

from benchmarks import ann_fixture, ann_hidden, ann_million, ann_searches, ann_upkeep
from benchmarks.ann_fixture import SeenRow
from benchmarks.curves import Curve, draw

SEED = 12
MANY_ROWS = 500_000


def measure(rows: int, queries: int, synthetic: bool, folder: Path) -> tuple[list[SeenRow], dict[str, Curve]]:
    bench, seen = ann_fixture.build(rows, queries, folder, synthetic)
    facts = bench.segment.facts
    print(f"default: engine {facts.engine}, storage {facts.storage}, {facts.library}", flush=True)
    more, drawn = ann_searches.curves(bench)
    print(*more, sep="\n", flush=True)
    steps: tuple[Callable[[], list[SeenRow]], ...] = (
        lambda: ann_searches.defaults(bench),
        lambda: ann_hidden.filters(bench),
        lambda: ann_hidden.excludes(bench, SEED),
        lambda: ann_searches.same_ef(bench, SEED),
        lambda: ann_upkeep.opening(bench),
        lambda: ann_upkeep.processes(bench),
        lambda: ann_upkeep.churn(bench),
        lambda: ann_upkeep.while_building(bench),
    )
    seen += more
    for step in steps:
        some = step()
        print(*some, sep="\n", flush=True)
        seen += some
    bench.default.close()
    bench.plain.close()
    return seen, drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=98_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(".out"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    print("| what | seen | must be | | |\n| --- | --- | --- | --- | --- |", flush=True)
    threads = faiss.omp_get_max_threads()
    drawn: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as folder:
        if chosen.rows >= MANY_ROWS:
            seen = ann_million.measure(chosen.rows, chosen.queries, Path(folder))
            print(*seen, sep="\n")
        else:
            seen, drawn = measure(chosen.rows, chosen.queries, chosen.synthetic, Path(folder))
    name = "bench_ann" if drawn else "bench_ann_many"
    if drawn:
        (chosen.out / f"{name}.svg").write_text(draw(f"{chosen.rows} rows, recall@10", drawn))
    table = "\n".join(["| what | seen | must be | | |", "| --- | --- | --- | --- | --- |", *map(str, seen)])
    (chosen.out / f"{name}.md").write_text(table + "\n")
    facts = {"rows": chosen.rows, "threads": threads, "seen": [row.to_json() for row in seen]}
    (chosen.out / f"{name}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    missed = [row.what for row in seen if row.verdict == "MISS"]
    print(f"{sum(row.verdict == 'PASS' for row in seen)} pass, {len(missed)} miss", *missed, sep="\n  ")


if __name__ == "__main__":
    main()
