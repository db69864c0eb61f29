"""What the HTTP front costs: CPU a request, search over the wire against raw hnswlib, mixed load.

    python -m benchmarks.bench_http [--rows 100000] [--seconds 2] [--only cost wire mixed]

All in one run on one machine, the load client included; contenders take turns, medians are kept. Each row is
printed with its limit; the figures go to .out/bench_http.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.http_items import items_us
from benchmarks.http_load import Outcome, closed_loop, cpu_seconds, one_by_one, post
from benchmarks.http_server import Server, serving
from benchmarks.http_wire import (
    RECALL_MIN,
    Raw,
    build_raw,
    exact,
    prepare,
    recall_over_the_wire,
    requests_of,
    search_body,
    services,
    text_model,
    tuned,
)
from benchmarks.processes import free_port
from benchmarks.vectors import Dataset, load

OUT = Path(".out/bench_http.json")
QUERIES = 1000
EXCLUDED = 100
COST_CONNECTIONS = 32
WIRE_CONNECTIONS = 8
BLOCK = 100
TEXTS_A_SECOND = 10
UPSERTS_A_SECOND = 5
UPSERT_ITEMS = 20


@dataclass(slots=True)
class Row:
    """One figure beside its limit. at_most: whether the limit is above or below."""

    what: str
    figure: float
    limit: float
    at_most: bool
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        facts = ", ".join(f"{name} {value:.4g}" for name, value in self.facts.items())
        verdict = "PASS" if self.passes else "MISS"
        return f"{verdict}  {self.what}: {self.figure:.3f} ({sign} {self.limit:g})  [{facts}]"


def text_requests(count: int, rng: random.Random) -> list[bytes]:
    """Texts of a few words (their vectors are cached after the first) with ids to leave out."""
    bodies = [
        {
            "query": f"갈비탕 {number % 50}",
            "top_k": 25,
            "exclude_ids": [rng.randrange(10**6) for _ in range(EXCLUDED)],
        }
        for number in range(count)
    ]
    return [post("/v1/search", json.dumps(body, ensure_ascii=False).encode()) for body in bodies]


def cost(folder: Path, seconds: float, rounds: int) -> list[Row]:
    """CPU of the server process for each request, from /proc/<pid>/stat."""
    requests = text_requests(200, random.Random(5))
    spent: dict[str, list[float]] = {"front": [], "route": []}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_cost_server(name, folder, requests[0])) for name in spent}
        for server in servers.values():
            closed_loop(server.port, requests, connections=COST_CONNECTIONS, seconds=0.5)
        for _ in range(rounds):
            for name, server in servers.items():
                spent[name].append(_cpu_us(server, requests, seconds))
    _print_items(statistics.median(spent["front"]), items_us(folder / "items", requests))
    ratios = [front / route for front, route in zip(spent["front"], spent["route"], strict=True)]
    facts = {f"{name} us": statistics.median(values) for name, values in spent.items()}
    return [Row("CPU a request, front door / FastAPI route", statistics.median(ratios), 0.25, True, facts)]


def _print_items(whole: float, items: Mapping[str, float]) -> None:
    """What the front door spends a request on; the pieces were timed alone, warm."""
    rest = whole - sum(items.values())
    for name, value in (*items.items(), ("sockets, HTTP, log, cold caches", rest), ("whole", whole)):
        print(f"    {name:40} {value:6.1f} us  {value / whole:4.0%}")


@contextmanager
def _cost_server(name: str, folder: Path, first: bytes) -> Iterator[Server]:
    port = free_port()
    arguments = [name, str(port), str(folder / f"cost-{name}")]
    log = folder / f"cost-{name}.log"
    with serving("benchmarks.http_cost", arguments, {}, port, log, first) as server:
        yield server


def _cpu_us(server: Server, requests: Sequence[bytes], seconds: float) -> float:
    before = cpu_seconds(server.process_id)
    outcome = closed_loop(server.port, requests, connections=COST_CONNECTIONS, seconds=seconds).require_ok()
    return (cpu_seconds(server.process_id) - before) / len(outcome.seconds) * 1e6


def wire(data: Dataset, servers: Sequence[Server], seconds: float, rounds: int) -> list[Row]:
    one, two = servers
    requests = requests_of(data)
    truth = exact(data)
    recall = recall_over_the_wire(one, requests, truth)
    raw = tuned(build_raw(data), data, truth, RECALL_MIN)
    print(f"raw hnswlib: ef {raw.ef} for recall {raw.recall:.4f}; ours {recall:.4f}")
    ours_ms, raw_ms = _one_client(data, one, raw, requests, rounds)
    raw_qps: list[float] = []
    one_qps: list[float] = []
    two_qps: list[float] = []
    for _ in range(rounds):
        raw_qps.append(_raw_qps(data, raw, seconds))
        for server, found in ((one, one_qps), (two, two_qps)):
            outcome = closed_loop(server.port, requests, connections=WIRE_CONNECTIONS, seconds=seconds)
            found.append(outcome.require_ok().per_second)
    qps = {
        "raw": statistics.median(raw_qps),
        "one": statistics.median(one_qps),
        "two": statistics.median(two_qps),
    }
    return [
        Row("recall@10 over the wire", recall, RECALL_MIN, False),
        Row("1 client, p50 / raw hnswlib", ours_ms / raw_ms, 3.0, True, {"ms": ours_ms, "raw ms": raw_ms}),
        Row("8 clients, QPS / raw hnswlib, one worker", qps["one"] / qps["raw"], 0.6, False, qps),
        Row("8 clients, QPS of two workers / one", qps["two"] / qps["one"], 1.15, False, qps),
    ]


def _one_client(
    data: Dataset, server: Server, raw: Raw, requests: Sequence[bytes], rounds: int
) -> tuple[float, float]:
    """Median milliseconds over the wire and in this process, in turns of a block each."""
    ours: list[float] = []
    theirs: list[float] = []
    for start in list(range(0, len(requests) - BLOCK, BLOCK)) * rounds:
        ours.extend(took for took, _ in one_by_one(server.port, requests[start : start + BLOCK]))
        for query in data.queries[start : start + BLOCK]:
            began = time.perf_counter()
            raw.nearest(query)
            theirs.append(time.perf_counter() - began)
    return statistics.median(ours) * 1000, statistics.median(theirs) * 1000


def _raw_qps(data: Dataset, raw: Raw, seconds: float) -> float:
    began = time.perf_counter()
    answered = 0
    while time.perf_counter() - began < seconds:
        raw.nearest(data.queries[answered % len(data.queries)])
        answered += 1
    return answered / (time.perf_counter() - began)


def mixed(data: Dataset, server: Server, seconds: float, rounds: int) -> list[Row]:
    """The same 8 clients alone and beside text queries and upserts, in turns."""
    requests = requests_of(data)
    pure: list[Outcome] = []
    beside: list[Outcome] = []
    for number in range(rounds):
        pure.append(_closed(server, requests, seconds))
        with _background(data, server, number):
            beside.append(_closed(server, requests, seconds))
    pure_ms = statistics.median(each.ms(99) for each in pure)
    beside_ms = statistics.median(each.ms(99) for each in beside)
    facts = {
        "mixed p99 ms": beside_ms,
        "pure p99 ms": pure_ms,
        "mixed QPS": statistics.median(each.per_second for each in beside),
        "pure QPS": statistics.median(each.per_second for each in pure),
    }
    return [Row("mixed p99 / pure p99, 8 vector clients", beside_ms / pure_ms, 2.0, True, facts)]


def _closed(server: Server, requests: Sequence[bytes], seconds: float) -> Outcome:
    outcome = closed_loop(server.port, requests, connections=WIRE_CONNECTIONS, seconds=seconds)
    return outcome.require_ok()


@contextmanager
def _background(data: Dataset, server: Server, number: int) -> Iterator[None]:
    """Distinct texts and new items at a fixed pace, each from a connection of its own."""
    stop = threading.Event()
    answered = [0, 0]

    def ask(place: int, requests: Iterator[bytes], pause_s: float) -> None:
        while not stop.wait(pause_s):
            for _ in one_by_one(server.port, [next(requests)]):
                answered[place] += 1

    threads = [
        threading.Thread(target=ask, args=(0, _texts(number), 1 / TEXTS_A_SECOND)),
        threading.Thread(target=ask, args=(1, _upserts(data, number), 1 / UPSERTS_A_SECOND)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(answered), "a background of nothing"


def _texts(number: int) -> Iterator[bytes]:
    dishes = ("갈비탕", "매운 국물 요리", "겨울에 먹는 길거리 간식", "아이 반찬", "비 오는 날 부침개")
    for count in range(10**9):
        text = f"{dishes[count % len(dishes)]} {number} {count}"
        yield post("/v1/search", json.dumps({"query": text, "top_k": 10}, ensure_ascii=False).encode())


def _upserts(data: Dataset, number: int) -> Iterator[bytes]:
    rng = np.random.default_rng(number)
    for count in range(10**9):
        rows = data.rows[rng.integers(0, len(data.rows), UPSERT_ITEMS)]
        start = 10**7 + number * 10**6 + count * UPSERT_ITEMS
        items = [
            {"id": start + place, "vector": json.loads(search_body(row))["vector"]}
            for place, row in enumerate(rows)
        ]
        yield post("/v1/upsert", json.dumps({"collection": "bench", "items": items}).encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=("cost", "wire", "mixed"))
    asked = parser.parse_args()
    wanted = asked.only or ["cost", "wire", "mixed"]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-http-") as name:
        folder = Path(name)
        if "cost" in wanted:
            rows += cost(folder, asked.seconds, asked.rounds)
        if {"wire", "mixed"} & set(wanted):
            data = load(asked.rows, QUERIES)
            prepare(folder, data, text_model())
            with services(folder, requests_of(data)[0], (1, 2)) as servers:
                if "wire" in wanted:
                    rows += wire(data, servers, asked.seconds, asked.rounds)
                if "mixed" in wanted:
                    rows += mixed(data, servers[0], asked.seconds, asked.rounds)
    print(*rows, sep="\n")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([{**asdict(row), "passes": row.passes} for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
