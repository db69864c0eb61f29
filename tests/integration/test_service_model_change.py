"""The settings name another model than the data was made by, with several workers and real restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.service_process import ROOT, Connection, ServiceProcess

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
