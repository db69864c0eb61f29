"""What the configured model and text template mean on the wire: versions, and texts that find pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from service.embedding.catalog.cli import main as models
from tests.fixtures.models import write_tiny_clip
from tests.http_app import HttpApp, picture, running_app, with_collections

TEMPLATES = """
[collections.recipes]
model = "builtin:hashed-ngrams"
id_field = "recipe_id"
text_template = "{template}"
"""


def version_of(app: HttpApp, collection: str) -> str:
    version: str = app.get("/v1/model-info").json()["collections"][collection]["version"]
    return version


def configured(tmp_path: Path, text_template: str) -> dict[str, str]:
    return with_collections(tmp_path, TEMPLATES.replace("{template}", text_template))


@pytest.mark.long
def test_another_text_template_is_another_embedding_version(tmp_path: Path) -> None:
    with running_app(tmp_path / "a", configured(tmp_path, "{title}")) as app:
        first = version_of(app, "recipes")
        answer = app.post("/v1/upsert", {"items": [{"recipe_id": 1, "text": "갈비탕"}]})
        assert answer.json()["version"] == first
        assert app.post("/v1/embed", {"text": "갈비탕"}).json()["version"] == first
    with running_app(tmp_path / "b", configured(tmp_path, "{title} {description}")) as app:
        assert version_of(app, "recipes") != first
    with running_app(tmp_path / "a", configured(tmp_path, "{title} {description}")) as app:
        assert version_of(app, "recipes") == first, "what made the vectors goes on serving"
        answer = app.post("/v1/search", {"query": "갈비탕"}).json()
        assert (answer["embedding_version"], answer["results"][0]["recipe_id"]) == (first, 1)
        (reason,) = app.get("/health").json()["reasons"]
        assert (reason["code"], reason["collection"]) == ("model_change_pending", "recipes")
    with running_app(tmp_path / "a", configured(tmp_path, "{title}")) as app:
        assert app.post("/v1/search", {"query": "갈비탕"}).json()["results"][0]["recipe_id"] == 1
        assert app.get("/health").json()["reasons"] == []


def test_without_a_template_the_version_is_the_models_own(tmp_path: Path) -> None:
    with running_app(tmp_path / "a", configured(tmp_path, "")) as app:
        plain = version_of(app, "recipes")
    with running_app(tmp_path / "b", configured(tmp_path, "{title}")) as app:
        assert version_of(app, "recipes").startswith(f"{plain}.t")


def test_a_text_to_pictures_whose_model_reads_none_says_so(tmp_path: Path) -> None:
    with running_app(tmp_path) as app:
        answer = app.post("/v1/search", {"query": "파란 컵", "collection": "products"})
        assert answer.status_code == 422
        assert "reads no text" in answer.json()["detail"]
        assert answer.json()["errors"][0]["loc"] == ["body", "collection"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="the torch extra is not installed")
def test_a_text_finds_pictures_where_the_model_has_both_towers(tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "clip")
    assert models(["adopt", str(clip)], tmp_path) == 0
    with running_app(tmp_path / "data", {"IMAGE_MODEL": str(clip)}) as app:
        items = [{"product_id": f"p{place}", "image": picture(place)} for place in range(4)]
        written = app.post("/v1/upsert", {"items": items}).json()
        found = app.post(
            "/v1/search", {"query": "a blue mug", "collection": "products", "include": ["score"]}
        )
        assert found.status_code == 200, found.text
        document = found.json()
        assert document["embedding_version"] == written["version"] == version_of(app, "products")
        assert {hit["product_id"] for hit in document["results"]} == {"p0", "p1", "p2", "p3"}
        assert document["truncated"] is False
        embedded = app.post("/v1/embed", {"text": "a blue mug", "collection": "products"}).json()
        assert (embedded["version"], embedded["dim"]) == (document["embedding_version"], 512)
        by_vector = app.post("/v1/search", {"vector": embedded["embedding"], "collection": "products"}).json()
        order = [hit["product_id"] for hit in by_vector["results"]]
        assert order == [hit["product_id"] for hit in document["results"]]


@pytest.mark.long
def test_health_tells_what_the_feeder_last_found(tmp_path: Path) -> None:
    with running_app(tmp_path, {"PROBE_S": "1"}) as app:
        known = app.get("/health").json()["collections"]["recipes"]
        assert (known["in_sync"], known["lag_ms"]) == (None, None)
        report = {"equal": True, "as_of_ms": 1_700_000_000_000, "lag_ms": 31.5, "quarantined": 2}
        source = {"sync.report": json.dumps(report)}
        written = app.post("/v1/upsert", {"collection": "recipes", "items": [], "source": source})
        assert written.status_code == 200, written.text
        told = app.get("/v1/sync/status").json()["collections"]["recipes"]
        assert (told["in_sync"], told["as_of_ms"], told["lag_ms"]) == (True, 1_700_000_000_000, 31.5)
        assert told["quarantined"] == 2
        source = {"sync.report": "not a report"}
        assert app.post("/v1/upsert", {"collection": "recipes", "source": source}).status_code == 200
        told = app.get("/v1/sync/status").json()["collections"]["recipes"]
        assert (told["in_sync"], told["as_of_ms"], told["lag_ms"]) == (None, None, None)
