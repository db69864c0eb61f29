"""The settings name another model than the data was made by, with several workers and real restarts."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ROOT, Connection, ServiceProcess
from tests.waiting import until

REAL = {"TEXT_MODEL": "builtin:multilingual-e5-small", "MODELS_DIR": str(ROOT / ".models")}
DISHES = ["갈비탕", "김치찌개", "된장찌개", "비빔밥", "떡볶이"]


@pytest.mark.skipif(
    not any((ROOT / ".models").glob("multilingual-e5-small@*")),
    reason="built-in models are not built: make models",
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_text_search_goes_on_after_text_model_was_changed(tmp_path: Path, workers: str) -> None:
    data = tmp_path / "data"
    service = ServiceProcess(data, REAL).start()
    try:
        items = [{"recipe_id": n, "text": dish} for n, dish in enumerate(DISHES)]
        status, written = Connection(service.port).post("/v1/upsert", {"items": items})
        assert status == 200
        version = written["version"]
    finally:
        assert service.stop() == 0
    changed = {**REAL, "TEXT_MODEL": "builtin:hashed-ngrams", "WORKERS": workers}
    service = ServiceProcess(data, changed).start()
    try:
        for n, dish in enumerate(DISHES * 4):
            connection = Connection(service.port)  # any worker
            status, answer = connection.post("/v1/search", {"query": dish, "top_k": 1})
            assert (status, answer["embedding_version"]) == (200, version)
            assert answer["results"][0]["recipe_id"] == n % len(DISHES)
            connection.close()
        status, written = Connection(service.port).post(
            "/v1/upsert", {"items": [{"recipe_id": 9, "text": "고등어조림"}]}
        )
        assert (status, written["version"]) == (200, version)
        status, health = Connection(service.port).ask("GET", "/health")
        assert [each["code"] for each in health["reasons"]] == ["model_change_pending"]
        assert Connection(service.port).ask("GET", "/readyz")[0] == 200
    finally:
        assert service.stop() == 0


COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
model = "{model}"
dim = {dim}
"""


class Visitor:
    """Searches by text on new connections, so that each worker gets some, until it leaves."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._search)
        self.versions: list[str] = []
        self.failures: list[Any] = []

    def __enter__(self) -> Visitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join()

    def _search(self) -> None:
        for n in itertools.count():
            if self._leave.is_set():
                return
            connection = Connection(self._port)
            status, answer = connection.post("/v1/search", {"query": DISHES[n % len(DISHES)], "top_k": 1})
            connection.close()
            if status != 200 or answer["results"][0]["recipe_id"] != n % len(DISHES):
                self.failures.append((status, answer))
            else:
                self.versions.append(answer["embedding_version"])


@pytest.mark.parametrize(
    "old",
    [
        pytest.param("builtin:hashed-ngrams", id="no files"),
        pytest.param(
            "builtin:multilingual-e5-small",
            id="real model",
            marks=pytest.mark.skipif(
                not any((ROOT / ".models").glob("multilingual-e5-small@*")),
                reason="built-in models are not built: make models",
            ),
        ),
    ],
)
def test_text_search_goes_on_through_a_change_to_another_dim(tmp_path: Path, old: str) -> None:
    """Begun by ON_MODEL_CHANGE, with two workers; no search fails or meets a vector of another length."""
    file = tmp_path / "collections.toml"
    environ = {"COLLECTIONS_FILE": str(file), "WORKERS": "2", "ON_MODEL_CHANGE": "rebuild"}
    environ["MODELS_DIR"] = str(ROOT / ".models")
    file.write_text(COLLECTIONS.format(model=old, dim=384))
    service = ServiceProcess(tmp_path / "data", environ).start()
    try:
        items = [{"recipe_id": n, "text": dish} for n, dish in enumerate(DISHES)]
        assert Connection(service.port).post("/v1/upsert", {"items": items})[0] == 200
    finally:
        assert service.stop() == 0
    file.write_text(COLLECTIONS.format(model="builtin:placeholder", dim=96))
    service = ServiceProcess(tmp_path / "data", environ, service.port).start()
    try:
        with Visitor(service.port) as visitor:
            until(lambda: is_ready(service), "the rebuild that nobody asked for")
            for step in ("promote", "rollback", "rollback", "retire"):
                status, told = Connection(service.port).post(f"/v1/{step}", {"collection": "recipes"})
                assert status == 200, told
            known = len(visitor.versions)
            until(lambda: len(visitor.versions) > known + 10, "ten searches after the last step")
        assert visitor.failures == []
        assert len(set(visitor.versions)) == 2
        assert [(each["role"], each["dim"]) for each in told["generations"]] == [("current", 96)]
    finally:
        assert service.stop() == 0


def is_ready(service: ServiceProcess) -> bool:
    jobs = Connection(service.port).ask("GET", "/v1/jobs")[1]["jobs"]
    return [job["state"] for job in jobs] == ["ready"]
