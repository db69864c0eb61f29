"""A service started with another model than the one that made a collection goes on under the old one."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.http_app import DISHES, HttpApp, picture, running_app, seed, with_collections

pytestmark = pytest.mark.long

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
model = "builtin:hashed-ngrams"
dim = {dim}
text_template = "{template}"

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
"""


def configured(tmp_path: Path, dim: int = 384, template: str = "") -> dict[str, str]:
    return with_collections(tmp_path, COLLECTIONS.format(dim=dim, template=template))


def found(app: HttpApp, **search: Any) -> list[Any]:
    answer = app.post("/v1/search", {"top_k": 3, **search})
    assert answer.status_code == 200, answer.text
    return [next(iter(hit.values())) for hit in answer.json()["results"]]


def version_of(app: HttpApp, collection: str) -> str:
    version: str = app.get("/v1/model-info").json()["collections"][collection]["version"]
    return version


def reasons(app: HttpApp) -> dict[tuple[str, str], dict[str, str]]:
    return {(each["collection"], each["code"]): each for each in app.get("/health").json()["reasons"]}


def meta_of(data_dir: Path, collection: str) -> sqlite3.Connection:
    return sqlite3.connect(data_dir / "collections" / collection / "g000001" / "store.sqlite")


def forget_origins(data_dir: Path) -> None:
    """As a data directory was left by a version that did not note what made its vectors."""
    for collection in ("recipes", "products"):
        connection = meta_of(data_dir, collection)
        assert connection.execute("DELETE FROM meta WHERE key='origin'").rowcount == 1
        connection.commit()
        connection.close()


CHANGES = [
    pytest.param({"TEXT_MODEL": "builtin:placeholder"}, "recipes", id="text model"),
    pytest.param({"IMAGE_MODEL": "builtin:placeholder"}, "products", id="picture model"),
    pytest.param({"ENABLE_CLIP": "0"}, "products", id="ENABLE_CLIP"),
    pytest.param({"EMBED_DIM": "256"}, "products", id="dim of pictures"),
]


@pytest.mark.parametrize("knows_its_origin", [True, False])
@pytest.mark.parametrize(("change", "collection"), CHANGES)
def test_a_changed_setting_ends_no_search_and_no_write(
    seeded: Path, change: dict[str, str], collection: str, knows_its_origin: bool
) -> None:
    if not knows_its_origin:
        if "EMBED_DIM" in change:
            change = {**change, "IMAGE_MODEL": "builtin:descriptor"}
        forget_origins(seeded)
    with running_app(seeded) as app:
        before = version_of(app, collection)
        texts, pictures = found(app, query=DISHES[3]), found(app, collection="products", image=picture(3))
    if not knows_its_origin:
        forget_origins(seeded)
    with running_app(seeded, change) as app:
        assert version_of(app, collection) == before
        assert found(app, query=DISHES[3]) == texts
        assert found(app, collection="products", image=picture(3)) == pictures
        text = {"recipe_id": 99, "text": "고등어조림"}
        new = {"product_id": "new", "image": picture(77)}
        assert app.post("/v1/upsert", {"items": [text]}).status_code == 200
        assert app.post("/v1/upsert", {"items": [new]}).json()["version"] == version_of(app, "products")
        assert found(app, query="고등어조림")[0] == 99
        assert found(app, collection="products", image=picture(77))[0] == "new"
        health = app.get("/health").json()
        assert (health["status"], health["ready"]) == ("degraded", True)
        assert reasons(app).keys() == {(collection, "model_change_pending")}
        assert health["collections"][collection]["model_available"] is True
        assert app.get("/readyz").status_code == 200
    with running_app(seeded) as app:
        assert app.get("/health").json()["status"] == "ok"
        assert found(app, query="고등어조림")[0] == 99


def test_the_reason_names_both_models_and_what_helps(seeded: Path) -> None:
    with running_app(seeded, {"TEXT_MODEL": "builtin:placeholder"}) as app:
        reason = reasons(app)["recipes", "model_change_pending"]
        assert "builtin:placeholder" in reason["reason"] and version_of(app, "recipes") in reason["reason"]
        assert "builtin:hashed-ngrams" in reason["hint"]
        assert app.get("/health").json()["collections"]["recipes"]["hint"] == reason["hint"]
        (current,) = app.get("/v1/collections/recipes/generations").json()["generations"]
        assert current["dim"] == 384 and '"model": "builtin:hashed-ngrams"' in current["origin"]
        listed = {each["name"]: each for each in app.get("/v1/collections").json()["collections"]}
        assert listed["recipes"]["model"] == "builtin:hashed-ngrams"


