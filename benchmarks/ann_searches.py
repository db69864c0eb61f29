"""Rows of `bench_ann`: plain searches, by hidden share and delta, against raw FAISS and hnswlib."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.ann_fixture import Bench, SeenRow, Stored, recall_of
from benchmarks.curves import Curve
from benchmarks.timing import in_turns
from index_store.types import ItemDelete, WriteBatch

K = 25
EFS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384)


def same_ef(bench: Bench, seed: int) -> list[SeenRow]:
    """Whole searches of the float32 index over raw FAISS at the ef that the index chose."""
    random = np.random.default_rng(seed)
    count, dim = bench.rows.shape
    fresh = bench.rows[random.choice(count, 4000)] + 0.02 * random.normal(size=(4000, dim))
    fresh = (fresh / np.linalg.norm(fresh, axis=1, keepdims=True)).astype(np.float32)
    spare = bench.folder / "deleted from"
    # Closed first: whoever opens and closes a file of SQLite loses the process's own locks on it.
    bench.plain.close()
    shutil.copytree(bench.plain.data_dir, spare)
    bench.plain.reopen()
    seen = [
        _segment_alone(bench),
        _compared(bench, bench.plain, count, "empty delta, no tombstones", 1.10),
    ]
    bench.plain.write(range(count, count + 1000), fresh[:1000])
    seen.append(_compared(bench, bench.plain, count, "1,000 delta rows", 1.25))
    bench.plain.write(range(count + 1000, count + 4000), fresh[1000:])
    seen.append(_compared(bench, bench.plain, count, "4,000 delta rows", 1.6))
    stored = Stored(spare, dim).open()
    order = random.permutation(count)
    for before, after in ((0.0, 0.1), (0.1, 0.3)):
        gone = order[int(before * count) : int(after * count)].tolist()
        for start in range(0, len(gone), 5000):
            deletes = [ItemDelete(i) for i in gone[start : start + 5000]]
            stored.index.write("bench", WriteBatch(deletes=deletes))
        live = count - int(after * count)
        seen.append(_compared(bench, stored, live, f"empty delta, {after:.0%} tombstones", 1.10))
    stored.close()
    return seen


def _compared(bench: Bench, stored: Stored, live: int, what: str, bound: float | None) -> SeenRow:
    # The engine asks its segments for one row more than k, to know whether anything comes after them.
    ef = bench.plain_segment.plan(live, K + 1).breadth
    if not ef:  # so few rows that they are scanned: nothing to compare a graph with
        ef, bound = 64, None
    params = faiss.SearchParametersHNSW(efSearch=ef)
    us = in_turns(
        {
            "raw": lambda n: bench.raw.search(bench.queries[n : n + 1], K, params=params),
            "ours": lambda n: stored.ask(bench.queries[n], K),
        },
        range(len(bench.queries)),
    )
    note = f"{us['ours']:.0f} and {us['raw']:.0f} µs, ef {ef}, float32, k {K}"
    return SeenRow(f"search, {what} / raw FAISS at the same ef", us["ours"] / us["raw"], bound, note=note)


def _segment_alone(bench: Bench) -> SeenRow:
    ef = 64
    params = faiss.SearchParametersHNSW(efSearch=ef)
    us = in_turns(
        {
            "raw": lambda n: bench.raw.search(bench.queries[n : n + 1], K, params=params),
            "ours": lambda n: bench.plain_segment.candidates(bench.queries[n], K, None, ef=ef),
        },
        range(len(bench.queries)),
    )
    note = f"{us['ours']:.0f} and {us['raw']:.0f} µs, ef {ef}, the segment without store and delta"
    return SeenRow("segment alone / raw FAISS at the same ef", us["ours"] / us["raw"], 1.10, note=note)


def curves(bench: Bench) -> tuple[list[SeenRow], dict[str, Curve]]:
    """Recall@10 and time over ef, all engines in turns; and the times at equal recall of .99."""
    ids = bench.segment.ids_of(np.arange(bench.segment.rows))
    plain_ids = bench.plain_segment.ids_of(np.arange(bench.plain_segment.rows))
    engines: dict[str, Callable[[int, int], npt.NDArray[np.int64]]] = {
        "segment, float32": lambda n, ef: plain_ids[
            bench.plain_segment.candidates(bench.queries[n], 10, None, ef=ef)[0]
        ],
        "raw FAISS": lambda n, ef: bench.raw.search(
            bench.queries[n : n + 1], 10, params=faiss.SearchParametersHNSW(efSearch=ef)
        )[1][0],
    }
    ours = "segment, float32"
    if bench.segment.facts.storage not in (None, "float32"):
        ours = f"segment, {bench.segment.facts.storage} (default)"
        engines[ours] = lambda n, ef: ids[bench.segment.candidates(bench.queries[n], 10, None, ef=ef)[0]]
    if bench.library is not None:
        engines["raw hnswlib"] = lambda n, ef: _by_hnswlib(bench, n, ef)
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    queries = range(len(bench.queries))
    for ef in EFS:
        calls = {name: (lambda n, call=call, ef=ef: call(n, ef)) for name, call in engines.items()}
        us = in_turns(calls, queries, rounds=2)
        for name, call in engines.items():
            found = [call(n, ef).tolist() for n in queries]
            drawn[name].append((recall_of(bench.distances, found, 10), us[name]))
    scan = in_turns(
        {"scan": lambda n: bench.segment.candidates(bench.queries[n], 10, None, exact=True)}, queries[::3]
    )["scan"]
    seen = []
    if bench.library is not None:
        best = scan if bench.segment.facts.engine == "scan" else _time_at(drawn[ours], 0.99)
        other = _time_at(drawn["raw hnswlib"], 0.99)
        note = f"{best:.0f} and {other:.0f} µs; {ours}"
        seen.append(SeenRow("default / raw hnswlib at equal recall@10 of .99", best / other, 0.85, note=note))
    return seen, {**drawn, "segment, exact": [(0.9996, scan)]}


def _by_hnswlib(bench: Bench, n: int, ef: int) -> npt.NDArray[np.int64]:
    bench.library.set_ef(ef)
    labels, _ = bench.library.knn_query(bench.queries[n : n + 1], 10, num_threads=1)
    found: npt.NDArray[np.int64] = labels[0].astype(np.int64)
    return found


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
    """Recall of whole searches with default settings."""
    seen = []
    for k in (10, 25, 100):
        found = [bench.default.ask(query, k) for query in bench.queries]
        recall = recall_of(bench.distances, found, k)
        bound = 0.99 if k <= 25 else None
        seen.append(SeenRow(f"recall@{k} with defaults, after build", recall, bound, at_least=True))
    return seen
