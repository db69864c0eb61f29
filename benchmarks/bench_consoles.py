"""Searches beside open consoles: ten pages that show the service's health ask as the page does.

    python -m benchmarks.bench_consoles [--consoles 10] [--items 5000] [--turns 6]

Searches by vectors of new texts come at a steady pace from the first turn to the last; the consoles ask in
every other turn, each at its own moment. A page asks whether the service works every 5 s, and for all else on
it every 15 s (`service/console/operate/health.js`).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.embedding_service import Report, Row, Served
from benchmarks.model_change_load import Caller, Load, Pace, fill
from benchmarks.model_change_pauses import Span
from benchmarks.model_change_shop import Item, Search

MODELS_DIR = Path(".models")
RATIO_MAX = 1.1
TURN_S = 15.0
_OFTEN = ("/health", "/readyz")
_OFTEN_S = 5.0
_SELDOM = ("/metrics", "/v1/jobs", "/v1/snapshot", "/v1/slow?limit=20", "/v1/audit?limit=20")
_SHARED = {"cache-control": "max-age=10"}
"""As `service/console/operate/metrics.js` sends it."""
_SEED = 20_261_129


class Consoles:
    """Pages in threads of their own, which ask while a turn is theirs."""

    def __init__(self, port: int, count: int, headers: dict[str, str]) -> None:
        """headers: of the questions for metrics."""
        self._port = port
        self._headers = headers
        self._count = count
        self.asked = 0
        self.failed: list[str] = []

    def ask_for_a_turn(self) -> None:
        threads = [threading.Thread(target=self._look_on, args=(number,)) for number in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _look_on(self, number: int) -> None:
        caller = Caller(self._port)
        chance = random.Random(_SEED + number + self.asked)
        began = time.monotonic() + chance.random() * _OFTEN_S
        ended = time.monotonic() + TURN_S
        seldom_round = chance.randrange(round(TURN_S / _OFTEN_S))
        for rounds in range(round(TURN_S / _OFTEN_S)):
            time.sleep(max(0.0, began + rounds * _OFTEN_S - time.monotonic()))
            for path in (*_OFTEN, *(_SELDOM if rounds == seldom_round else ())):
                status, answer = caller.ask("GET", path, None, self._headers if path == "/metrics" else {})
                self.asked += 1
                if status != 200:
                    self.failed.append(f"{path}: {status} {answer[:200]!r}")
        time.sleep(max(0.0, ended - time.monotonic()))


def measured(port: int, items: int, consoles: Consoles, turns: int) -> tuple[list[float], list[float]]:
    """Return how many ms each search took, of quiet turns and of those with consoles."""
    load = Load(port, [Item(0)] * items, Pace(searchers=4, search_every_s=0.04, writers=0), _SEED)
    quiet: list[Span] = []
    beside: list[Span] = []
    with load.running():
        time.sleep(2.0)  # until all of them send
        for _ in range(turns):
            began = time.monotonic()
            time.sleep(TURN_S)
            quiet.append((began, time.monotonic()))
            consoles.ask_for_a_turn()
            beside.append((quiet[-1][1], time.monotonic()))
    happened = load.take()
    if happened.failures:
        raise RuntimeError(happened.failures[0].what)
    return _within(happened.searches, quiet), _within(happened.searches, beside)


def _within(searches: Sequence[Search], spans: Sequence[Span]) -> list[float]:
    return [
        each.latency_ms
        for each in searches
        if not each.exact and any(first <= each.due < last for first, last in spans)
    ]


def row_of(name: str, quiet: Sequence[float], beside: Sequence[float], consoles: Consoles) -> Row:
    p50, p95, p99 = (np.percentile(beside, each) / np.percentile(quiet, each) for each in (50, 95, 99))
    detail = "; ".join(
        f"{what} p50 {np.percentile(some, 50):.2f}, p95 {np.percentile(some, 95):.1f}, "
        f"p99 {np.percentile(some, 99):.1f} ms of {len(some)}"
        for what, some in (("quiet", quiet), ("beside", beside))
    )
    detail += f"; p50 x {p50:.2f}, p95 x {p95:.2f}; {consoles.asked} questions, {len(consoles.failed)} failed"
    return Row(f"search p99 beside consoles / quiet, {name}", float(p99), RATIO_MAX, detail=detail)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--consoles", type=int, default=10)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=6)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="consoles-") as folder:
        environ = {"TEXT_MODEL": "builtin:hashed-ngrams", "IMAGE_MODEL": "builtin:descriptor", "WORKERS": "2"}
        with Served(Path(folder) / "data", MODELS_DIR, log=Path(folder) / "log", **environ) as service:
            fill(service.port, given.items)
            service.wait_until_idle()
            report = Report("bench_consoles")
            for name, headers in (("each with its own metrics", {}), ("metrics shared for 10 s", _SHARED)):
                consoles = Consoles(service.port, given.consoles, headers)
                found = measured(service.port, given.items, consoles, given.turns)
                report.add([row_of(name, *found, consoles)])


if __name__ == "__main__":
    main()
