"""Rows of `bench_ann`: churn, opening, memory, threads, and searches while a build runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.ann_fixture import NAME, Bench, SeenRow, Stored, recall_of, squares
from benchmarks.ann_processes import run_processes
from index_store.segment.builder import BuildOptions
from index_store.segment.reader import SegmentReader
from index_store.types import Id, ItemDelete, WriteBatch

CHURNED_ROWS = 12_000


def churn(bench: Bench) -> list[SeenRow]:
    """Recall with defaults after each kind of change, with a graph; at last against a fresh build."""
    size = min(CHURNED_ROWS, len(bench.rows) // 2)
    rows, dim = bench.rows[: 2 * size], bench.rows.shape[1]
    options = BuildOptions(engine="hnsw")
    stored = Stored(bench.folder / "churn", dim).begin()
    stored.write(range(size), rows[:size])
    stored.seal(options)
    distances = squares(bench.queries, rows)
    live = np.zeros(len(rows), bool)
    live[:size] = True
    seen = _recalls(bench, stored, distances, live, "after build")
    fresh = np.arange(size, size + size // 10)
    stored.write(fresh.tolist(), rows[fresh])
    live[fresh] = True
    seen += _recalls(bench, stored, distances, live, "after inserting 10 %")
    _delete(stored, live, np.arange(0, size, 10))
    seen += _recalls(bench, stored, distances, live, "after deleting 10 %")
    _delete(stored, live, np.flatnonzero(live)[::2])
    more = np.arange(size + size // 10, size + size // 2)
    stored.write(more.tolist(), rows[more])
    live[more] = True
    churned = _recalls(bench, stored, distances, live, "after 50 % churn")
    stored.seal(options)
    merged = _recalls(bench, stored, distances, live, "after the merge")
    stored.close()
    again = Stored(bench.folder / "fresh", dim).begin()
    again.write(np.flatnonzero(live).tolist(), rows[live])
    again.seal(options)
    rebuilt = _recalls(bench, again, distances, live, "of a fresh build")
    again.close()
    below = [
        SeenRow(f"{row.what.split(',')[0]}, churned less fresh", row.seen - base.seen, -0.002, at_least=True)
        for row, base in zip(churned, rebuilt, strict=True)
    ]
    return [*seen, *churned, *merged, *below]


def _delete(stored: Stored, live: np.ndarray, ids: np.ndarray) -> None:
    stored.index.write(NAME, WriteBatch(deletes=[ItemDelete(i) for i in ids.tolist()]))
    live[ids] = False


def _recalls(
    bench: Bench, stored: Stored, distances: np.ndarray, live: np.ndarray, when: str
) -> list[SeenRow]:
    seen = []
    for k in (10, 25):
        found = [stored.ask(query, k) for query in bench.queries]
        recall = recall_of(distances, found, k, lambda _n: live)
        what = f"recall@{k}, {live.sum():,} rows, {when}"
        seen.append(SeenRow(what, recall, 0.99, at_least=True))
    return seen


def processes(bench: Bench) -> list[SeenRow]:
    """Memory of four workers; two threads of one process against two processes."""
    directory = next(bench.default.data_dir.glob("collections/*/*/segments/*"))
    path = bench.folder / "queries.npy"
    np.save(path, bench.queries)
    reports = run_processes(directory, path, 4, 1, 200)
    size = sum(p.stat().st_size for p in directory.iterdir()) / 2**20
    total = sum(r["shared_mb"] for r in reports)
    most = max(r["private_mb"] for r in reports)
    shares = []
    for _ in range(
        5
    ):  # in turns: this machine's own speed changes more from minute to minute than they differ
        threads = run_processes(directory, path, 1, 2, 3000)[0]["per_second"]
        alone = sum(r["per_second"] for r in run_processes(directory, path, 2, 1, 3000))
        shares.append(threads / alone)
    bound = (1.05 * size + 4 * 5) / size
    note = f"{total:.0f} of {size:.0f} MB; private heap at most {most:.1f} MB a process, queries included"
    return [
        SeenRow("PSS of the index in 4 processes / file size", total / size, bound, note=note),
        SeenRow(
            "two threads / two processes, searches a second",
            float(np.median(shares)),
            0.9,
            at_least=True,
            note=f"median of five, {min(shares):.2f} to {max(shares):.2f}",
        ),
    ]


def opening(bench: Bench) -> list[SeenRow]:
    directory = next(bench.default.data_dir.glob("collections/*/*/segments/*"))
    took: dict[str, list[float]] = {"verified": [], "in full": []}
    for _ in range(5):
        for name, sha256 in (("verified", bench.segment.sha256), ("in full", None)):
            began = time.perf_counter()
            SegmentReader.open(directory, sha256)
            took[name].append(time.perf_counter() - began)
    note = f"{min(took['in full']) * 1e3:.0f} ms when every byte is hashed first, as at the start of a worker"
    return [SeenRow("opening a segment that was verified, ms", min(took["verified"]) * 1e3, 50.0, note=note)]


def while_building(bench: Bench) -> list[SeenRow]:
    """p99 of whole searches, and that none fails or is mixed, while another process builds and swaps."""
    stored = bench.plain
    quiet = _slowest(stored, bench, time.perf_counter() + 8.0)
    code = (
        "import sys; from pathlib import Path; from index_store.maintenance.worker import *\n"
        "from index_store.segment.builder import BuildOptions\n"
        "lower_priority()\n"
        "build = BuildOptions(engine='hnsw', storage='float32')\n"
        "limits = MaintenanceLimits(seal_rows=1, waste_share=0.0, growing_polls_max=0, build=build)\n"
        "Maintenance(Path(sys.argv[1]), limits=limits).run_once()\n"
    )
    before = stored.ask(bench.queries[0], 25)
    command = [sys.executable, "-c", code, str(stored.data_dir)]
    passive = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # as `python -m index_store maintain` sets it
    builder = subprocess.Popen(command, cwd=Path(__file__).parents[1], env=passive)
    try:
        busy = _slowest(stored, bench, time.perf_counter() + 15.0, builder)
        builder.wait(timeout=600)
    finally:
        builder.kill()
        builder.wait()
    time.sleep(1.0)
    wrong = sum(set(stored.ask(bench.queries[0], 25)) != set(before) for _ in range(50))
    note = f"{busy:.0f} and {quiet:.0f} µs on the clock; {wrong} of 50 answers changed by the swap"
    return [SeenRow("p99 of searches during a build / before", busy / quiet, 1.5, note=note)]


def _slowest(
    stored: Stored, bench: Bench, until: float, beside: subprocess.Popen[bytes] | None = None
) -> float:
    took = []
    n = 0
    while time.perf_counter() < until and (beside is None or beside.poll() is None):
        began = time.perf_counter()
        found: list[Id] = stored.ask(bench.queries[n % len(bench.queries)], 25)
        took.append(time.perf_counter() - began)
        assert len(found) == 25
        n += 1
    return float(np.quantile(took, 0.99)) * 1e6
