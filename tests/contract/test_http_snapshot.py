"""POST /v1/snapshot: a hot copy that can be restored, under a name that no caller chooses."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from index_store.errors import ReadOnly
from index_store.maintenance.backup import backup_data, restore_data
from tests.http_app import running_app, seed


@pytest.mark.long
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


@pytest.mark.long
def test_only_an_administrator_and_no_name_of_the_callers(tmp_path: Path) -> None:
    with running_app(tmp_path, {"ADMIN_API_KEY": "administrator", "WRITE_API_KEY": "writer-key"}) as app:
        assert app.post("/v1/snapshot", {}).status_code == 401
        assert app.post("/v1/snapshot", {}, headers={"x-api-key": "writer-key"}).status_code == 403
        key = {"x-api-key": "administrator"}
        assert app.post("/v1/snapshot", {"name": "../x"}, headers=key).status_code == 422
        assert app.post("/v1/snapshot", {}, headers=key).status_code == 200
        assert len(list((tmp_path / "backups").iterdir())) == 1


@pytest.mark.long
def test_what_was_made_is_listed_and_the_oldest_go(tmp_path: Path) -> None:
    with running_app(tmp_path, {"SNAPSHOTS_KEPT": "2"}) as app:
        seed(app)
        own = tmp_path / "backups" / "monday"
        own.mkdir(parents=True)
        assert app.get("/v1/snapshot").json() == {"snapshots": []}
        made = [app.post("/v1/snapshot", {}).json() for _ in range(4)]
        names = [each["name"] for each in made]
        assert [each["pruned"] for each in made] == [[], [], [names[0]], [names[1]]]
        kept = app.get("/v1/snapshot").json()["snapshots"]
        assert [each["name"] for each in kept] == [names[3], names[2]]
        assert kept[0]["bytes"] == made[3]["bytes"] and kept[0]["made_at"].endswith("Z")
        assert own.is_dir(), "what somebody else named is not touched"


@pytest.mark.long
def test_a_copy_leaves_the_reserve_free(seeded: Path, tmp_path: Path) -> None:
    data, target = seeded, tmp_path / "copy"
    needed = sum(path.stat().st_size for path in data.glob("collections/*/*/store.sqlite*"))
    with pytest.raises(ReadOnly, match="kept free for writes") as refused:
        backup_data(data, target, reserve_bytes=1000, free=lambda _: needed + 999)
    assert "df -h" in refused.value.hint and list(tmp_path.iterdir()) == [data]
    backup_data(data, target, reserve_bytes=1000, free=lambda _: needed + 1000)
    assert target.is_dir()
