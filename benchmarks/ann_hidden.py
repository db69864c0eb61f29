"""Rows of `bench_ann`: searches with filters and exclude_ids, whole, through the index."""

from __future__ import annotations

from functools import partial

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.ann_fixture import Bench, Mask, SeenRow, recall_of
from benchmarks.timing import Call, in_turns
from index_store.ann.validation import pack_allowed
from index_store.types import Id

K = 25
SHARES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)


def filters(bench: Bench) -> list[SeenRow]:
    """Filters of every size, random and lying together, against FAISS's own scan with a selector."""
    seen = []
    queries = range(0, len(bench.queries), 2)
    for share in SHARES:
        for column, kind in enumerate(("random", "near")):
            mask = bench.shares[:, column] < np.float32(share)
            where = {kind: {"$lt": float(np.float32(share))}}
            selector = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits := pack_allowed(mask)))

            def ours(n: int, where: dict[str, dict[str, float]] = where) -> list[Id]:
                return bench.default.ask(bench.queries[n], K, filter=where)

            def raw(n: int, selector: object = selector, _bits: object = bits) -> object:
                return bench.codes.search(bench.coded[n : n + 1], 40, params=selector)

            us = in_turns({"ours": ours, "raw": raw}, queries, rounds=2)
            found = [ours(n) for n in queries]
            recall = recall_of(bench.distances, found, K, partial(_same, mask), queries)
            kind_ = "random" if kind == "random" else "clustered"
            note = f"{us['ours']:.0f} µs, raw int8 selector scan {us['raw']:.0f}; 0 would mean short or wrong"
            seen.append(
                SeenRow(f"recall@{K}, filter {share:.1%} {kind_}", recall, 0.99, at_least=True, note=note)
            )
            if share == 0.01 and kind == "random":
                what = "search, filter 1 % / raw FAISS int8 selector scan"
                seen.append(SeenRow(what, us["ours"] / us["raw"], 0.4 / 0.3))
    return seen


def _same(mask: Mask, _n: int) -> Mask:
    return mask


def excludes(bench: Bench, seed: int) -> list[SeenRow]:
    """exclude_ids at random and of the nearest rows: time over the unfiltered search, recall."""
    random = np.random.default_rng(seed)
    count = len(bench.rows)
    most = min(100_000, count - 50)
    cases: tuple[tuple[str, int, float | None], ...] = (
        ("random", 10, 1.3),
        ("random", 1000, 1.5),
        ("nearest", 100, 4.0),
        ("nearest", 1000, 1.5),
        ("random", most, None),
    )
    seen = []
    for kind, size, limit in cases:
        queries = range(0, len(bench.queries), 2 if size < 10_000 else 10)
        ids = {n: _excluded(bench, n, kind, size, random) for n in queries}

        def ours(n: int, ids: dict[int, npt.NDArray[np.int64]] = ids) -> list[Id]:
            return bench.default.ask(bench.queries[n], K, exclude_ids=ids[n])

        def exact(n: int, ids: dict[int, npt.NDArray[np.int64]] = ids) -> list[Id]:
            return bench.default.ask(bench.queries[n], K, exclude_ids=ids[n], exact=True)

        def mask_of(n: int, ids: dict[int, npt.NDArray[np.int64]] = ids) -> Mask:
            mask = np.ones(count, bool)
            mask[ids[n]] = False
            return mask

        is_scan = (kind, size) == ("nearest", 1000)
        us = in_turns({"ours": ours, "other": _scan(bench) if is_scan else _unfiltered(bench)}, queries)
        recall = recall_of(bench.distances, [ours(n) for n in queries], K, mask_of, queries)
        sure = recall_of(bench.distances, [exact(n) for n in queries[::5]], K, mask_of, queries[::5])
        what = f"exclude {size:,} {kind}"
        seen.append(SeenRow(f"recall@{K}, {what}", recall, 0.98, at_least=True))
        seen.append(SeenRow(f"recall@{K}, {what}, exact", sure, 1.0, at_least=True))
        other = "one int8 scan" if is_scan else "unfiltered"
        note = f"{us['ours']:.0f} and {us['other']:.0f} µs"
        seen.append(SeenRow(f"{what} / {other}", us["ours"] / us["other"], limit, note=note))
    return seen


def _excluded(
    bench: Bench, n: int, kind: str, size: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    if kind == "nearest":
        return np.argpartition(bench.distances[n], size)[:size].astype(np.int64)
    return random.permutation(len(bench.rows))[:size].astype(np.int64)


def _unfiltered(bench: Bench) -> Call:
    return lambda n: bench.default.ask(bench.queries[n], K)


def _scan(bench: Bench) -> Call:
    return lambda n: bench.codes.search(bench.coded[n : n + 1], 40)
