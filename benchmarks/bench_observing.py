"""What metrics and traces add to the processor time of a search by vector over the wire.

    python -m benchmarks.bench_observing [--rounds 20] [--searches 600] [--items 2000]

One process at a time is asked; in it metrics and traces (a tenth of the requests, the default) are off and on
by turns (`observed_server`), so that neither another process nor another moment is compared. Processor time
is that of all its threads, the sender of traces among them, less what the process takes while nobody asks.
Each turn is held against the mean of the two with both off around it: the median of all rounds, and the
interval that holds the true median in 95 of 100 runs. The limit is missed where all of the interval lies
above it. Counts are in memory with one worker and in files with several; of two processes each is asked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import Report, Row
from benchmarks.http_load import one_by_one, post
from benchmarks.http_server import Server, serving
from benchmarks.observed_server import STATES
from benchmarks.processes import free_port
from benchmarks.vectors import drawn_base64

PERCENT_MAX = 2.0
_DIM = 384
_NORMAL_95 = 1.96
_SWITCH_S = 0.05
_SENT_S = 1.3
"""Traces leave once a second."""


class _Collector(BaseHTTPRequestHandler):
    """Takes traces and keeps none."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def searches(count: int) -> list[bytes]:
    random = np.random.default_rng(1)
    bodies = [{"collection": "recipes", "vector": drawn_base64(random, _DIM)} for _ in range(count)]
    return [post("/v1/search", json.dumps(body).encode()) for body in bodies]


def fill(port: int, items: int) -> None:
    random = np.random.default_rng(0)
    for start in range(0, items, 1000):
        numbers = range(start, min(start + 1000, items))
        some = [{"recipe_id": n, "vector": drawn_base64(random, _DIM)} for n in numbers]
        body = json.dumps({"collection": "recipes", "items": some}).encode()
        list(one_by_one(port, [post("/v1/upsert", body)]))


def cpu_ns(process_id: int) -> int:
    """Processor time of all threads so far, to the nanosecond."""
    tasks = Path(f"/proc/{process_id}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def measured(server: Server, requests: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """Microseconds of processor time a search, by state, of each round. The server is in the last state."""
    took: dict[str, list[float]] = {state: [] for state in STATES}
    before = cpu_ns(server.process_id)
    time.sleep(4 * _SENT_S)
    idle = (cpu_ns(server.process_id) - before) // 4
    for _ in range(rounds):
        for state in STATES:
            os.kill(server.process_id, signal.SIGUSR1)
            time.sleep(_SWITCH_S)
            list(one_by_one(server.port, requests[:20]))
            before = cpu_ns(server.process_id)
            list(one_by_one(server.port, requests))
            time.sleep(_SENT_S)  # the traces of this turn are its own cost
            took[state].append((cpu_ns(server.process_id) - before - idle) / len(requests) / 1000)
    return took


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and its interval of 95 % by order statistics."""
    ordered, count = sorted(values), len(values)
    outside = max(0, math.floor((count - _NORMAL_95 * math.sqrt(count)) / 2))
    return statistics.median(ordered), ordered[outside], ordered[-1 - outside]


def rows(taken: Sequence[dict[str, list[float]]], where: str) -> Iterator[Row]:
    """taken: by process."""
    for state in STATES[1:]:
        percent, without = list[float](), list[float]()
        for took in taken:
            off = [(a + b) / 2 for a, b in pairwise(took[STATES[0]])]
            percent += [100 * (on / beside - 1) for on, beside in zip(took[state], off, strict=False)]
            without += off
        middle, low, high = median_interval(percent)
        us = statistics.median(without)
        detail = f"{middle:+.2f} %, 95 %: {low:+.2f} to {high:+.2f}; {us * middle / 100:+.1f} us to {us:.0f}"
        yield Row(f"{state}, {where}: % more time, certain", low, PERCENT_MAX, detail=detail)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--searches", type=int, default=600)
    parser.add_argument("--items", type=int, default=2000)
    wanted = parser.parse_args(argv)
    found, report, requests = [], Report("observing"), searches(wanted.searches)
    for workers, where in ((1, "one worker"), (2, "two workers")):
        with tempfile.TemporaryDirectory() as folder, collector() as endpoint, ExitStack() as stack:
            root = Path(folder)
            (root / "metrics").mkdir()
            servers = []
            for number in range(workers):
                port, metrics = free_port(), "-" if workers == 1 else str(root / "metrics")
                arguments = (str(port), str(root / "data"), metrics, endpoint)
                log = root / f"{number}.log"
                first = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n"
                servers.append(
                    stack.enter_context(
                        serving("benchmarks.observed_server", arguments, {}, port, log, first)
                    )
                )
                if number == 0:
                    fill(port, wanted.items)
            for server in servers:
                measured(server, requests, 1)
            some = list(rows([measured(each, requests, wanted.rounds // workers) for each in servers], where))
            report.add(some)
            found += some
    return 0 if all(row.passes for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
