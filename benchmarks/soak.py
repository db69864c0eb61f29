"""Half an hour of everything at a low rate: does memory grow, do files stay open, does a deleted item return?

    python -m benchmarks.soak [--minutes 30] [--warm-up 8] [--items 12000] [--pause 0.2] [--workers 2]

A service with both built-in models. A writer replaces, deletes and brings back items, by vector, text and
picture; searchers ask in every way, over connections to every worker; once a minute everything is scraped,
and a hot copy is made now and then. The items are always the same, so nothing has a reason to grow.

Memory is what the processes of the service hold for themselves (anonymous; mapped files belong to the page
cache). Changed rows are held there until 4,096 items have changed and are sealed, so it rises and falls;
what counts is the least of each window, and the slope through the windows (Theil-Sen, with its interval of
95 %) after the warm-up, when caches have filled. The slope misses its limit if all of the interval lies above
it. If only a part does, this run cannot tell, and how long one had to be that could is printed. Each figure
is printed with its limit and kept in .out/soak.json; exit code 1 when one misses it.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embedding_service import OUT, Report, Row, Served, picture_files, texts
from benchmarks.model_change_load import Caller
from benchmarks.vectors import drawn_base64
from service.observing.processes import footprint_of, process_tree

SLOPE_PERCENT_AN_HOUR_MAX = 1.0
FILES_GROWTH_MAX = 8.0
"""Connections, and segments that come and go."""
SAMPLE_S = 5.0
WINDOWS = 6
"""At least so many."""
WINDOW_S = 220.0
"""Longer than new rows take to be sealed."""
_NORMAL_95 = 1.96
SCRAPE_S = 60.0
SNAPSHOT_S = 300.0
WRITE_ITEMS = 25
DELETED_MAX = 500
TOP_K_MAX = 10_000
SEARCHERS = 3
TEXT_QUERIES = 300
"""As many different ones, so that the cache of query vectors is full after the warm-up."""
DIM = 384
TIMEOUT_S = 180.0
"""Of a request: the machine may be busy with something else. The slowest one is told."""
_SEED = 20_261_128


@dataclass(frozen=True, slots=True)
class Sample:
    """at_s: since the load began. memory_mb: anonymous, of all processes. files: open ones, of all."""

    at_s: float
    memory_mb: float
    files: int
    processes: int


def sample(process_id: int, at_s: float) -> Sample:
    found = [each for each in map(footprint_of, process_tree(process_id)) if each is not None]
    memory_mb = sum(each.own_bytes for each in found) / (1 << 20)
    return Sample(at_s, memory_mb, sum(each.files for each in found), len(found))


def windows(samples: Sequence[Sample], count: int) -> list[list[Sample]]:
    """Cut into `count` times of equal length; empty ones are left out."""
    first, last = samples[0].at_s, samples[-1].at_s
    cut: list[list[Sample]] = [[] for _ in range(count)]
    for each in samples:
        cut[min(count - 1, int((each.at_s - first) / (last - first) * count))].append(each)
    return [window for window in cut if window]


@dataclass(frozen=True, slots=True)
class Slope:
    """In percent of the first window's memory an hour; the true one lies between low and high in 95 of 100
    runs whose windows err independently. hours: from the first sample to the last."""

    percent: float
    low: float
    high: float
    hours: float

    def verdict(self, limit: float) -> str:
        """Say what the interval shows."""
        said = f"{self.percent:.1f} % an hour, 95 %: {self.low:.1f} to {self.high:.1f}"
        if self.low > limit:
            return f"{said}: it grows"
        if self.high <= limit:
            return f"{said}: it does not grow"
        # A slope's error falls with the length of the run and with the root of the number of windows.
        needed = self.hours * ((self.high - self.low) / 2 / limit) ** (2 / 3)
        return f"{said}: this run cannot tell {limit:g} %, one of some {needed:.1f} hours could"


def slope_of(samples: Sequence[Sample]) -> Slope:
    """Return the median slope between the windows' least memory (Theil-Sen), with Sen's interval."""
    seconds = samples[-1].at_s - samples[0].at_s
    cut = windows(samples, max(WINDOWS, round(seconds / WINDOW_S)))
    least = [min(window, key=lambda each: each.memory_mb) for window in cut]
    scale = 3600 / least[0].memory_mb * 100
    slopes = sorted(
        (b.memory_mb - a.memory_mb) / (b.at_s - a.at_s) * scale for a, b in combinations(least, 2)
    )
    count = len(least)
    spread = _NORMAL_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)  # of Kendall's S
    outside = max(0, math.floor((len(slopes) - spread) / 2))
    return Slope(statistics.median(slopes), slopes[outside], slopes[-1 - outside], seconds / 3600)


def files_growth(samples: Sequence[Sample]) -> float:
    """Return by how much the median number of open files of the last third exceeds that of the first."""
    first, *_, last = windows(samples, 3)
    return statistics.median(s.files for s in last) - statistics.median(s.files for s in first)


@dataclass(slots=True)
class Deleted:
    """Which ids are deleted for certain; safe from any thread. An id leaves before its item is sent again."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    ids: dict[int, int] = field(default_factory=dict)
    """id -> number of its delete, so that one that came back and went again is another."""
    count: int = 0

    def now(self) -> dict[int, int]:
        with self.lock:
            return dict(self.ids)

    def deleted(self, ids: Sequence[int]) -> None:
        with self.lock:
            for id in ids:
                self.count += 1
                self.ids[id] = self.count

    def coming_back(self, ids: Sequence[int]) -> None:
        with self.lock:
            for id in ids:
                self.ids.pop(id, None)

    def shown(self, before: Mapping[int, int], ids: Sequence[int]) -> list[int]:
        """Which of an answer's `ids` were deleted all through the search. before: `now()` of before it."""
        with self.lock:
            return [id for id in ids if id in before and self.ids.get(id) == before[id]]


