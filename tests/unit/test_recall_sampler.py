"""Recall of live searches is measured: 1 where the graph finds all, less where its breadth is too small."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_store.ann.calibration import EfTable
from index_store.engine.index import EmbeddedIndex
from index_store.errors import Unavailable
from index_store.segment.builder import BuildOptions
from index_store.types import PlanStep, SearchRequest, SearchResult
from service.app.monitoring.recall_sampler import RecallSampler
from service.app.search import ParsedSearch
from service.collections import Collection
from service.observing.metrics import Metrics
from tests.prometheus_programs import PROMTOOL, needs_prometheus
from tests.sealing import DIM, SMALL, ClockWithSlowScan, batch, generation_of, opened, sealed, vectors

NAME = "numbers"
ROOT = Path(__file__).parents[2]
ROWS = 3000
K = 10


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recall")
    index = opened(directory)
    index.advance(NAME, "begin", "v1")
    index.write(NAME, batch(NAME, range(ROWS), vectors(ROWS)))
    index.close()
    limits = replace(SMALL, build=BuildOptions(engine="hnsw", queries=64))
    sealed(directory, limits, stopwatch=ClockWithSlowScan())
    return directory


@pytest.fixture
def index(data_dir: Path) -> Iterator[EmbeddedIndex]:
    found = opened(data_dir)
    yield found
    found.close()


@pytest.mark.long
def test_a_search_of_a_given_breadth_walks_so_far(index: EmbeddedIndex) -> None:
    """Beside the sampler's, whose index has a graph."""
    for ef in (30, 200):
        steps: list[PlanStep] = []
        index.search(NAME, [SearchRequest(vectors(1, 9)[0], K, ef=ef, steps=steps)])
        assert [step[:2] for step in steps if step[0] != "delta"] == [("graph", ef)]


def counted(metrics: Metrics) -> tuple[float, float]:
    text = metrics.exposition().decode()
    found = [
        float(value)
        for name in ("found", "expected")
        for value in re.findall(
            rf'^uhok_recall_{name}_total{{collection="numbers"}} (\S+)$', text, re.MULTILINE
        )
    ]
    return (found[0], found[1]) if found else (0.0, 0.0)


def sampled(index: EmbeddedIndex, searches: int, **fields: object) -> tuple[float, float]:
    """(found, expected) after so many searches, each offered."""
    metrics, seconds = Metrics(), [0.0]
    queries = vectors(searches, seed=5)
    collection = Collection(NAME, dim=DIM)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            sampler = RecallSampler(index, metrics, executor, 30, lambda: seconds[0])
            for query in queries:
                seconds[0] += 31
                assert seconds[0] >= sampler.due_at
                request = replace(SearchRequest(query, K), **fields)  # type: ignore[arg-type]
                sampler.offer(ParsedSearch(collection, request))
                while sampler._is_busy:
                    await asyncio.sleep(0.001)

    asyncio.run(run())
    return counted(metrics)


def plant_breadth(index: EmbeddedIndex, ef: int) -> None:
    """Let the graph be walked with too few candidates, as a wrong calibration would."""
    for one in generation_of(index).refresh().segments:
        reader = one.segment.reader
        table = EfTable(((1.0, float(ef)), (100.0, float(ef))))
        reader._profile = replace(reader._profile, table=table)
        reader._plans.clear()


@pytest.mark.long
def test_recall_is_measured_and_a_small_ef_shows(index: EmbeddedIndex) -> None:
    found, expected = sampled(index, 40)
    assert expected == 40 * K and found / expected > 0.98
    plant_breadth(index, K)
    found, expected = sampled(index, 40)
    assert expected == 40 * K and found / expected < 0.95


@pytest.mark.long
@needs_prometheus
@pytest.mark.parametrize("is_planted", [True, False])
def test_the_alert_fires_on_what_was_measured(index: EmbeddedIndex, tmp_path: Path, is_planted: bool) -> None:
    if is_planted:
        plant_breadth(index, K)
    found, expected = sampled(index, 60)
    steps = {"found": found, "expected": expected}
    document = {
        "rule_files": [str(ROOT / "deploy/prometheus/alerts.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": f'uhok_recall_{name}_total{{collection="numbers"}}',
                        "values": f"0 {value}+0x40",
                    }
                    for name, value in steps.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count(ALERTS{alertname="UhokRecallLow",alertstate="firing"}) or vector(0)',
                        "eval_time": "30m",
                        "exp_samples": [{"labels": "{}", "value": int(is_planted)}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(document), "utf-8")
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_index_tells_how_it_searched(index: EmbeddedIndex) -> None:
    def steps(**fields: object) -> list[PlanStep]:
        request = replace(SearchRequest(vectors(1, seed=6)[0], K, steps=[]), **fields)  # type: ignore[arg-type]
        index.search(NAME, [request])
        assert request.steps is not None
        return request.steps

    ((way, ef, rows),) = steps()
    assert way == "graph" and rows == ef >= K
    assert steps(exact=True) == [("scan", 0, ROWS)]
    assert steps(filter={"name": "n6"}) == [("gather", 0, 1)]
    index.write(NAME, batch(NAME, range(ROWS, ROWS + 3), vectors(3)))
    assert steps()[-1] == ("delta", 0, 3)


@pytest.mark.parametrize("fields", [{"exact": True}, {"offset": 995}])
def test_what_is_exact_or_deep_is_not_sampled(index: EmbeddedIndex, fields: dict[str, object]) -> None:
    assert sampled(index, 1, **fields) == (0, 0)


def test_samples_are_rare_and_cost_a_thousandth(index: EmbeddedIndex) -> None:
    seconds, took = [100.0], [0.0]

    class SlowIndex:
        def search(self, collection: str, requests: list[SearchRequest]) -> list[SearchResult]:
            seconds[0] += took[0]
            return index.search(collection, requests)

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            sampler = RecallSampler(SlowIndex(), Metrics(), executor, 30, lambda: seconds[0])  # type: ignore[arg-type]
            search = ParsedSearch(Collection(NAME, dim=DIM), SearchRequest(np.ones(DIM, np.float32), K))
            assert sampler.due_at == 130
            took[0] = 0.2
            sampler.offer(search)
            while sampler._is_busy:
                await asyncio.sleep(0.001)
            assert sampler.due_at == pytest.approx(seconds[0] + 200)

    asyncio.run(run())
    assert RecallSampler(index, Metrics(), ThreadPoolExecutor(1), 0).due_at == float("inf")


def test_an_index_that_closes_is_no_error() -> None:
    class ClosedIndex:
        def search(self, *_: object) -> list[SearchResult]:
            raise Unavailable("closed", "")

    assert sampled(ClosedIndex(), 1) == (0, 0)  # type: ignore[arg-type]
