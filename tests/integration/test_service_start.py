"""Starting and stopping the program: one clear line and exit code 2, or a drain and exit code 0."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.service_process import BROKEN, ROOT, Connection, ServiceProcess
from tests.waiting import until

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def start_badly(tmp_path: Path, environ: dict[str, str]) -> str:
    service = ServiceProcess(tmp_path / "data", environ)
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env=service.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_all_mistakes_in_the_environment_at_once(tmp_path: Path) -> None:
    said = start_badly(tmp_path, {"WORKERS": "0", "TOP_K_MAX": "none", "DATADIR": "x"})
    assert said.count("error: ") == len(said.splitlines()) == 3


def test_the_example_keys_are_no_keys(tmp_path: Path) -> None:
    said = start_badly(tmp_path, {"WRITE_API_KEY": "change-me-write", "HOST": "0.0.0.0"})
    assert len(said.splitlines()) == 1 and "WRITE_API_KEY is the key of .env.example" in said


@pytest.mark.parametrize("keyless", ["off", "loopback"])
def test_one_line_says_what_is_open_to_whom(tmp_path: Path, keyless: str) -> None:
    service = ServiceProcess(tmp_path / "data", {"KEYLESS_WRITES": keyless}).start()
    try:
        status, _ = Connection(service.port).post("/v1/delete", {"ids": [1]})
        assert status == (200 if keyless == "loopback" else 403)
    finally:
        service.stop()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "access"]
    assert line["level"] == "warning"
    assert line["write"].startswith("every program" if keyless == "loopback" else "nobody")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = start_badly(tmp_path, {"PORT": port})
    assert len(said.splitlines()) == 1 and port in said and "in use" in said


def test_a_data_directory_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = start_badly(tmp_path, {"DATA_DIR": str(tmp_path / "file" / "data")})
    assert len(said.splitlines()) == 1 and "DATA_DIR" in said


def test_a_collections_file_with_unknown_keys(tmp_path: Path) -> None:
    file = tmp_path / "collections.toml"
    file.write_text("[collections.a]\ndims = 3\n")
    assert "dims" in start_badly(tmp_path, {"COLLECTIONS_FILE": str(file)})


def test_without_model_files_the_process_is_up_at_once_and_says_what_mends_it(tmp_path: Path) -> None:
    environ = {
        "TEXT_MODEL": "builtin:multilingual-e5-small",
        "IMAGE_MODEL": "builtin:efficientnet-lite0",
        "MODELS_DIR": str(tmp_path / "models"),
    }
    service = ServiceProcess(tmp_path / "data", environ).start(until_ready=False)
    try:
        status, answer = _until_loaded(service)
        assert status == 503
        assert answer["waiting_for"][0]["hint"].startswith("python -m service models")
        connection = Connection(service.port)
        assert connection.ask("GET", "/livez")[0] == 200
        assert connection.ask("GET", "/health")[1]["model_available"] is False
        status, problem = connection.post("/v1/search", {"query": "국"})
        assert (status, problem["code"]) == (503, "model_unavailable")
    finally:
        assert service.stop() == 0


def _until_loaded(service: ServiceProcess) -> tuple[int, dict[str, list[dict[str, str]]]]:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            status, answer = Connection(service.port).ask("GET", "/readyz")
            if all("hint" in each for each in answer["waiting_for"]):
                return status, answer
        except BROKEN:
            pass
        time.sleep(0.05)
    raise AssertionError(service.log.read_text())


def in_flight(connection: Connection) -> float:
    """Requests in work, the one that asks among them."""
    lines = connection.ask("GET", "/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("uhok_http_requests_in_flight"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_drains_what_is_in_flight(tmp_path: Path, workers: str) -> None:
    # What it drains is embedded at low priority, which takes long on a busy machine.
    service = ServiceProcess(tmp_path / "data", {"WORKERS": workers, "DRAIN_S": "50"}).start()
    answers: list[int] = []
    items = [{"recipe_id": n, "text": f"{n} " + "갈비탕 김치찌개 " * 40} for n in range(1000)]

    def upsert() -> None:
        answers.append(Connection(service.port).post("/v1/upsert", {"items": items})[0])

    client = threading.Thread(target=upsert)
    client.start()
    watching = Connection(service.port)
    until(lambda: bool(answers) or in_flight(watching) > 1, "the upsert")
    watching.close()
    assert service.stop() == 0
    client.join(timeout=60)
    assert answers == [200]
    again = ServiceProcess(tmp_path / "data").start()
    try:
        assert Connection(again.port).ask("GET", "/health")[1]["collections"]["recipes"]["count"] == 1000
    finally:
        again.stop()


def test_log_lines_are_json_and_carry_the_request_id(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "data", {"LOG_LEVEL": "info"}).start()
    try:
        connection = Connection(service.port)
        connection._connection.request(
            "POST", "/v1/search", json.dumps({"query": "비밀 질문"}).encode(),
            {"content-type": "application/json", "x-request-id": "my-id_7", "traceparent": TRACE},
        )  # fmt: skip
        answer = connection._connection.getresponse()
        assert answer.status == 200 and answer.headers["x-request-id"] == "my-id_7"
        assert answer.headers["traceparent"] == TRACE
    finally:
        service.stop()
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "my-id_7"]
    assert (line["route"], line["status"], line["trace_id"]) == ("/v1/search", 200, "a" * 32)
    assert "비밀" not in service.log.read_text()
    assert os.environ.get("PORT") != str(service.port)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_data_is_for_owner_and_group(tmp_path: Path, workers: str) -> None:
    service = ServiceProcess(tmp_path / "data", {"WORKERS": workers}).start()
    assert service.stop() == 0
    found = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    assert any(path.name == "store.sqlite" for path in found)
    assert [path for path in found if path.stat().st_mode & 0o027] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_maintenance_runs_beside_the_workers_and_ends_with_them(tmp_path: Path, workers: str) -> None:
    service = ServiceProcess(tmp_path / "data", {"WORKERS": workers, "PROBE_S": "1"}).start()
    try:
        connection = Connection(service.port)
        assert connection.ask("GET", "/health")[1]["maintenance"] == "up"
        told = json.loads((tmp_path / "data" / "maintenance.json").read_text())
        os.kill(told["pid"], signal.SIGKILL)
        give_up = time.monotonic() + 60
        while "uhok_maintenance_restarts_total 1.0" not in connection.ask("GET", "/metrics")[1]:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        child = json.loads((tmp_path / "data" / "maintenance.json").read_text())["pid"]
    finally:
        assert service.stop() == 0
    assert not Path(f"/proc/{child}").exists()


def test_without_maintenance_nothing_runs_beside_the_workers(tmp_path: Path) -> None:
    service = ServiceProcess(tmp_path / "data", {"MAINTENANCE": "off"}).start()
    try:
        assert Connection(service.port).ask("GET", "/health")[1]["maintenance"] == "off"
        assert not (tmp_path / "data" / "maintenance.json").exists()
    finally:
        assert service.stop() == 0