def test_a_new_dim_of_texts_leaves_the_old_one_serving(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", configured(tmp_path)) as app:
        seed(app)
        texts = found(app, query=DISHES[3])
    with running_app(tmp_path / "data", configured(tmp_path, dim=256)) as app:
        assert found(app, query=DISHES[3]) == texts
        assert len(app.post("/v1/embed", {"text": "국"}).json()["embedding"]) == 384
        assert app.get("/health").json()["dim"] == 384
        assert reasons(app).keys() == {("recipes", "model_change_pending")}


def test_a_new_model_whose_files_are_missing_does_not_matter_yet(seeded: Path, tmp_path: Path) -> None:
    with running_app(seeded, {"TEXT_MODEL": str(tmp_path / "nothing-here")}) as app:
        assert found(app, query=DISHES[3])
        reason = reasons(app)["recipes", "model_change_pending"]
        assert "can't be used" in reason["reason"] and reason["hint"].startswith("python -m service models")
        assert app.get("/readyz").status_code == 200


def test_the_old_models_files_are_gone(tmp_path: Path) -> None:
    """Its vectors were imported; text search needs its files, and the answer says what brings them."""
    environ = {"TEXT_MODEL": "builtin:multilingual-e5-small", "MODELS_DIR": str(tmp_path / "models")}
    vector = [1.0] + [0.0] * 383
    with running_app(tmp_path / "data", environ) as app:
        items = [{"recipe_id": 1, "vector": vector}]
        version = _version_of_e5()
        written = app.post("/v1/upsert", {"items": items, "embedding_version": version})
        assert written.status_code == 200, written.text
    with running_app(tmp_path / "data", {**environ, "TEXT_MODEL": "builtin:hashed-ngrams"}) as app:
        assert found(app, vector=vector) == [1]
        problem = app.post("/v1/search", {"query": "국"})
        assert (problem.status_code, problem.json()["code"]) == (503, "model_unavailable")
        assert problem.json()["hint"].endswith("build multilingual-e5-small")
        assert reasons(app).keys() == {("recipes", "model_change_pending"), ("recipes", "model_unavailable")}
        assert app.get("/readyz").status_code == 503


def test_vectors_of_a_model_that_nothing_here_knows_are_told_as_such(tmp_path: Path) -> None:
    vector = [1.0] + [0.0] * 383
    environ = {"TEXT_MODEL": str(tmp_path / "nothing-here")}
    with running_app(tmp_path / "data", environ) as app:
        items = [{"recipe_id": 1, "vector": vector}]
        assert app.post("/v1/upsert", {"items": items, "embedding_version": "mine.1"}).status_code == 200
    with running_app(tmp_path / "data") as app:
        refused = app.post("/v1/search", {"query": "국"})
        assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
        assert "embedding_version_mismatch" in refused.json()["detail"]
        assert app.post("/v1/upsert", {"items": [{"recipe_id": 2, "text": "국"}]}).status_code == 503
        assert found(app, vector=vector) == [1]
        reason = reasons(app)["recipes", "embedding_version_mismatch"]
        assert "no model here gives the serving version" in reason["hint"]
        assert app.get("/readyz").status_code == 503


def test_another_dim_than_vectors_from_elsewhere_have_is_still_refused(tmp_path: Path) -> None:
    """Nothing here could make a query of the old dim: the setting is the mistake."""
    with running_app(tmp_path / "data", {"TEXT_MODEL": str(tmp_path / "nothing-here")}) as app:
        items = [{"recipe_id": 1, "vector": [1.0] + [0.0] * 383}]
        assert app.post("/v1/upsert", {"items": items, "embedding_version": "mine.1"}).status_code == 200
    with running_app(tmp_path / "data", configured(tmp_path, dim=256)) as app:
        refused = app.post("/v1/search", {"query": "국"})
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert refused.json()["hint"].startswith("set dim of collection 'recipes' back to 384")
        assert reasons(app).keys() == {("recipes", "store_unavailable")}


def _version_of_e5() -> str:
    from service.embedding.catalog.builtin import BUILTIN, E5

    return BUILTIN[E5].embedding_version
