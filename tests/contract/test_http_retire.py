"""The former generation is kept fresh until it is retired: by command, or when its time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from tests.contract.rebuild_steps import (
    CHANGED,
    ended,
    first,
    generations,
    let_it_look,
    rebuild,
    search,
    step,
    until,
)
from tests.http_app import DISHES, HttpApp, running_app

pytestmark = pytest.mark.long

HOUR_S = 3600


@pytest.fixture
def promoted(seeded: Path) -> Iterator[HttpApp]:
    with running_app(seeded, CHANGED) as app:
        ended(app, rebuild(app))
        step(app, "promote")
        yield app


def test_a_retired_generation_is_gone_for_good_and_who_named_it_is_told(promoted: HttpApp) -> None:
    app = promoted
    old, new = (generations(app)[role]["embedding_version"] for role in ("former", "current"))
    assert generations(app)["former"]["retires_at"].endswith("Z")
    tag = app.get("/v1/collections/recipes/generations").headers["etag"]
    stale = app.post("/v1/retire", {"collection": "recipes"}, headers={"if-match": '"current-g000009"'})
    assert stale.status_code == 412
    refused = step(app, "retire", 409, embedding_version=new)
    assert refused["code"] == "promote_conflict" and new in refused["detail"]
    done = app.post("/v1/retire", {"collection": "recipes"}, headers={"if-match": tag})
    assert done.status_code == 200 and [each["role"] for each in done.json()["generations"]] == ["current"]
    for body in ({"query": "국"}, {"vector": [1.0] * 384, "collection": "recipes"}, {"like_ids": [3]}):
        pinned = app.post("/v1/search", {"collection": "recipes", "embedding_version": old, **body})
        assert (pinned.status_code, pinned.json()["code"]) == (409, "embedding_version_mismatch")
        assert old in pinned.json()["detail"] and new in pinned.json()["detail"]
    items = [{"recipe_id": 1, "vector": [1.0] * 384}]
    written = app.post("/v1/upsert", {"items": items, "embedding_version": old})
    assert (written.status_code, written.json()["code"]) == (409, "embedding_version_mismatch")
    back = step(app, "rollback", 409)
    assert back["code"] == "promote_conflict" and back["hint"].startswith("python -m service rebuild recipes")
    assert step(app, "retire", 409)["code"] == "promote_conflict"
    assert first(app, query=f"{DISHES[3]} 3") == 3
    # What `hint` says: the old model can be rebuilt at any time.
    job = ended(app, rebuild(app, model="builtin:hashed-ngrams"))
    assert (job["state"], job["embedding_version"], job["missing"]) == ("ready", old, 0)
    step(app, "promote")
    assert search(app, query="국")["embedding_version"] == old


def test_until_then_it_receives_every_write(promoted: HttpApp) -> None:
    app = promoted
    assert app.post("/v1/upsert", {"items": [{"recipe_id": 60, "text": "해물파전"}]}).status_code == 200
    assert app.post("/v1/deactivate", {"collection": "recipes", "ids": [6]}).status_code == 200
    told = generations(app)
    assert told["former"]["live"] == told["current"]["live"] == 30 and told["former"]["awaiting"] == 0


@pytest.mark.parametrize(("hours", "age_h", "is_kept"), [("2", 1, True), ("2", 3, False), ("0", 9_999, True)])
def test_its_time_is_over_so_many_hours_after_it_became_the_former_one(
    seeded: Path, hours: str, age_h: int, is_kept: bool
) -> None:
    environ = {**CHANGED, "RETIRE_AFTER_H": hours}
    then = partial(EmbeddedIndex, now=lambda: time.time() - age_h * HOUR_S)
    with running_app(seeded, CHANGED, then) as app:
        ended(app, rebuild(app))
        step(app, "promote")
    with running_app(seeded, {**CHANGED, "RETIRE_AFTER_H": "0"}) as app:
        ended(app, rebuild(app, model="none", embedding_version="others-1"))  # which moves the pointer
        step(app, "abort")
    with running_app(seeded, environ) as app:
        if is_kept:
            assert ("retires_at" in generations(app)["former"]) == (hours != "0")
            let_it_look(app)
            assert "former" in generations(app)
        else:
            until(app, lambda: "former" not in generations(app))
        assert first(app, query=f"{DISHES[3]} 3") == 3


def test_a_promotion_of_another_model_than_the_configured_one_is_told_at_once(seeded: Path) -> None:
    def pending(app: HttpApp) -> list[tuple[str, str]]:
        return [(each["code"], each["hint"]) for each in app.get("/health").json()["reasons"]]

    with running_app(seeded) as app:
        ended(app, rebuild(app, model="builtin:placeholder"))
        assert pending(app) == []
        step(app, "promote")
        ((code, hint),) = pending(app)
        assert code == "model_change_pending"
        assert hint.startswith("`python -m service rebuild recipes`") and "builtin:placeholder" in hint
        assert app.get("/readyz").status_code == 200
        step(app, "rollback")
        assert pending(app) == []
