"""Model files at the start: missing ones are said at once, and nothing ever asks a hub."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.embedding.catalog.cli import main as models
from tests.fixtures.models import write_tiny_clip
from tests.integration.service_process import BROKEN, Connection, ServiceProcess
from tests.waiting import PATIENCE_S

TORCH_READY_S_MAX = 240  # its imports alone took 77 s on a busy machine; pytest's own limit stands behind it
BUILT_IN_BY_DEFAULT = {"TEXT_MODEL": "", "IMAGE_MODEL": ""}


class Hub:
    """A local address that stands for the hub and counts who calls."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.calls = 0
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self.calls += 1
            caller.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def environ_of(hub: Hub, tmp_path: Path, **more: str) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return {"HF_ENDPOINT": hub.address, "HOME": str(home), "MODELS_DIR": str(tmp_path / "models"), **more}


def ask_until(service: ServiceProcess, path: str, wanted: int) -> tuple[int, Any]:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            found = Connection(service.port).ask("GET", path)
            if found[0] == wanted:
                return found
        except BROKEN:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{path} never answered {wanted}: {service.log.read_text()}")


def test_the_hub_stand_in_notices_a_caller(hub: Hub) -> None:
    host, port = hub.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.recv(1)
    assert hub.calls == 1


def test_the_production_models_missing(tmp_path: Path, hub: Hub) -> None:
    """No file, no hub: up at once, live, not ready, and the commands that mend it."""
    environ = environ_of(hub, tmp_path, ENABLE_CLIP="1", **BUILT_IN_BY_DEFAULT)
    service = ServiceProcess(tmp_path / "data", environ).start(until_ready=False)
    try:
        ask_until(service, "/livez", 200)
        _, answer = ask_until(service, "/readyz", 503)
        give_up = time.monotonic() + PATIENCE_S
        while not all("hint" in each for each in answer["waiting_for"]) and time.monotonic() < give_up:
            _, answer = ask_until(service, "/readyz", 503)
        mends = {each["collection"]: each["hint"] for each in answer["waiting_for"]}
        assert mends.keys() == {"recipes", "products"}
        at = f"--models-dir {tmp_path / 'models'}"
        for mend in mends.values():
            assert mend.startswith(f"python -m service models {at} fetch ")
        status, problem = Connection(service.port).post("/v1/search", {"query": "국"})
        assert (status, problem["code"]) == (503, "model_unavailable")
        status, _ = Connection(service.port).post("/v1/search", {"vector": [1.0] * 384})
        assert status in (200, 404), "a search by vector needs no model"
        assert hub.calls == 0
    finally:
        assert service.stop() == 0


@pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed: pip install '.[torch]'"
)
def test_a_model_that_runs_by_torch_asks_no_hub_either(tmp_path: Path, hub: Hub) -> None:
    directory = write_tiny_clip(tmp_path / "clip")
    assert models(["adopt", str(directory)], tmp_path) == 0
    environ = environ_of(
        hub, tmp_path, IMAGE_MODEL=str(directory), MODEL_RUNTIME="torch", SEARCH_DEADLINE_MS="60000"
    )
    service = ServiceProcess(tmp_path / "data", environ)
    try:
        service.start(ready_s_max=TORCH_READY_S_MAX)
        status, answer = Connection(service.port, timeout_s=90).post(
            "/v1/search", {"collection": "products", "query": "a red mug", "top_k": 1}
        )
        assert (status, answer.get("results")) == (200, []), answer
        assert hub.calls == 0
    finally:
        assert service.stop() == 0
