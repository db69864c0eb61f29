"""What /health, /readyz, the list of collections and the metrics say of a collection that is not well."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from index_store.__main__ import main
from index_store.catalog.pointer import BACKUP_FILE, POINTER_FILE
from index_store.engine.index import EmbeddedIndex
from index_store.storage.commit_marks import AckedSeq
from index_store.storage.schema import STORE_FILE
from service.app.health.maintenance_status import STATUS_FILE
from tests.contract.openapi_document import check_schema
from tests.http_app import HttpApp, running_app, with_collections
from tests.waiting import until

PROBED_EACH_SECOND = {"PROBE_S": "1"}
SHAPES = """
[collections.recipes]
id_field = "recipe_id"
id_type = "{id_type}"
dim = {dim}
metric = "{metric}"
text_template = "{{title}}: {{description}}. 재료: {{ingredients}}"
[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
"""
SHAPE = {"id_type": "int64", "dim": 384, "metric": "l2"}


def health(app: HttpApp, status: int = 200) -> dict[str, Any]:
    answer = app.get("/health")
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    check_schema(document, {"$ref": "#/components/schemas/Health"})
    return document


def reasons(app: HttpApp) -> dict[tuple[str | None, str], dict[str, Any]]:
    return {(each["collection"], each["code"]): each for each in health(app)["reasons"]}


def ready(app: HttpApp) -> list[dict[str, Any]]:
    answer = app.get("/readyz")
    document = answer.json()
    check_schema(document, {"$ref": "#/components/schemas/Readiness"})
    assert answer.status_code == (503 if document["waiting_for"] else 200)
    waiting: list[dict[str, Any]] = document["waiting_for"]
    return waiting


def store_of(data_dir: Path, collection: str) -> Path:
    return data_dir / "collections" / collection / "g000001" / STORE_FILE


def metric(app: HttpApp, line: str) -> bool:
    return line in app.get("/metrics").text.splitlines()


def test_all_is_well(seeded: Path) -> None:
    with running_app(seeded) as app:
        document = health(app)
        assert (document["status"], document["ready"], document["reasons"]) == ("ok", True, [])
        assert ready(app) == []
        for name in ("recipes", "products"):
            assert metric(app, f'uhok_collection_ready{{collection="{name}"}} 1.0')


@pytest.mark.long
def test_a_lost_pointer_is_named_and_its_command_helps(seeded: Path) -> None:
    directory = seeded / "collections" / "recipes"
    for name in (POINTER_FILE, BACKUP_FILE):
        (directory / name).unlink()
    with running_app(seeded, PROBED_EACH_SECOND) as app:
        refused = app.post("/v1/search", {"like_ids": [1]})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_damaged")
        assert refused.json()["hint"] == f"python -m index_store repoint {seeded} recipes"
        assert app.post("/v1/search", {"like_ids": ["007"], "collection": "products"}).status_code == 200
        assert main(refused.json()["hint"].split()[3:]) == 0
        until(lambda: app.post("/v1/search", {"like_ids": [1]}).status_code == 200)
        assert health(app)["collections"]["recipes"]["count"] > 0


@pytest.mark.long
def test_generations_set_aside_are_counted(seeded: Path) -> None:
    with running_app(seeded) as app:
        for name in ("recipes", "products"):
            assert metric(app, f'uhok_set_aside_generations{{collection="{name}"}} 0.0')
        aside = seeded / "collections" / "recipes" / "g000000.old-20261101T000000Z-0123abcd"
        aside.mkdir()
        (aside / STORE_FILE).write_bytes(b"x" * 77)
        assert metric(app, 'uhok_set_aside_generations{collection="recipes"} 1.0')
        assert metric(app, 'uhok_set_aside_bytes{collection="recipes"} 77.0')


def test_one_damaged_store_is_named_and_the_other_collection_serves(
    seeded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(seeded, "recipes")
    store.write_bytes(b"x" * 5000)
    with running_app(seeded) as app:
        found = app.post("/v1/search", {"like_ids": ["007"], "collection": "products"})
        assert found.status_code == 200 and found.json()["results"]
        refused = app.post("/v1/search", {"query": "갈비탕"})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_damaged")
        assert str(store) in refused.json()["detail"]
        assert refused.json()["hint"] == f"python -m index_store check {seeded}"
        assert app.post("/v1/delete", {"ids": [1]}).json()["code"] == "store_damaged"
        document = health(app)
        assert (document["status"], document["ready"]) == ("degraded", False)
        broken = document["collections"]["recipes"]
        assert str(store) in broken["reason"] and broken["hint"] == refused.json()["hint"]
        assert broken["count"] is None and broken["model_available"] is True
        assert document["collections"]["products"]["count"] == 11
        assert [(each["collection"], each["code"]) for each in ready(app)] == [("recipes", "store_damaged")]
        assert ready(app)[0]["hint"] == refused.json()["hint"]
        listed = app.get("/v1/collections").json()["collections"]
        assert [(each["name"], each["count"]) for each in listed] == [("recipes", None), ("products", 11)]
        assert str(store) in listed[0]["problem"] and listed[0]["hint"] == refused.json()["hint"]
        assert str(store) in app.get("/v1/sync/status").json()["collections"]["recipes"]["problem"]
        assert app.post("/v1/embed", {"text": "국"}).status_code == 200
        assert metric(app, 'uhok_collection_ready{collection="recipes"} 0.0')
        assert metric(app, 'uhok_collection_ready{collection="products"} 1.0')
        assert metric(app, 'uhok_degraded{code="store_damaged",collection="recipes"} 1.0')
    told = [record for record in caplog.records if record.getMessage() == "degraded"]
    assert [(record.levelname, record.__dict__["code"]) for record in told] == [("ERROR", "store_damaged")]


@pytest.mark.long
@pytest.mark.parametrize("change", [{"metric": "cosine"}, {"id_type": "string"}])
def test_another_shape_takes_only_its_collection_out(
    seeded: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    (setting,) = change
    with running_app(seeded, with_collections(tmp_path, SHAPES.format(**{**SHAPE, **change}))) as app:
        refused = app.post("/v1/search", {"query": "갈비탕", "collection": "recipes"})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.json()["hint"].startswith(f"set {setting} of collection 'recipes' back to")
        assert app.post("/v1/search", {"like_ids": ["7"], "collection": "products"}).status_code == 200
        assert reasons(app).keys() == {("recipes", "store_unavailable")}
    with running_app(seeded, with_collections(tmp_path, SHAPES.format(**SHAPE))) as app:
        found = app.post("/v1/search", {"query": "갈비탕 10", "collection": "recipes", "top_k": 1})
        assert found.json()["results"][0]["recipe_id"] == 10


def test_no_collection_that_answers_is_failing(seeded: Path) -> None:
    for name in ("recipes", "products"):
        store_of(seeded, name).write_bytes(b"x" * 5000)
    with running_app(seeded) as app:
        document = health(app, 503)
        assert (document["status"], len(document["reasons"])) == ("failing", 2)
        assert app.get("/livez").status_code == 200


def test_text_search_that_answers_503_is_told_though_vectors_are_served(tmp_path: Path) -> None:
    environ = {"TEXT_MODEL": str(tmp_path / "nothing-here")}
    with running_app(tmp_path / "data", environ) as app:
        document = health(app)
        assert (document["status"], document["ready"]) == ("degraded", False)
        (reason,) = document["reasons"]
        assert (reason["collection"], reason["code"]) == ("recipes", "model_unavailable")
        assert reason["hint"].startswith("python -m service models")
        assert document["collections"]["recipes"]["hint"] == reason["hint"]
        assert [each["code"] for each in ready(app)] == ["model_unavailable"]


def test_a_model_that_is_configured_and_does_not_serve_yet_is_told(seeded: Path) -> None:
    with running_app(seeded, {"IMAGE_MODEL": "builtin:placeholder"}) as app:
        assert reasons(app).keys() == {("products", "model_change_pending")}
        assert ready(app) == []
        assert app.post("/v1/search", {"query": "갈비탕"}).status_code == 200


def test_a_placeholder_that_was_asked_for_is_as_configured(tmp_path: Path) -> None:
    with running_app(tmp_path, {"ENABLE_CLIP": "0"}) as app:
        document = health(app)
        assert (document["status"], document["collections"]["products"]["model_available"]) == ("ok", False)
        assert "placeholder" in document["collections"]["products"]["reason"]


def test_a_placeholder_that_stands_in_is_degraded_and_ready(tmp_path: Path) -> None:
    environ = {"TEXT_MODEL": str(tmp_path / "nothing-here"), "MODEL_FALLBACK": "placeholder"}
    with running_app(tmp_path / "data", environ) as app:
        assert reasons(app).keys() == {("recipes", "placeholder_serves")}
        assert health(app)["ready"] is True and ready(app) == []


def damaged_rows(data_dir: Path) -> None:
    connection = sqlite3.connect(store_of(data_dir, "recipes"))
    connection.execute("UPDATE item SET metadata='{}' WHERE id=7")
    connection.commit()
    connection.close()


def behind(data_dir: Path) -> None:
    store = store_of(data_dir, "recipes")
    connection = sqlite3.connect(store)
    (uuid,) = connection.execute("SELECT value FROM meta WHERE key='store_uuid'").fetchone()
    connection.close()
    side_file = AckedSeq(store.parent)
    side_file.record(uuid, 1000)
    side_file.close()


def maintenance_down(data_dir: Path) -> None:
    (data_dir / STATUS_FILE).write_text(json.dumps({"pid": 99_999_999, "restarts": 2}))


@pytest.mark.long
@pytest.mark.parametrize(
    ("harm", "expected", "hint"),
    [
        (damaged_rows, ("recipes", "rows_damaged"), "python -m feeder reconcile"),
        (behind, ("recipes", "store_behind"), "python -m feeder import"),
        (maintenance_down, (None, "maintenance_down"), "maintenance_ended"),
    ],
)
def test_what_searches_survive_is_degraded_and_ready(
    seeded: Path, harm: Callable[[Path], None], expected: tuple[str | None, str], hint: str
) -> None:
    harm(seeded)
    with running_app(seeded, PROBED_EACH_SECOND) as app:
        found = reasons(app)
        assert found.keys() == {expected} and hint in found[expected]["hint"]
        assert health(app)["status"] == "degraded" and ready(app) == []
        assert metric(app, f'uhok_degraded{{code="{expected[1]}",collection="{expected[0] or ""}"}} 1.0')


@pytest.mark.long
def test_a_disk_that_takes_no_write_is_told_and_the_log_says_when_it_is_over(
    seeded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    free = [1 << 40]
    with running_app(seeded, PROBED_EACH_SECOND, partial(EmbeddedIndex, free=lambda _: free[0])) as app:
        assert health(app)["status"] == "ok"
        free[0] = 0
        until(lambda: health(app)["status"] == "degraded")
        assert reasons(app).keys() == {("recipes", "writes_refused"), ("products", "writes_refused")}
        assert ready(app) == []
        refused = app.post("/v1/delete", {"ids": [1]})
        assert (refused.status_code, refused.json()["code"]) == (503, "read_only")
        assert "df -h" in refused.json()["hint"]
        free[0] = 1 << 40
        until(lambda: health(app)["status"] == "ok")
        assert metric(app, 'uhok_degraded{code="writes_refused",collection="recipes"} 0.0')
    over = [record for record in caplog.records if record.getMessage() == "recovered"]
    assert {record.__dict__["collection"] for record in over} == {"recipes", "products"}
