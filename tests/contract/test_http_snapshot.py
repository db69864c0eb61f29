"""POST /v1/snapshot: a hot copy that can be restored, under a name that no caller chooses."""

from __future__ import annotations

import threading
from pathlib import Path

from index_store.maintenance.backup import restore_data
from tests.http_app import running_app, seed


def test_a_snapshot_taken_during_writes_restores_to_what_was_acknowledged_before_it(tmp_path: Path) -> None:
    with running_app(tmp_path / "data") as app:
        seed(app)
        before = app.get("/health").json()["collections"]["recipes"]["seq"]
        stop = threading.Event()

        def write() -> None:
            number = 1000
            while not stop.is_set():
                number += 1
                assert app.post(
                    "/v1/upsert", {"items": [{"recipe_id": number, "text": f"국 {number}"}]}
                ).is_success

        writer = threading.Thread(target=write)
        writer.start()
        try:
            made = app.post("/v1/snapshot", {})
        finally:
            stop.set()
            writer.join()
        assert made.status_code == 200, made.text
        answer = made.json()
        (seq,) = [seq for name, seq in answer["seqs"].items() if name.startswith("recipes.")]
        assert seq >= before and answer["bytes"] > 0
        backup = tmp_path / "data" / "backups" / answer["name"]
        assert backup.is_dir()
    assert sorted(restore_data(backup, tmp_path / "again")) == ["products", "recipes"]
    with running_app(tmp_path / "again") as app:
        found = app.post("/v1/search", {"query": "갈비탕 10", "top_k": 3}).json()["results"]
        assert found[0]["recipe_id"] == 10


def test_only_an_administrator_and_no_name_of_the_callers(tmp_path: Path) -> None:
    with running_app(tmp_path, {"ADMIN_API_KEY": "administrator", "WRITE_API_KEY": "writer-key"}) as app:
        assert app.post("/v1/snapshot", {}).status_code == 401
        assert app.post("/v1/snapshot", {}, headers={"x-api-key": "writer-key"}).status_code == 403
        key = {"x-api-key": "administrator"}
        assert app.post("/v1/snapshot", {"name": "../x"}, headers=key).status_code == 422
        assert app.post("/v1/snapshot", {}, headers=key).status_code == 200
        assert len(list((tmp_path / "backups").iterdir())) == 1
