"""A disk that others have filled to the last byte, for real: a small file system of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service_process import Connection, ServiceProcess

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
        subprocess.run(["umount", str(mounted)], check=True)


def fill_up(disk: Path) -> None:
    with (disk / _FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_restart_on_a_full_disk_serves_searches_and_refuses_writes(disk: Path, is_killed: bool) -> None:
    data = disk / "data"
    service = ServiceProcess(data).start()
    connection = Connection(service.port)
    items = [{"recipe_id": number, "text": f"국 {number}"} for number in range(1, 31)]
    assert connection.post("/v1/upsert", {"items": items})[0] == 200
    connection.close()
    if is_killed:
        service.kill()
    else:
        service.stop()
    fill_up(disk)
    service = ServiceProcess(data).start()
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
        assert {each["code"] for each in health["reasons"]} == {"writes_refused"}
        (disk / _FILLER).unlink()
        assert connection.post("/v1/upsert", {"items": items[:1]})[0] == 200
        connection.close()
    finally:
        service.stop()
    assert "Traceback" not in service.log.read_text()