class Soak:
    """The threads of the load. Stops at the first that fails."""

    def __init__(self, port: int, items: int, pause_s: float, version: str) -> None:
        self._port, self._items, self._pause_s, self._version = port, items, pause_s, version
        self._texts = texts(items)
        self._pictures = [base64.b64encode(file).decode() for file in picture_files(40)]
        self._deleted = Deleted()
        self._stop = threading.Event()
        self.searches = self.writes = 0
        self.slowest_s = 0.0
        self.shown: list[int] = []
        self.broken: list[BaseException] = []

    def fill(self) -> None:
        caller, random = Caller(self._port, TIMEOUT_S), np.random.default_rng(_SEED)
        for first in range(0, self._items, 200):
            ids = range(first, min(first + 200, self._items))
            self._post(caller, "/v1/upsert", {"items": [self._by_vector(id, random) for id in ids]})
        shop = [{"product_id": f"p{n}", "image": each} for n, each in enumerate(self._pictures)]
        self._post(caller, "/v1/upsert", {"collection": "products", "items": shop})

    def threads(self) -> list[threading.Thread]:
        works: list[Callable[[int], None]] = [self._write, *[self._search] * SEARCHERS, self._operate]
        return [threading.Thread(target=self._run, args=(work, number)) for number, work in enumerate(works)]

    def stop(self) -> None:
        self._stop.set()

    def is_stopped(self) -> bool:
        return self._stop.is_set()

    def _run(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as exc:
            self.broken.append(exc)
            self._stop.set()

    def _post(self, caller: Caller, path: str, body: Mapping[str, Any]) -> Any:
        began = time.monotonic()
        status, answer = caller.post(path, body)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {answer[:500]!r}")
        return json.loads(answer)

    def _by_vector(self, id: int, random: np.random.Generator) -> dict[str, Any]:
        return {
            "recipe_id": id,
            "vector": drawn_base64(random, DIM),
            "metadata": {"shade": id % 7, "n": int(random.integers(1 << 30))},
        }

    def _write(self, number: int) -> None:
        """Turns of: replace by vectors, delete, bring back some of what is deleted as texts, a picture."""
        caller, draw, vectors = (
            Caller(self._port, TIMEOUT_S),
            random.Random(_SEED),
            np.random.default_rng(number),
        )
        turn = 0
        while not self._stop.wait(self._pause_s):
            turn += 1
            deleted = sorted(self._deleted.now())
            ids = draw.sample(sorted(set(range(self._items)) - set(deleted)), WRITE_ITEMS)
            if turn % 5 == 0:
                self._post(caller, "/v1/delete", {"collection": "recipes", "ids": ids})
                self._deleted.deleted(ids)
            elif turn % 10 == 1 and len(deleted) > DELETED_MAX:
                ids = draw.sample(deleted, WRITE_ITEMS * 2)
                self._deleted.coming_back(ids)
                items = [{"recipe_id": id, "text": f"{self._texts[id]} {turn}"} for id in ids]
                self._post(caller, "/v1/upsert", {"collection": "recipes", "items": items})
            elif turn % 10 == 2:
                place = draw.randrange(len(self._pictures))
                shop = [{"product_id": f"p{place}", "image": self._pictures[place]}]
                self._post(caller, "/v1/upsert", {"collection": "products", "items": shop})
            else:
                items = [self._by_vector(id, vectors) for id in ids]
                self._post(caller, "/v1/upsert", {"items": items, "embedding_version": self._version})
            self.writes += 1

    def _search(self, number: int) -> None:
        draw, vectors, turn = random.Random(number), np.random.default_rng(number), 0
        caller = Caller(self._port, TIMEOUT_S)
        while not self._stop.wait(self._pause_s):
            turn += 1
            if turn % 50 == 0:
                caller = Caller(self._port, TIMEOUT_S)  # another connection, perhaps to another worker
            before = self._deleted.now()
            body = self._question(turn, draw, vectors, list(before))
            answer = self._post(caller, "/v1/search", body)
            ids = [each["recipe_id"] for each in answer["results"] if "recipe_id" in each]
            self.shown += self._deleted.shown(before, ids)
            self.searches += 1

    def _question(
        self, turn: int, draw: random.Random, vectors: np.random.Generator, deleted: Sequence[int]
    ) -> dict[str, Any]:
        text = self._texts[draw.randrange(min(TEXT_QUERIES, self._items))]
        kinds: Sequence[dict[str, Any]] = (
            {"vector": drawn_base64(vectors, DIM), "top_k": 1000},
            {"query": text, "top_k": 25},
            {
                "vector": drawn_base64(vectors, DIM),
                "filter": {"shade": turn % 7},
                "exclude_ids": list(deleted),
            },
            {"query": text, "top_k": 200, "include": ["metadata", "score"], "exact": True},
            {"collection": "products", "image": self._pictures[turn % len(self._pictures)]},
            {"vector": drawn_base64(vectors, DIM), "top_k": min(self._items, TOP_K_MAX)},
        )
        return {"collection": "recipes", **kinds[turn % len(kinds)]}

    def _operate(self, _: int) -> None:
        """What monitors and operators ask."""
        caller, snapshot_at = Caller(self._port, TIMEOUT_S), time.monotonic() + SNAPSHOT_S
        while not self._stop.wait(SCRAPE_S):
            for path in ("/metrics", "/health", "/v1/slow", "/v1/collections", "/readyz"):
                status, answer = caller.ask("GET", path)
                if status != 200:
                    raise RuntimeError(f"{path}: {status} {answer[:500]!r}")
            if time.monotonic() > snapshot_at:
                self._post(caller, "/v1/snapshot", {})
                snapshot_at += SNAPSHOT_S


def watched(soak: Soak, process_id: int, seconds: float) -> Iterator[Sample]:
    """Samples until the time is over or a thread has failed."""
    began = time.monotonic()
    shown_at = began
    while not soak.is_stopped() and time.monotonic() - began < seconds:
        one = sample(process_id, time.monotonic() - began)
        yield one
        if time.monotonic() >= shown_at:
            print(
                f"{one.at_s / 60:5.1f} min  {one.memory_mb:7.1f} MB  {one.files:4} files  "
                f"{one.processes} processes  {soak.searches} searches  {soak.writes} writes",
                flush=True,
            )
            shown_at += SCRAPE_S
        time.sleep(SAMPLE_S)


def rows(samples: Sequence[Sample], warm_up_s: float, soak: Soak) -> Iterator[Row]:
    kept = [each for each in samples if each.at_s >= warm_up_s]
    slope = slope_of(kept)
    yield Row(
        "memory, % of growth an hour that is certain",
        slope.low,
        SLOPE_PERCENT_AN_HOUR_MAX,
        detail=f"{slope.verdict(SLOPE_PERCENT_AN_HOUR_MAX)}; {kept[0].memory_mb:.0f} MB after "
        f"{warm_up_s / 60:.0f} minutes of warm-up, {kept[-1].memory_mb:.0f} at last",
    )
    yield Row("open files, growth", files_growth(kept), FILES_GROWTH_MAX, detail=f"{kept[-1].files} at last")
    yield Row(
        "deleted ids shown",
        len(soak.shown),
        0,
        detail=f"in {soak.searches} searches, slowest request {soak.slowest_s:.1f} s",
    )
    yield Row("writes", soak.writes, 1, at_least=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="all in all, the warm-up included")
    parser.add_argument("--warm-up", type=float, default=8, help="minutes that are not counted")
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two searches of a searcher")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--models-dir", type=Path, default=Path(".models"))
    wanted = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder) / "data", OUT / "soak.log"
        OUT.mkdir(exist_ok=True)
        environ = {"WORKERS": str(wanted.workers), "SNAPSHOTS_KEPT": "2"}
        with Served(data, wanted.models_dir, log=log, **environ) as service:
            told = json.loads(Caller(service.port).ask("GET", "/v1/model-info")[1])
            version = told["collections"]["recipes"]["version"]
            soak = Soak(service.port, wanted.items, wanted.pause, version)
            soak.fill()
            threads = soak.threads()
            for thread in threads:
                thread.start()
            try:
                samples = list(watched(soak, service.process_id, wanted.minutes * 60))
            finally:
                soak.stop()
                for thread in threads:
                    thread.join()
    if soak.broken:
        print(f"a request failed: {soak.broken[0]}; see {log}", file=sys.stderr)
        return 1
    found = list(rows(samples, wanted.warm_up * 60, soak))
    Report("soak").add(found)
    return 0 if all(row.passes for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
