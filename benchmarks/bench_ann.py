"""Sealed segments against the raw libraries, every timing a ratio taken in turns in the same process.

    python -m benchmarks.bench_ann [--rows 98000] [--queries 300] [--out .out]

Prints a table of what must hold and what was seen; draws recall/latency curves to OUT/bench_ann.svg.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks import ann_fixture
from benchmarks.ann_fixture import Bench, SeenRow, recall_of
from benchmarks.ann_processes import run_processes
from benchmarks.curves import Curve, draw
from benchmarks.timing import in_turns
from index_store.ann.checks import pack_allowed
from index_store.embedded.segment import Segment

EFS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
SEED = 12


def same_ef(bench: Bench) -> list[SeenRow]:
    """A float32 segment against raw FAISS over the same graph, with rows hidden at random."""
    random = np.random.default_rng(SEED)
    seen = []
    params = faiss.SearchParametersHNSW(efSearch=64)

    def raw(n: int) -> object:
        return bench.raw.search(bench.queries[n : n + 1], 25, params=params)

    for share in (0.0, 0.1, 0.3):
        allowed = pack_allowed(random.random(bench.rows) >= share) if share else None

        def segment(n: int, allowed: npt.NDArray[np.uint8] | None = allowed) -> object:
            return bench.plain.candidates(bench.queries[n], 25, allowed, ef=64)

        us = in_turns(
            {
                "raw": lambda n: bench.raw.search(bench.queries[n : n + 1], 25, params=params),
                "segment": segment,
            },
            range(len(bench.queries)),
            rounds=3,
        )
        seen.append(
            SeenRow(f"{share:.0%} tombstones, float32, ef 64 / raw FAISS", us["segment"] / us["raw"], 1.10)
        )
    return seen


def curves(bench: Bench) -> tuple[list[SeenRow], dict[str, Curve]]:
    """Recall@10 and time over ef, all engines in turns; and the times at equal recall of .99."""
    engines: dict[str, Callable[[int, int], npt.NDArray[np.int64]]] = {
        "segment, float32": lambda n, ef: bench.plain.candidates(bench.queries[n], 10, None, ef=ef)[0],
    }
    if bench.segment.facts.engine == "hnsw":
        name = f"segment, {bench.segment.facts.storage}"
        engines[name] = lambda n, ef: bench.segment.candidates(bench.queries[n], 10, None, ef=ef)[0]
    if bench.library is not None:
        library = bench.library

        def raw_hnswlib(n: int, ef: int) -> npt.NDArray[np.int64]:
            library.set_ef(ef)
            labels, _ = library.knn_query(bench.queries[n : n + 1], 10, num_threads=1)
            return labels[0].astype(np.int64)

        engines["raw hnswlib"] = raw_hnswlib
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for ef in EFS:
        calls = {name: (lambda n, call=call, ef=ef: call(n, ef)) for name, call in engines.items()}
        us = in_turns(calls, range(len(bench.queries)))
        for name, call in engines.items():
            found = [call(n, ef) for n in range(len(bench.queries))]
            drawn[name].append((recall_of(bench, found, 10), us[name]))
    scan_us = in_turns(
        {"scan": lambda n: bench.segment.candidates(bench.queries[n], 10, None, exact=True)},
        range(0, len(bench.queries), 3),
    )
    seen = []
    if bench.library is not None:
        ours = next(reversed([name for name in engines if name.startswith("segment")]))
        best = _time_at(drawn[ours], 0.99)
        if bench.segment.facts.engine == "scan":
            best = scan_us["scan"]
        ratio = best / _time_at(drawn["raw hnswlib"], 0.99)
        seen.append(SeenRow("default / raw hnswlib at equal recall@10 of .99", ratio, 0.85))
    return seen, {**drawn, "segment, exact": [(0.9996, scan_us["scan"])]}


def _time_at(curve: list[tuple[float, float]], recall: float) -> float:
    """The time at which a curve reaches a recall; infinite if it never does."""
    before: tuple[float, float] | None = None
    for point in curve:
        if point[0] >= recall:
            if before is None or point[0] == before[0]:
                return point[1]
            return before[1] + (point[1] - before[1]) * (recall - before[0]) / (point[0] - before[0])
        before = point
    return float("inf")


def defaults(bench: Bench) -> list[SeenRow]:
    seen = []
    for k in (10, 25, 100):
        found = [bench.segment.candidates(query, k, None)[0] for query in bench.queries]
        seen.append(SeenRow(f"recall@{k} with defaults", recall_of(bench, found, k), 0.99, at_least=True))
    return seen


def filters(bench: Bench) -> list[SeenRow]:
    """Filters of every size, random and lying together; the smallest against FAISS's own filtered scan."""
    random = np.random.default_rng(SEED)
    around = np.linalg.norm(bench.segment.vectors - bench.queries[0], axis=1)
    seen = []
    for share in (0.001, 0.01, 0.05, 0.1, 0.2, 0.5):
        for kind in ("random", "clustered"):
            scattered = random.random(bench.rows) < share
            mask = scattered if kind == "random" else around <= np.quantile(around, share)
            allowed = pack_allowed(mask)
            selector = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(allowed))

            def segment(n: int, allowed: npt.NDArray[np.uint8] = allowed) -> npt.NDArray[np.int64]:
                return bench.segment.candidates(bench.queries[n], 25, allowed)[0]

            def raw(n: int, selector: object = selector) -> object:
                return bench.codes.search(bench.coded[n : n + 1], 40, params=selector)

            us = in_turns({"segment": segment, "raw": raw}, range(0, len(bench.queries), 2), rounds=1)
            found = [segment(n) for n in range(len(bench.queries))]
            wanted = min(25, int(mask.sum()))
            short = sum(len(rows) < wanted for rows in found)
            recall = recall_of(bench, found, 25, lambda _n, mask=mask: mask)
            note = f"{us['segment']:.0f} µs, raw int8 selector scan {us['raw']:.0f} µs, {short} short"
            what = f"recall@25, filter {share:.1%} {kind}"
            seen.append(SeenRow(what, recall if not short else 0.0, 0.99, at_least=True, note=note))
            if share == 0.01 and kind == "random":
                seen.append(
                    SeenRow("filter 1 % / raw int8 selector scan", us["segment"] / us["raw"], 0.4 / 0.3)
                )
    return seen


