"""What the service adds to its models: idle, in bursts, while writing, in memory and at the start.

    python -m benchmarks.bench_embedding [--only idle bursts texts pictures start batch] [--texts 600]

Both built-in models behind the HTTP service, in processes of their own; the load client shares the machine.
Contenders take turns in one run; ratios of medians are judged. The lock is the same service with one stream
and batches of one. The offline loop embeds the same items in one process at the priority that the service
gives to writes, so that neighbours on the machine take as much from both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import (
    Report,
    Row,
    Served,
    bare_load_s,
    bare_start_s,
    offline_pictures,
    offline_texts,
    picture_bodies,
    picture_files,
    queries,
    text_bodies,
    texts,
)
from benchmarks.http_load import closed_loop, one_by_one, post
from service.embedding.catalog.loader import load_embedder

CORES = os.cpu_count() or 1
TEXT_MODEL = "builtin:multilingual-e5-small"
PACE_S = 0.1
DIM = 384
SERVED = frozenset(("idle", "bursts", "texts", "pictures"))
SECTIONS = ("idle", "bursts", "texts", "pictures", "start", "batch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load under turns")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models-dir", type=Path, default=Path(".models"))
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    given = parser.parse_args()
    report = Report("embedding")
    with tempfile.TemporaryDirectory() as work:
        if SERVED & set(given.only):
            with Served(Path(work) / "one", given.models_dir) as service:
                service.fill(text_bodies(texts(300), 300))
                served(service, Path(work), given, report)
        if "start" in given.only:
            report.add(starting(Path(work), given.models_dir))
    if "batch" in given.only:
        report.add([batch_independence(given.models_dir)])


def served(service: Served, work: Path, given: argparse.Namespace, report: Report) -> None:
    """The sections that ask one running service."""
    asked = queries()
    if "idle" in given.only:
        report.add(idle(service.port, given.models_dir, asked))
    if "bursts" in given.only:
        with Served(work / "lock", given.models_dir, MODEL_STREAMS="1", BATCH_SIZE="1") as lock:
            lock.fill(text_bodies(texts(300), 300))
            report.add(bursts(service, lock, given, asked))
    for content in ("texts", "pictures"):
        if content in given.only:
            report.add(writing(content, service, given, asked))


def idle(port: int, models_dir: Path, asked: Iterator[str]) -> list[Row]:
    """One query at a time: new ones beside the bare forward pass, known ones beside a search by vector."""
    embedder = load_embedder(TEXT_MODEL, "text", models_dir=models_dir, dim=DIM, threads=1)
    bare: list[float] = []
    served: list[float] = []
    cached: list[float] = []
    by_vector: list[float] = []
    known = search("늘 같은 질문")
    vector = post("/v1/search", json.dumps({"vector": [0.05] * DIM, "top_k": 25}).encode())
    new = [next(asked) for _ in range(80)]
    answers = one_by_one(port, list(in_turns(new, known, vector)))
    for turn, text in enumerate(new):
        known_first = turn % 2 == 0
        for took in (served, *((cached, by_vector) if known_first else (by_vector, cached))):
            took.append(next(answers)[0])
        began = time.perf_counter()
        embedder.embed([text], "query")
        bare.append(time.perf_counter() - began)
    one, loop, hit, raw = (float(np.median(took[10:])) * 1000 for took in (served, bare, cached, by_vector))
    return [
        Row("idle query p50 / bare forward pass", one / loop, 1.3, detail=f"{one:.1f} / {loop:.1f} ms"),
        Row("cached query p50 / search by vector", hit / raw, 1.2, detail=f"{hit:.2f} / {raw:.2f} ms"),
    ]


def in_turns(new: Sequence[str], known: bytes, vector: bytes) -> Iterator[bytes]:
    """Yield each new query, then the known one and the vector, the first in turns: it finds cold caches."""
    for turn, text in enumerate(new):
        yield search(text)
        yield from (known, vector) if turn % 2 == 0 else (vector, known)


def search(text: str) -> bytes:
    return post("/v1/search", json.dumps({"query": text, "top_k": 25}).encode())


def bursts(service: Served, lock: Served, given: argparse.Namespace, asked: Iterator[str]) -> list[Row]:
    """Many new queries at once, against one at a time."""
    rows = []
    for clients in (8, 32):
        gains, lates, details = [], [], []
        for _ in range(given.rounds):
            loads, cpu = {}, {}
            for name, at in (("lock", lock), ("service", service)):
                used = at.cpu_s()
                requests = [search(next(asked)) for _ in range(int(400 * given.seconds))]
                loads[name] = closed_loop(at.port, requests, connections=clients, seconds=given.seconds)
                cpu[name] = (at.cpu_s() - used) / len(loads[name].require_ok().seconds)
            line_ms = batches_in_line_ms(given.models_dir, clients, asked)
            gains.append(loads["service"].per_second / loads["lock"].per_second)
            lates.append(loads["service"].ms(99) / line_ms)
            served, locked = loads["service"], loads["lock"]
            details.append(
                f"{served.per_second:.0f}/s vs {locked.per_second:.0f}/s, p50 {served.ms(50):.0f} "
                f"p99 {served.ms(99):.0f} ms, line {line_ms:.0f} ms, "
                f"CPU a query {cpu['service'] * 1e3:.1f} vs {cpu['lock'] * 1e3:.1f} ms"
            )
        rows.append(
            Row(f"{clients} clients: queries/s / lock", float(np.median(gains)), 2.3, True, details[-1])
        )
        rows.append(Row(f"{clients} clients: p99 / batches in line", float(np.median(lates)), 1.5))
    return rows


def batches_in_line_ms(models_dir: Path, clients: int, asked: Iterator[str]) -> float:
    """Return what a newcomer waits for: the batch under way and its own, both of a stream's share."""
    share = -(-clients // CORES)
    embedder = load_embedder(TEXT_MODEL, "text", models_dir=models_dir, dim=DIM, threads=1)
    took: list[float] = []

    def stream() -> None:
        for _ in range(6):
            batch = [next(asked) for _ in range(share)]
            began = time.perf_counter()
            embedder.embed(batch, "query")
            took.append(time.perf_counter() - began)

    run_together([stream] * CORES)
    return 2 * float(np.median(took)) * 1000


def run_together(works: Sequence[object]) -> None:
    threads = [threading.Thread(target=work) for work in works]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def writing(content: str, service: Served, given: argparse.Namespace, asked: Iterator[str]) -> list[Row]:
    """Writes in content against the offline loop, with a query every 100 ms beside them."""
    loop: Callable[[], tuple[float, float]]
    if content == "texts":
        count, some = given.texts, texts(given.texts)
        loop, bodies = partial(offline_texts, some, given.models_dir), text_bodies(some, 200)
    else:
        count, files = given.pictures, picture_files(given.pictures)
        loop, bodies = partial(offline_pictures, files, given.models_dir), picture_bodies(files, 50)
    rates, details = [], []
    all_quiet: list[float] = []
    all_beside: list[float] = []
    for _ in range(given.rounds):
        quiet = paced(service.port, asked, lambda began: time.perf_counter() - began < given.seconds)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            loop_s, loop_cpu_s = pool.apply(loop)
        began, used = time.perf_counter(), service.cpu_s()
        writer = threading.Thread(target=service.fill, args=(bodies, 2))
        writer.start()
        beside = paced(service.port, asked, lambda _, writer=writer: writer.is_alive())
        writer.join()
        took_s, used = time.perf_counter() - began, service.cpu_s() - used
        rates.append(loop_s / took_s)
        all_quiet += quiet
        all_beside += beside
        details.append(
            f"{count / took_s:.0f}/s vs {count / loop_s:.0f}/s, CPU an item {used / count * 1e3:.1f} vs "
            f"{loop_cpu_s / count * 1e3:.1f} ms; query p50 {in_ms(quiet, 50)} -> {in_ms(beside, 50)}, "
            f"p99 {in_ms(quiet, 99)} -> {in_ms(beside, 99)} ms"
        )
    # Of all rounds at once: the p99 of forty queries is their worst one.
    late = float(np.percentile(all_beside, 99) / np.percentile(all_quiet, 99))
    return [
        Row(f"writing {content} / offline loop", float(np.median(rates)), 0.9, True, details[-1]),
        Row(
            f"query p99 beside {content} / quiet",
            late,
            2.0,
            detail=f"{len(all_quiet)}, {len(all_beside)} queries",
        ),
    ]


def in_ms(seconds: Sequence[float], percentile: float) -> str:
    return f"{np.percentile(seconds, percentile) * 1000:.0f}"


def paced(port: int, asked: Iterator[str], goes_on: object) -> list[float]:
    """Return the seconds of one new query every PACE_S."""
    took: list[float] = []
    answers = one_by_one(port, [search(next(asked)) for _ in range(3000)])
    began = time.perf_counter()
    while goes_on(began):  # type: ignore[operator]
        took.append(next(answers)[0])
        time.sleep(max(0.0, PACE_S - took[-1]))
    return took


def starting(work: Path, models_dir: Path) -> list[Row]:
    """Ready against the two libraries opening the same files, and what a second worker costs."""
    bare, process, ready = [], [], []
    for turn in range(5):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            bare.append(pool.apply(bare_load_s, (models_dir,)))
        process.append(bare_start_s(models_dir))
        with Served(work / f"start{turn}", models_dir, IMAGE_MODEL="builtin:descriptor") as service:
            ready.append(service.ready_s)
    empty = []
    for turn in range(5):
        with Served(
            work / f"none{turn}",
            models_dir,
            IMAGE_MODEL="builtin:descriptor",
            TEXT_MODEL="builtin:hashed-ngrams",
        ) as service:
            empty.append(service.ready_s)
    model_s = float(np.median(ready)) - float(np.median(empty))
    loaded_s = float(np.median(bare))
    process_s = float(np.median(process))
    rows = [
        Row(
            "ready / a process that opens the two files and ends",
            float(np.median(ready)) / process_s, 1.5,
            detail=f"{np.median(ready):.2f} / {process_s:.2f} s",
        ),
        Row(
            "ready beyond the same start without model files / bare load",
            model_s / loaded_s, 1.5,
            detail=f"{model_s:.2f} / {loaded_s:.2f} s; ready in {np.median(ready):.2f} s",
        )
    ]  # fmt: skip
    with Served(work / "two", models_dir, WORKERS="2") as service:
        service.fill(text_bodies(texts(64), 32))
        resident, private, shared = service.memory_mb()
        mapped_mb, own_mb = service.weights_mb()
        rows.append(
            Row(
                "WORKERS=2: resident set not shared",
                private / resident, 0.75,
                detail=f"a worker {resident:.0f} MB resident, {private:.0f} private, {shared:.0f} shared; "
                f"{mapped_mb:.0f} MB of weights mapped by both together, {own_mb:.0f} of them by one alone",
            )
        )  # fmt: skip
    return rows


def batch_independence(models_dir: Path) -> Row:
    """The least cosine between a text's vectors alone and among others, long and short ones."""
    embedder = load_embedder(TEXT_MODEL, "text", models_dir=models_dir, dim=DIM, threads=1)
    some = [*texts(24), *(text * 6 for text in texts(8))]
    together = embedder.embed(some, "document").vectors
    alone = np.concatenate([embedder.embed([text], "document").vectors for text in some])
    least = float((together.astype(np.float64) * alone).sum(axis=1).min())
    return Row("a text alone and in a batch: least cosine", least, 0.9999, True)


if __name__ == "__main__":
    main()
