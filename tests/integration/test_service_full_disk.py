"""A disk that others have filled to the last byte, for real: a small file system of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index_store.maintenance.check import check
from index_store.maintenance.rebuild_request import ANSWER_FILE, request_rebuild, status_of
from index_store.maintenance.worker import Maintenance
from tests.integration.service_process import Connection, ServiceProcess
from tests.sealing import SMALL, SPECS, assert_same, filled, opened, snapshots_of
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")

_SIZE = "160m"
_FILLER = "filler"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)  # this process may still map segments


def codes_of(health: dict[str, Any]) -> set[str]:
    return {each["code"] for each in health["reasons"]}


def fill_up(disk: Path, filler: str = _FILLER) -> None:
    with (disk / filler).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def assert_audit_goes_on(connection: Connection, disk: Path, items: list[dict[str, Any]]) -> None:
    """While the audit log can't be written the service says so and serves; nothing of it is lost."""
    refused = 2  # the write and the copy before

    def is_audit_failing() -> bool:
        """The start and the store give room free, so it is filled again each time."""
        nonlocal refused
        fill_up(disk, f"{_FILLER}-{refused}")
        refused += connection.post("/v1/upsert", {"items": items})[0] == 503
        state: str = connection.ask("GET", "/v1/audit?limit=1")[1]["state"]
        return state == "failing"

    until(is_audit_failing)
    until(lambda: "audit_failing" in codes_of(connection.ask("GET", "/health")[1]), every_s=0.2)
    assert connection.post("/v1/search", {"query": "국 7"})[0] == 200
    for filler in disk.glob(f"{_FILLER}*"):
        filler.unlink()

    def is_all_kept() -> bool:
        told = connection.ask("GET", "/v1/audit?limit=1000")[1]
        return told["state"] == "ok" and [each["status"] for each in told["entries"]].count(503) == refused

    until(is_all_kept)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_restart_on_a_full_disk_serves_searches_and_refuses_writes(
    disk: Path, tmp_path: Path, is_killed: bool
) -> None:
    data = disk / "data"
    service = ServiceProcess(data, log_dir=tmp_path).start()  # as in production: not on the disk of the data
    connection = Connection(service.port)
    items = [{"recipe_id": number, "text": f"국 {number}"} for number in range(1, 31)]
    assert connection.post("/v1/upsert", {"items": items})[0] == 200
    connection.close()
    if is_killed:
        service.kill()
    else:
        service.stop()
    fill_up(disk)
    service = ServiceProcess(data, log_dir=tmp_path).start()
    try:
        connection = Connection(service.port)
        status, answer = connection.post("/v1/search", {"query": "국 7", "top_k": 30})
        assert status == 200 and len(answer["results"]) == 30
        status, problem = connection.post("/v1/upsert", {"items": items[:1]})
        assert (status, problem["code"]) == (503, "read_only") and "df -h" in problem["hint"]
        status, problem = connection.post("/v1/snapshot", {})
        assert (status, problem["code"]) == (503, "read_only")
        status, health = connection.ask("GET", "/health")
        assert (status, health["status"], health["maintenance"]) == (200, "degraded", "up")
        assert codes_of(health) - {"audit_failing"} == {"writes_refused"}
        if is_killed:
            (disk / _FILLER).unlink()
        else:
            assert_audit_goes_on(connection, disk, items[:1])
        assert connection.post("/v1/upsert", {"items": items[:1]})[0] == 200
        connection.close()
    finally:
        service.stop()
    logged = service.log.read_text()
    assert "traceback" not in logged.lower() and "Logging error" not in logged


def test_maintenance_on_a_full_disk_says_so_once_and_goes_on_by_itself(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = disk / "data"
    reference = filled(data)
    request = request_rebuild(data)
    fill_up(disk)
    stop, looks = threading.Event(), iter(range(400))
    maintenance = Maintenance(data, limits=replace(SMALL, scrub_pause_s=0))

    def until(look: int) -> None:
        stop.clear()
        maintenance.run_forever(stop, lambda: next(looks) < look)

    with caplog.at_level(logging.WARNING, "index_store"):
        until(60)
    said = [(one.getMessage(), one.__dict__["path"], one.exc_info) for one in caplog.records]
    assert said and len(said) == len(set(said)), said
    assert {(event, traceback) for event, _, traceback in said} <= {
        ("maintenance_waits", None),
        ("scrub_not_saved", None),
    }
    assert str(data / ANSWER_FILE) in {path for _, path, _ in said}
    assert all("df -h" in one.__dict__["hint"] for one in caplog.records)
    (disk / _FILLER).unlink()
    until(200)
    answer = status_of(data, request)
    assert answer is not None and answer.is_done and answer.problems == []
    assert all(snapshots_of(data, spec.name) for spec in SPECS) and check(data) == []
    index = opened(data)
    assert_same(index, reference, "numbers", 1)
    index.close()