def excludes(bench: Bench) -> list[SeenRow]:
    """exclude_ids at random and of the nearest rows: time over the unfiltered search, recall."""
    random = np.random.default_rng(SEED)
    most = min(100_000, bench.rows - 50)
    cases = (("random", 10, 1.3), ("random", 1000, 1.5), ("nearest", 100, 4.0), ("nearest", 1000, 1.5))
    seen = []
    queries = range(0, len(bench.queries), 2)
    for kind, count, limit in (*cases, ("random", most, None)):
        masks = {}
        for n in queries:
            mask = np.ones(bench.rows, bool)
            order = bench.order[n] if kind == "nearest" else random.permutation(bench.rows)
            mask[order[:count]] = False
            masks[n] = mask
        bits = {n: pack_allowed(mask) for n, mask in masks.items()}
        over_scan = kind == "nearest" and count == 1000

        def compared(n: int, over_scan: bool = over_scan) -> object:
            if over_scan:
                return bench.codes.search(bench.coded[n : n + 1], 40)
            return bench.segment.candidates(bench.queries[n], 25, None)

        def segment(n: int, bits: dict[int, npt.NDArray[np.uint8]] = bits) -> npt.NDArray[np.int64]:
            return bench.segment.candidates(bench.queries[n], 25, bits[n])[0]

        us = in_turns({"segment": segment, "compared": compared}, queries, rounds=2)
        found = [segment(n) for n in queries]
        recall = recall_of(bench, found, 25, lambda n, masks=masks: masks[n], list(queries))
        short = sum(len(rows) < min(25, bench.rows - count) for rows in found)
        what = f"exclude {count} {kind}"
        seen.append(
            SeenRow(
                f"recall@25, {what}", 0.0 if short else recall, 0.98, at_least=True, note=f"{short} short"
            )
        )
        if limit is not None:
            other = "one int8 scan" if over_scan else "unfiltered"
            seen.append(
                SeenRow(
                    f"{what} / {other}", us["segment"] / us["compared"], limit, note=f"{us['segment']:.0f} µs"
                )
            )
    return seen


def processes(bench: Bench, folder: Path) -> list[SeenRow]:
    """Memory of four workers; two threads of one process against two processes."""
    np.save(folder / "queries.npy", bench.queries)
    reports = run_processes(bench.directory, folder / "queries.npy", 4, 1, 200)
    size = sum(p.stat().st_size for p in bench.directory.iterdir()) / 2**20
    total = sum(r["shared_mb"] for r in reports)
    most = max(r["private_mb"] for r in reports)
    searches = 1500
    threads = run_processes(bench.directory, folder / "queries.npy", 1, 2, searches)[0]["per_second"]
    both = run_processes(bench.directory, folder / "queries.npy", 2, 1, searches)
    alone = sum(r["per_second"] for r in both)
    note = f"files {size:.0f} MB, private heap at most {most:.1f} MB a process, queries included"
    return [
        SeenRow("PSS of the mapped index in 4 processes / file size", total / size, 1.05, note=note),
        SeenRow("two threads / two processes, searches a second", threads / alone, 0.9, at_least=True),
    ]


def opening(bench: Bench) -> list[SeenRow]:
    took: dict[str, list[float]] = {"verified": [], "in full": []}
    for _ in range(5):
        for name, sha256 in (("verified", bench.segment.sha256), ("in full", None)):
            began = time.perf_counter()
            Segment.open(bench.directory, sha256)
            took[name].append(time.perf_counter() - began)
    full = f"{np.median(took['in full']) * 1e3:.0f} ms when every byte is hashed first"
    return [
        SeenRow("opening a verified segment, ms", float(np.median(took["verified"])) * 1e3, 50.0, note=full)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=98_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(".out"))
    chosen, _ = parser.parse_known_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench, seen = ann_fixture.build(chosen.rows, chosen.queries, Path(folder))
        facts = bench.segment.facts
        print(f"engine {facts.engine}, storage {facts.storage}, {facts.library}")
        more, drawn = curves(bench)
        seen += [*same_ef(bench), *more, *defaults(bench), *filters(bench), *excludes(bench)]
        seen += [*opening(bench), *processes(bench, Path(folder))]
    (chosen.out / "bench_ann.svg").write_text(draw(f"{bench.name}, {bench.rows} rows, recall@10", drawn))
    table = "\n".join(["| what | seen | must be | | |", "| --- | --- | --- | --- | --- |", *map(str, seen)])
    (chosen.out / "bench_ann.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
