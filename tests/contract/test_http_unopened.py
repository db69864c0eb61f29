"""A worker that cannot open a generation refuses writes and steps, cancels nothing, and goes on by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from index_store.engine.index import EmbeddedIndex
from tests.contract.rebuild_steps import ended, generations, rebuild, search, step, until
from tests.http_app import HttpApp, running_app, seed
from tests.unit.test_index_store_unopened import FailingDisk, io_error

pytestmark = pytest.mark.long

PROBED_ALWAYS = {"PROBE_S": "1"}
ITEM = {"recipe_id": 99, "text": "된장국"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its collection `recipes` has a next generation, which others fill, and a job that was killed at it."""
    directory: Path = tmp_path_factory.mktemp("unopened") / "data"
    with running_app(directory) as app:
        seed(app)
        job = rebuild(app, model="none", embedding_version="others-1", dim=8)
        ended(app, job)
    (path,) = (directory / "jobs").glob("*.json")
    killed = {**json.loads(path.read_text()), "state": "running", "phase": "embedding"}
    path.write_text(json.dumps(killed))
    return directory


@pytest.fixture
def disk() -> FailingDisk:
    disk = FailingDisk(io_error)
    disk.fails = "g000002"
    return disk


@pytest.fixture
def app(data_dir: Path, disk: FailingDisk) -> Iterator[HttpApp]:
    """It can't open that generation."""
    with running_app(data_dir, PROBED_ALWAYS, partial(EmbeddedIndex, connect=disk.connect)) as app:
        yield app


def job_of(app: HttpApp) -> dict[str, object]:
    (job,) = app.get("/v1/jobs").json()["jobs"]
    return dict(job)


def refused(app: HttpApp) -> None:
    answer = app.post("/v1/upsert", {"items": [ITEM]})
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable"), answer.text
    assert "g000002" in answer.json()["detail"] and int(answer.headers["retry-after"]) > 0


def test_writes_and_steps_wait_and_searches_do_not(app: HttpApp) -> None:
    refused(app)
    search(app, query="갈비탕")
    assert app.get("/readyz").status_code == 200
    (reason,) = app.get("/health").json()["reasons"]
    assert (reason["collection"], reason["code"]) == ("recipes", "generation_not_open")
    assert "POST /v1/abort" in reason["hint"]
    assert app.get("/v1/collections/recipes/generations").status_code == 503
    assert step(app, "promote", 503)["code"] == "store_unavailable"
    told = app.get("/v1/sync/status").json()["collections"]["recipes"]
    assert "g000002" in told["problem"] and told["hint"]


def test_the_job_waits_and_goes_on_once_it_can_be_opened(app: HttpApp, disk: FailingDisk) -> None:
    until(app, lambda: "g000002" in str(job_of(app).get("reason", "")))
    assert job_of(app)["state"] == "running"
    disk.fails = ""
    until(app, lambda: app.get("/v1/collections/recipes/generations").status_code == 200)
    assert generations(app)["next"]["embedding_version"] == "others-1"
    assert app.post("/v1/upsert", {"items": [ITEM]}).status_code == 200
    until(app, lambda: not app.get("/health").json()["reasons"])
    until(app, lambda: job_of(app)["state"] == "ready")


def test_it_can_be_given_up(app: HttpApp) -> None:
    refused(app)
    step(app, "abort", embedding_version="others-1")
    assert generations(app).keys() == {"current"}
    assert app.post("/v1/upsert", {"items": [ITEM]}).status_code == 200
