"""Two generations on the wire: each has its own writes, cursors, proof and model, whichever is current."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.record import digest
from tests.contract.rebuild_steps import CHANGED, ended, generations, rebuild, search, step
from tests.contract.test_http_search_bounds import BARE
from tests.http_app import DISHES, HttpApp, running_app, seed, with_collections

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    folder: Path = tmp_path_factory.mktemp("generations")
    with running_app(folder / "data") as app:
        seed(app)
    with running_app(folder / "data", CHANGED) as app:
        assert ended(app, rebuild(app))["state"] == "ready"
        yield app


def versions(app: HttpApp) -> tuple[str, str]:
    found = generations(app)
    return found["current"]["embedding_version"], found["next"]["embedding_version"]


def write(app: HttpApp, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/upsert", {"collection": "recipes", **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def told(app: HttpApp, version: str) -> dict[str, Any]:
    found = app.get("/v1/sync/status").json()["collections"]["recipes"]["generations"]
    return next(each for each in found if each["embedding_version"] == version)


def test_a_write_reaches_the_named_generation_alone(app: HttpApp) -> None:
    old, new = versions(app)
    vector = base64.b64encode(np.eye(384, dtype="<f4")[7].tobytes()).decode()
    before = {version: told(app, version)["live"] for version in (old, new)}
    body = {"items": [{"id": 700, "vector": vector}], "source": {"here": "1"}}
    assert write(app, **body, embedding_version=new, except_versions=[old])["version"] == new
    assert {version: told(app, version)["live"] for version in (old, new)} == {
        old: before[old], new: before[new] + 1,
    }  # fmt: skip
    assert told(app, new)["cursors"] == {"here": "1"} and told(app, old)["cursors"] == {}
    write(app, delete_ids=[700], items=[{"id": 1, "active": False}], embedding_version=new,
          except_versions=[old])  # fmt: skip
    assert told(app, new)["live"] == before[new] - 1 and told(app, old)["live"] == before[old]
    write(app, items=[{"id": 1, "active": True}])
    assert {version: told(app, version)["live"] for version in (old, new)} == before


def test_a_content_is_embedded_for_the_named_generation(app: HttpApp) -> None:
    """What a feeder sends of items whose content was never kept: the serving generation has them already."""
    old, new = versions(app)

    def embedded(version: str, text: str) -> Any:
        body = {"texts": [text], "collection": "recipes", "role": "document", "embedding_version": version}
        return app.post("/v1/embed-batch", body).json()["embeddings"][0]

    def rows(version: str) -> dict[int, int]:
        bucket = digest.bucket_of(800)
        route = f"/v1/collections/recipes/digest?bucket={bucket}&embedding_version={version}"
        return {row["id"]: row["sum"] for row in app.get(route).json()["rows"]}

    before = {version: told(app, version)["live"] for version in (old, new)}
    item = {"id": 800, "text": "새 모델만 아는 요리"}
    assert write(app, items=[item], embedding_version=new, except_versions=[old])["version"] == new
    assert 800 not in rows(old) and told(app, old)["live"] == before[old]
    assert told(app, new)["live"] == before[new] + 1 and told(app, new)["awaiting"] == 0
    write(app, items=[item], embedding_version=new)
    both = [rows(version)[800] for version in (old, new)]
    assert told(app, old)["live"] == before[old] + 1, "without exceptions each gets a vector of its own model"
    assert search(app, vector=embedded(old, item["text"]))["results"][0]["recipe_id"] == 800
    write(app, items=[item])
    assert [rows(version)[800] for version in (old, new)] == both
    write(app, delete_ids=[800])
    problem = write(app, 409, items=[item], embedding_version="nobody.1")
    assert problem["code"] == "embedding_version_mismatch"


@pytest.mark.parametrize("version", [None, "itself"])
def test_what_is_left_out_stands_beside_the_version_that_is_written(
    app: HttpApp, version: str | None
) -> None:
    old, _ = versions(app)
    body = {"embedding_version": old if version else None, "except_versions": [old]}
    problem = write(app, 422, delete_ids=[1], **body)
    assert problem["errors"][0]["loc"] == ["body", "except_versions"]


def test_each_generation_proves_its_own_content(app: HttpApp) -> None:
    old, new = versions(app)
    route = "/v1/collections/recipes/digest"
    roots = {each: app.get(f"{route}?embedding_version={each}").json()["root"] for each in (old, new)}
    assert app.get(route).json()["root"] == roots[old] != roots[new]
    listed = app.get(f"{route}?bucket=0,1&embedding_version={new}").json()["rows"]
    assert listed == [] or listed != app.get(f"{route}?bucket=0,1").json()["rows"]
    nothing = {"sums": base64.b64encode(bytes(8)).decode()}
    sums = {
        each: app.post(route, {**nothing, "embedding_version": each}).json()["sums"]
        for each in (old, new, None)
    }
    assert sums[None] == sums[old] != sums[new]
    for answer in (app.get(f"{route}?embedding_version=nobody.1"),
                   app.post(route, {**nothing, "embedding_version": "nobody.1"})):  # fmt: skip
        assert (answer.status_code, answer.json()["code"]) == (409, "embedding_version_mismatch")
        assert old in answer.json()["detail"] and "nobody.1" in answer.json()["detail"]


def test_texts_are_embedded_by_the_model_of_each_generation(app: HttpApp) -> None:
    old, new = versions(app)
    found = {}
    for version in (old, new, None):
        body = {"texts": [DISHES[0]], "collection": "recipes", "role": "document"}
        answer = app.post("/v1/embed-batch", {**body, "embedding_version": version}).json()
        one = app.post("/v1/embed", {"text": DISHES[0], "role": "document", "embedding_version": version})
        assert one.json()["embedding"] == answer["embeddings"][0]
        assert answer["version"] == one.json()["version"] == (version or old)
        found[version] = answer["embeddings"]
    assert found[None] == found[old] != found[new]
    refused = app.post("/v1/embed", {"text": DISHES[0], "embedding_version": "nobody.1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "embedding_version_mismatch")


def test_roles_change_and_versions_stay(app: HttpApp) -> None:
    old, new = versions(app)
    step(app, "promote")
    assert told(app, new)["role"] == "current" and told(app, old)["role"] == "former"
    write(app, delete_ids=[2], embedding_version=old, except_versions=[new])
    assert app.get("/v1/items/2?collection=recipes").status_code == 200
    step(app, "rollback")
    assert app.get("/v1/items/2?collection=recipes").status_code == 404


def test_without_a_model_a_generation_is_begun_for_vectors_that_others_bring(tmp_path: Path) -> None:
    with running_app(tmp_path / "data", with_collections(tmp_path, BARE)) as app:
        rows = np.eye(384, dtype="<f4")[:12]

        def bring(version: str, other: str) -> None:
            items = [
                {"id": n, "vector": base64.b64encode(row.tobytes()).decode()} for n, row in enumerate(rows)
            ]
            body = {"collection": "bare", "items": items, "embedding_version": version}
            answer = app.post("/v1/upsert", {**body, "except_versions": [other]})
            assert answer.status_code == 200, answer.text

        bring("mine.1", "mine.2")
        asked = app.post("/v1/rebuild", {"collection": "bare"})
        assert asked.status_code == 422 and "embedding_version" in asked.json()["errors"][0]["msg"]
        job = rebuild(app, collection="bare", embedding_version="mine.2")
        done = ended(app, job)
        assert (done["state"], done["missing"], done["total"]) == ("ready", 12, 0)
        assert step(app, "promote", 409, collection="bare")["code"] == "promote_conflict"
        bring("mine.2", "mine.1")
        assert app.post("/v1/collections/bare/generations/next/report", {}).status_code == 200
        step(app, "promote", collection="bare")
        assert generations(app, "bare")["current"]["embedding_version"] == "mine.2"
        again = app.post("/v1/rebuild", {"collection": "bare", "embedding_version": "mine.1"})
        assert again.status_code == 409 and "rollback" in again.json()["detail"]
