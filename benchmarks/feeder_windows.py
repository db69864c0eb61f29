"""Searches that go on all the time, and what their p99 was in one window of time against another."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from benchmarks.feeder_shop import unit
from benchmarks.http_load import one_by_one, post

CLIENTS = 2
PACE_S = 0.005
CHANGE_MAX_PERCENT = 10.0
DRAWS = 2000
Window: TypeAlias = tuple[float, float]


def search_until_told(port: int, seed: int, told: Connection) -> None:
    """Search at a steady pace; send back, whenever asked, when each search began, and how long it took."""
    rng = np.random.default_rng(seed)
    bodies = [
        orjson.dumps({"vector": unit(rng).tolist(), "top_k": 25, "collection": "bench"}) for _ in range(50)
    ]
    began: list[float] = []
    took: list[float] = []

    def paced() -> Iterator[bytes]:
        while True:
            if told.poll(PACE_S):
                is_over = told.recv() == "end"
                told.send((np.array(began), np.array(took)))
                if is_over:
                    return
            began.append(time.perf_counter())
            yield post("/v1/search", bodies[len(began) % len(bodies)])

    for seconds, _ in one_by_one(port, paced()):  # type: ignore[arg-type]
        took.append(seconds)


@contextmanager
def searching(port: int) -> Iterator[Callable[[], list[Any]]]:
    """Search from processes of their own; yield what asks for all that they measured so far."""
    spawn = multiprocessing.get_context("spawn")
    pipes: list[tuple[Any, Any]] = []
    for number in range(CLIENTS):
        mine, theirs = spawn.Pipe()
        worker = spawn.Process(target=search_until_told, args=(port, number, theirs), daemon=True)
        worker.start()
        pipes.append((mine, worker))

    def asked(word: str) -> list[Any]:
        for mine, _ in pipes:
            mine.send(word)
        return [mine.recv() for mine, _ in pipes if mine.poll(30)]

    try:
        yield lambda: asked("so far")
    finally:
        asked("end")
        for _, worker in pipes:
            worker.join(30)


def p99_ms(found: list[Any], *windows: Window) -> float:
    """Of all searches that began in one of these windows."""
    parts = [
        took[: len(began)][(began[: len(took)] >= since) & (began[: len(took)] < until)]
        for began, took in found
        for since, until in windows
    ]
    return float(np.percentile(np.concatenate(parts), 99)) * 1000


@dataclass(frozen=True, slots=True)
class Change:
    """p99 in ms, medians of the rounds; the change in percent, and between which its draws lie."""

    well_ms: float
    ill_ms: float
    percent: float
    low: float
    high: float

    @property
    def is_surely_within(self) -> bool:
        return self.high <= CHANGE_MAX_PERCENT


def change_of(windows: Sequence[tuple[Window, Window, Window]], found: list[Any]) -> Change:
    """windows: of each round, before, in the state, and after it."""
    pairs = [(p99_ms(found, before, after), p99_ms(found, ill)) for before, ill, after in windows]
    ratios = np.log([ill / well for well, ill in pairs])
    draws = np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios)))
    low, high = np.percentile([_middle(draw) for draw in draws], (5, 95))
    as_percent = [100 * (float(np.exp(value)) - 1) for value in (_middle(ratios), low, high)]
    well_ms, ill_ms = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return Change(well_ms, ill_ms, *as_percent)


def _middle(values: npt.NDArray[np.float64]) -> float:
    """Hodges-Lehmann: the median of all means of two; as sharp as a mean, and outliers hardly count."""
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))
