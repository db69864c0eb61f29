"""Alerts fire and clear on what causes them for real, and every panel's query has an answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.prometheus_process import Prometheus, until_firing
from tests.integration.service_process import ROOT, Connection, ServiceProcess
from tests.prometheus_programs import needs_prometheus
from tests.waiting import until

pytestmark = needs_prometheus

FEEDER_ONLY = ("feeder_", "uhok_sync_", "uhok_recall_")
"""Series that a service alone does not have, or not so soon."""

RATES_OVER = "10s"
"""Long enough for many scrapes of a busy machine, short enough to wait for the end of an overload."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    environ = {"WORKERS": "2", "PROBE_S": "1", "QUEUE_REQUESTS_MAX": "1"}
    running = ServiceProcess(tmp_path / "data", environ).start()
    yield running
    running.stop()


@pytest.fixture
def prometheus(tmp_path: Path, service: ServiceProcess) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path, {"uhok": service.port}, RATES_OVER).start()
    yield running
    running.stop()


def panel_queries() -> list[str]:
    board = json.loads((ROOT / "deploy/grafana/uhok.json").read_text("utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def flood(port: int, requests: int, callers: int = 16) -> None:
    """So many searches of each of many callers at once."""

    def search() -> None:
        with closing(Connection(port)) as connection:
            for _ in range(requests):
                connection.post("/v1/search", {"vector": [1.0] * 384, "collection": "recipes"})

    threads = [threading.Thread(target=search) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def is_overloaded(service: ServiceProcess, prometheus: Prometheus) -> bool:
    flood(service.port, 20)
    return ("UhokOverloaded", "search") in prometheus.firing()


def is_over(service: ServiceProcess, prometheus: Prometheus) -> bool:
    """Whether searches are answered, are counted, and the alert is gone."""
    flood(service.port, 1, callers=1)
    answered = f'rate(uhok_http_requests_total{{route="/v1/search",status="200"}}[{RATES_OVER}]) > 0'
    is_firing = any(alert == "UhokOverloaded" for alert, _ in prometheus.firing())
    return not is_firing and bool(prometheus.query(answered))


def test_a_service_that_is_loaded_loses_a_worker_and_ends(
    service: ServiceProcess, prometheus: Prometheus
) -> None:
    with closing(Connection(service.port)) as connection:
        items = [{"recipe_id": number, "text": f"국 {number}"} for number in range(50)]
        assert connection.post("/v1/upsert", {"items": items})[0] == 200
        for number in range(5):  # the one place in line may be the probe's
            question = {"query": f"국 {number}"}
            until(lambda asked=question: connection.post("/v1/search", asked)[0] == 200, "an answer")  # type: ignore[misc]
    until(lambda: bool(prometheus.query("rate(uhok_http_requests_total[1m]) > 0")), "two scrapes")
    until(lambda: prometheus.firing() == set(), "no alarm")
    until(lambda: is_overloaded(service, prometheus), "UhokOverloaded")
    for expression in panel_queries():
        found = prometheus.query(expression)  # fails for one that is no PromQL
        if not found and not any(name in expression for name in FEEDER_ONLY):
            until(lambda each=expression: bool(prometheus.query(each)), expression)  # type: ignore[misc]
    until(lambda: is_over(service, prometheus), "the end of UhokOverloaded")
    os.kill(service.worker_ids()[0], signal.SIGKILL)
    until_firing(prometheus, "UhokWorkerRestarted")
    until_firing(prometheus, "UhokWorkerMissing", fires=False)
    service.stop()
    until_firing(prometheus, "UhokDown")
    service.start()
    until_firing(prometheus, "UhokDown", fires=False)


def test_a_model_whose_files_are_gone(tmp_path: Path) -> None:
    environ = {
        "MODELS_DIR": str(tmp_path / "models"),
        "PROBE_S": "1",
        "TEXT_MODEL": "builtin:multilingual-e5-small",
    }
    service = ServiceProcess(tmp_path / "data", environ).start(until_ready=False)
    prometheus = Prometheus(tmp_path, {"uhok": service.port}).start()
    try:
        until_firing(prometheus, "UhokModelUnavailable", "recipes")
        until_firing(prometheus, "UhokCollectionNotReady", "recipes")
        assert ("UhokModelUnavailable", "products") not in prometheus.firing()
        service.stop()
        service.environ["TEXT_MODEL"] = "builtin:hashed-ngrams"  # a model that needs no files: the cure
        service.start()
        until_firing(prometheus, "UhokModelUnavailable", "recipes", fires=False)
        until_firing(prometheus, "UhokCollectionNotReady", "recipes", fires=False)
    finally:
        prometheus.stop()
        service.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(disk)], check=True)
    service = ServiceProcess(disk / "data", {"PROBE_S": "1"}, log_dir=tmp_path).start()
    prometheus = Prometheus(tmp_path, {"uhok": service.port}).start()
    try:
        until_firing(prometheus, "UhokDiskFillsUp")
        assert ("UhokDiskFull", "") not in prometheus.firing()
        filler = disk / "filler"
        filler.write_bytes(bytes(70 << 20))
        until_firing(prometheus, "UhokDiskFull")
        filler.unlink()
        until_firing(prometheus, "UhokDiskFull", fires=False)
    finally:
        prometheus.stop()
        service.stop()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
