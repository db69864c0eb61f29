"""What an operator sees of a move: Prometheus and OpenTelemetry get every event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry.metrics import Counter, Histogram, NoOpMeter
from prometheus_client import CollectorRegistry, generate_latest

from tests.integration.service_process import ServiceProcess
from tests.tidy.source import read
from vector_client.errors import VectorClientError
from vector_client.http import VectorClient
from vector_client.recommend.pgvector import Statement
from vector_client.telemetry.events import Event, Observer, Switched
from vector_client.telemetry.opentelemetry import OpenTelemetryObserver
from vector_client.telemetry.prometheus import PrometheusObserver
from vector_client.types import Item
from vector_client.wiring import Backend, Recommenders


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    process = ServiceProcess(tmp_path_factory.mktemp("telemetry") / "data").start()
    with VectorClient.to(f"http://127.0.0.1:{process.port}") as client:
        client.upsert("recipes", [Item(n, text=f"요리 {n}") for n in range(1, 6)])
    yield process
    process.stop()


async def own_rows(_session: Any, statement: Statement) -> list[tuple[int, float]]:
    return [(n, n / 10) for n in range(1, statement.limit + 1)]


def asked(url: str, observe: Observer, calls: int = 1, **environ: str) -> None:
    """Ask `calls` questions, wait for the comparisons, and close."""

    async def run() -> None:
        backend = Backend(encode=lambda _: [1.0], rows=own_rows, observe=observe)
        settings = {"ML_MODE": "remote_store", "ML_INFERENCE_URL": url, "ML_TIMEOUT": "30", **environ}
        async with Recommenders.from_env(backend, settings) as held:
            for _ in range(calls):
                try:
                    await held.searcher.find_similar_ids(None, "요리", 3)
                except VectorClientError:
                    continue
            shadow = getattr(held.searcher, "_shadow", None)
            if shadow is not None:
                await shadow.finish()

    asyncio.run(run())


FALL_BACK = {"ML_FALLBACK_MODE": "db"}
SHADOW = {**FALL_BACK, "ML_ROLLOUT_PERCENT": "0", "ML_SHADOW_PERCENT": "100"}
BREAKER = {**FALL_BACK, "ML_BREAKER_FAILURES": "2", "ML_RETRIES": "0"}
NOBODY = "http://127.0.0.1:1"


def url_of(service: ServiceProcess) -> str:
    return f"http://127.0.0.1:{service.port}"


def test_prometheus_counts_answers_failures_and_times(service: ServiceProcess) -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    asked(url_of(service), observer, 3, **FALL_BACK)
    value = registry.get_sample_value
    labels = {"path": "remote_store", "role": "first"}
    assert value("vector_client_calls_total", {**labels, "error": ""}) == 3
    assert value("vector_client_seconds_count", labels) == 3
    assert 0 < (value("vector_client_seconds_sum", labels) or 0) < 90
    asked(NOBODY, observer, 2, **BREAKER)
    assert value("vector_client_calls_total", {**labels, "error": "NoAnswer"}) == 2
    assert value("vector_client_calls_total", {"path": "db", "role": "fallback", "error": ""}) == 2
    assert value("vector_client_path_open", {"path": "remote_store", "cause": "breaker"}) == 1
    assert value("vector_client_switched_total", {"path": "remote_store", "state": "open"}) == 1


def test_a_breaker_that_closes_does_not_hide_that_a_path_was_left() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for state in ("open", "stepped_back", "closed"):
        observer(Switched("remote_store", state))  # type: ignore[arg-type]
    open_by = {
        cause: registry.get_sample_value("vector_client_path_open", {"path": "remote_store", "cause": cause})
        for cause in ("breaker", "step_back")
    }
    assert open_by == {"breaker": 0, "step_back": 1}


def test_prometheus_counts_comparisons(service: ServiceProcess) -> None:
    registry = CollectorRegistry()
    asked(url_of(service), PrometheusObserver(registry), 4, **SHADOW)
    value = registry.get_sample_value
    assert value("vector_client_shadow_overlap_count") == 4
    assert value("vector_client_shadow_overlap_bucket", {"le": "1.0"}) == 4
    assert value("vector_client_shadow_distance_count") == 4
    assert value("vector_client_calls_total", {"path": "remote_store", "role": "shadow", "error": ""}) == 4
    assert value("vector_client_shadow_skipped_total") == 0


@pytest.mark.parametrize("url", ["service", "nobody"])
def test_a_path_without_a_fall_back_is_counted_too(service: ServiceProcess, url: str) -> None:
    registry = CollectorRegistry()
    asked(url_of(service) if url == "service" else NOBODY, PrometheusObserver(registry), 2, ML_RETRIES="0")
    labels = {"path": "remote_store", "role": "first", "error": "" if url == "service" else "NoAnswer"}
    assert registry.get_sample_value("vector_client_calls_total", labels) == 2


def test_every_metric_is_in_the_guide(service: ServiceProcess) -> None:
    registry = CollectorRegistry()
    asked(url_of(service), PrometheusObserver(registry), 1, **SHADOW)
    guide = read("docs/BACKEND.md")
    names = {
        line.split()[2]
        for line in generate_latest(registry).decode().splitlines()
        if line.startswith("# TYPE")
    }
    names = {name for name in names if not name.endswith("_created")}
    assert names
    assert not {name for name in names if f"`{name}" not in guide}


def test_two_observers_of_one_registry_are_refused() -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    with pytest.raises(ValueError, match="vector_client"):
        PrometheusObserver(registry)


class Noted(NoOpMeter):
    """A meter that keeps what is recorded: the API package alone has none that does."""

    def __init__(self) -> None:
        super().__init__("test")
        self.found: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}

    def create_histogram(self, name: str, *arguments: Any, **named: Any) -> Histogram:
        made = super().create_histogram(name, *arguments, **named)
        made.record = self._keeper(name)  # type: ignore[method-assign]
        return made

    def create_counter(self, name: str, *arguments: Any, **named: Any) -> Counter:
        made = super().create_counter(name, *arguments, **named)
        made.add = self._keeper(name)  # type: ignore[method-assign]
        return made

    def _keeper(self, name: str) -> Any:
        kept = self.found.setdefault(name, [])
        return lambda amount, attributes=None: kept.append((amount, attributes or {}))


def test_opentelemetry_gets_the_same(service: ServiceProcess) -> None:
    meter = Noted()
    observer = OpenTelemetryObserver(meter)
    asked(url_of(service), observer, 2, **SHADOW)
    times = meter.found["vector_client.duration"]
    roles = sorted((attributes["path"], attributes["role"], attributes["error"]) for _, attributes in times)
    assert roles == [("db", "first", "")] * 2 + [("remote_store", "shadow", "")] * 2
    assert all(0 <= seconds < 30 for seconds, _ in times)
    assert [amount for amount, _ in meter.found["vector_client.shadow.overlap"]] == [1.0, 1.0]
    assert len(meter.found["vector_client.shadow.distance"]) == 2
    asked(NOBODY, observer, 2, **BREAKER)
    assert meter.found["vector_client.switched"] == [(1, {"path": "remote_store", "state": "open"})]


def test_opentelemetry_without_a_provider_costs_no_answer(service: ServiceProcess) -> None:
    asked(url_of(service), OpenTelemetryObserver(), 1, **FALL_BACK)


def test_events_reach_any_function(service: ServiceProcess) -> None:
    events: list[Event] = []
    asked(url_of(service), events.append, 1, **SHADOW)
    assert [type(each).__name__ for each in events] == ["PathCalled", "PathCalled", "Compared"]
