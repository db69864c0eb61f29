"""A model change by rebuild: jobs, promotion and rollback, and what writes and searches see meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.types import SearchRequest, SearchResult
from service.app.search import ParsedSearch
from service.collections import read_collections
from service.settings import Settings
from tests.contract.rebuild_steps import (
    CHANGED,
    ended,
    first,
    generations,
    rebuild,
    search,
    step,
    until,
)
from tests.http_app import DISHES, HttpApp, application_of, picture, running_app, with_collections

pytestmark = pytest.mark.long


@pytest.fixture
def app(seeded: Path) -> Iterator[HttpApp]:
    with running_app(seeded, CHANGED) as app:
        yield app


def test_a_dry_run_says_what_it_takes_and_begins_nothing(app: HttpApp) -> None:
    answer = app.post("/v1/rebuild", {"collection": "recipes", "dry_run": True})
    assert answer.status_code == 200, answer.text
    planned = answer.json()
    assert planned["model"] == "builtin:placeholder" and planned["problem"] == ""
    assert (planned["estimate"]["items"], planned["estimate"]["contents"]) == (30, 30)
    assert planned["estimate"]["disk_bytes"] > 0 and planned["estimate"]["seconds"] >= 0
    assert app.get("/v1/jobs").json() == {"jobs": []}
    assert generations(app).keys() == {"current"}


def test_rebuild_promote_roll_back_and_again(app: HttpApp) -> None:
    old = generations(app)["current"]["embedding_version"]
    job = ended(app, rebuild(app))
    assert (job["state"], job["done"], job["total"], job["missing"], job["errors"]) == (
        "ready",
        30,
        30,
        0,
        {},
    )
    new = job["embedding_version"]
    assert generations(app)["next"]["embedding_version"] == new
    assert search(app, query=f"{DISHES[3]} 3")["embedding_version"] == old
    step(app, "promote", embedding_version=new)
    answer = search(app, query=f"{DISHES[3]} 3")
    assert (answer["embedding_version"], answer["results"][0]["recipe_id"]) == (new, 3)
    assert app.post("/v1/embed", {"text": "국"}).json()["version"] == new
    until(app, lambda: app.get("/health").json()["reasons"] == [])
    listed = {each["name"]: each for each in app.get("/v1/collections").json()["collections"]}
    assert listed["recipes"]["model"] == "builtin:placeholder"
    step(app, "rollback")
    answer = search(app, query=f"{DISHES[3]} 3")
    assert (answer["embedding_version"], answer["results"][0]["recipe_id"]) == (old, 3)
    step(app, "rollback")
    assert search(app, query="국")["embedding_version"] == new
    refused = app.post("/v1/search", {"query": "국", "embedding_version": old})
    assert (refused.status_code, refused.json()["code"]) == (409, "embedding_version_mismatch")
    assert old in refused.json()["detail"] and new in refused.json()["detail"]


def test_health_speaks_of_the_model_that_answered_last(app: HttpApp) -> None:
    new = ended(app, rebuild(app))["embedding_version"]
    for name in ("promote", "rollback", "rollback"):
        app.get("/health")  # what was probed now holds for `PROBE_S`
        step(app, name)
        version = search(app, query="국")["embedding_version"]
        told = app.get("/health").json()["collections"]["recipes"]
        is_new = version == new
        # A placeholder's vectors mean nothing, so it is no model that is available.
        assert (told["version"], told["model_available"]) == (version, not is_new)
        assert (told["model"] == "placeholder") == is_new


def test_writes_reach_every_generation_with_vectors_of_its_version(app: HttpApp) -> None:
    job = ended(app, rebuild(app))
    items = [{"recipe_id": 3, "text": "고등어조림"}, {"recipe_id": 77, "text": "해물파전"}]
    assert app.post("/v1/upsert", {"items": items}).status_code == 200
    assert app.post("/v1/delete", {"collection": "recipes", "ids": [5]}).status_code == 200
    assert app.post("/v1/deactivate", {"collection": "recipes", "ids": [6]}).status_code == 200
    assert generations(app)["next"]["awaiting"] == 0
    for turn in ("promote", "rollback", "rollback"):
        step(app, turn)
        assert first(app, query="고등어조림") == 3 and first(app, query="해물파전") == 77
        found = {hit["recipe_id"] for hit in search(app, query=DISHES[5], top_k=100)["results"]}
        assert not found & {5, 6} and len(found) == 29
        counts = {(each["items"], each["live"]) for each in generations(app).values()}
        assert counts == {(30, 29)}, "30 + 1 new - 1 deleted, one of them inactive"
        item = {"recipe_id": 78, "text": f"칼국수 {turn}"}
        assert app.post("/v1/upsert", {"items": [item]}).status_code == 200
        assert first(app, query=f"칼국수 {turn}") == 78
        assert app.post("/v1/delete", {"collection": "recipes", "ids": [78]}).status_code == 200
    assert job["embedding_version"] == generations(app)["current"]["embedding_version"]


def test_a_delete_that_is_rejected_takes_no_item_of_its_place_along(app: HttpApp) -> None:
    ended(app, rebuild(app))
    body = {"items": [{"recipe_id": 60, "text": "칼국수"}], "delete_ids": ["no id of this collection"]}
    answer = app.post("/v1/upsert?partial=true", {"collection": "recipes", **body})
    assert (answer.status_code, len(answer.json()["rejected"])) == (200, 1), answer.text
    assert generations(app)["next"]["live"] == 31


def test_a_job_that_is_deleted_gives_its_generation_up(seeded: Path) -> None:
    with running_app(seeded, {**CHANGED}) as app:
        job = rebuild(app)
        answer = app.request("DELETE", f"/v1/jobs/{job['id']}")
        if answer.status_code == 202:
            assert ended(app, job)["state"] in ("cancelled", "ready")
        again = app.request("DELETE", f"/v1/jobs/{job['id']}")
        assert (again.status_code, again.json()["code"]) == (409, "job_conflict")
        if ended(app, job)["state"] == "cancelled":
            assert generations(app).keys() == {"current"}
            job = rebuild(app)
            assert ended(app, job)["state"] == "ready"


def test_what_can_not_be_embedded_here_is_counted_and_stops_a_promotion(app: HttpApp) -> None:
    version = generations(app)["current"]["embedding_version"]
    items = [{"recipe_id": 500 + n, "vector": [1.0] * 384} for n in range(4)]
    written = app.post("/v1/upsert", {"items": items, "embedding_version": version})
    assert written.status_code == 200, written.text
    job = ended(app, rebuild(app))
    assert (job["state"], job["missing"], job["total"]) == ("ready", 4, 30)
    refused = step(app, "promote", 409)
    assert refused["code"] == "promote_conflict" and "4 item(s)" in refused["detail"]
    assert generations(app)["current"]["embedding_version"] == version
    step(app, "promote", force=True)
    assert generations(app)["current"]["live"] == 30


def test_a_rebuild_of_pictures_takes_their_bytes_where_they_are_kept(tmp_path: Path) -> None:
    shape = (
        'id_field = "product_id"\nid_type = "string"\nmodality = "image"\ndim = 512\nkeep_content = true\n'
    )
    environ = with_collections(tmp_path, f"[collections.products]\n{shape}")
    with running_app(tmp_path / "data", environ) as app:
        items = [{"product_id": f"p{n}", "image": picture(n)} for n in range(6)]
        assert app.post("/v1/upsert", {"items": items}).status_code == 200
        job = ended(app, rebuild(app, collection="products", model="builtin:placeholder"))
        assert (job["state"], job["done"], job["total"], job["errors"]) == ("ready", 6, 6, {})
        assert step(app, "promote", collection="products")
        assert first(app, collection="products", image=picture(4)) == "p4"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "builtin:hashed-ngrams"}, 409, "promote_conflict"),
        ({"model": "builtin:nothing"}, 503, "model_unavailable"),
        ({"embedding_version": "another"}, 409, "promote_conflict"),
        ({"surprise": 1}, 422, "invalid_request"),
        ({"collection": "nothing"}, 404, "unknown_collection"),
    ],
)
def test_what_can_not_be_rebuilt_is_refused_before_it_begins(
    app: HttpApp, body: dict[str, Any], status: int, code: str
) -> None:
    answer = app.post("/v1/rebuild", {"collection": "recipes", **body})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert app.get("/v1/jobs").json() == {"jobs": []}


def test_one_job_a_collection_and_unknown_ids(app: HttpApp) -> None:
    job = rebuild(app)
    second = app.post("/v1/rebuild", {"collection": "recipes"})
    assert second.status_code in (202, 409)
    assert app.get("/v1/jobs").json()["jobs"][-1]["id"] == job["id"]
    for method, path in (("GET", "/v1/jobs/nothing"), ("DELETE", "/v1/jobs/20261128T000000Z-abcdef")):
        assert app.request(method, path).json()["code"] == "unknown_job"


def test_a_step_is_guarded_by_if_match(app: HttpApp) -> None:
    ended(app, rebuild(app))
    tag = app.get("/v1/collections/recipes/generations").headers["etag"]
    stale = app.post("/v1/promote", {"collection": "recipes"}, headers={"if-match": '"current-g000009"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
    taken = app.post("/v1/promote", {"collection": "recipes"}, headers={"if-match": tag})
    assert taken.status_code == 200 and taken.headers["etag"] != tag
    again = app.post("/v1/rollback", {"collection": "recipes"}, headers={"if-match": tag})
    assert again.status_code == 412


def test_a_restart_goes_on_with_both_models(seeded: Path) -> None:
    with running_app(seeded, CHANGED) as app:
        old = generations(app)["current"]["embedding_version"]
        new = ended(app, rebuild(app))["embedding_version"]
        step(app, "promote")
    with running_app(seeded, CHANGED) as app:
        assert search(app, query="국")["embedding_version"] == new
        assert app.get("/health").json()["reasons"] == []
        until(
            app,
            lambda: (
                app.post("/v1/upsert", {"items": [{"recipe_id": 9, "text": "메밀국수"}]}).status_code == 200
            ),
        )
        until(app, lambda: generations(app)["former"]["awaiting"] == 0)
        step(app, "rollback")
        answer = until(app, lambda: app.post("/v1/search", {"query": "메밀국수"}).status_code == 200)
        assert answer and search(app, query="메밀국수")["embedding_version"] == old
        assert first(app, query="메밀국수") == 9
    with running_app(seeded, CHANGED) as app:
        assert search(app, query="메밀국수")["embedding_version"] == old
        codes = [each["code"] for each in app.get("/health").json()["reasons"]]
        assert codes == ["model_change_pending"]


def test_a_search_that_waited_in_line_during_a_promotion_is_answered(app: HttpApp) -> None:
    """Its vector was made by the model that served before; the same search is repeated, by the new one."""
    new = ended(app, rebuild(app))["embedding_version"]
    search(app, query="국")  # remembered from here on, so that it goes straight into line
    searcher = application_of(app).searcher
    recipes = next(each for each in read_collections(Settings.from_environ({})).collections)
    waiting = ParsedSearch(recipes, SearchRequest(np.ones(384, np.float32), 3), content="국")

    async def submit() -> SearchResult:
        answered = asyncio.get_running_loop().create_future()
        assert searcher.submit_search(waiting, answered, "")
        result: SearchResult = await answered
        return result

    async def repeat() -> SearchResult:
        return await searcher.find(waiting)

    assert app.loop.run(submit()).embedding_version != new
    step(app, "promote")
    assert app.loop.run(repeat()).embedding_version == new
