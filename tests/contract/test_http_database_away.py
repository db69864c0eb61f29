"""A service whose collections are in a database that is not there: it starts, says so, keeps its secret."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.processes import free_port
from tests.http_app import HttpApp, running_app

SECRET = "hunter2-and-more"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    url = f"postgresql://shop:{SECRET}@127.0.0.1:{free_port()}/vectors"
    with running_app(tmp_path_factory.mktemp("away") / "data", {"INDEX_URL": url}) as running:
        yield running


REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/search", {"vector": [0.1] * 384}),
    ("POST", "/v1/upsert", {"items": [{"recipe_id": 1, "vector": [0.1] * 384}]}),
    ("POST", "/v1/delete", {"ids": [1]}),
    ("POST", "/v1/count", {}),
    ("GET", "/v1/items?collection=recipes", None),
    ("GET", "/v1/collections/recipes/digest", None),
    ("GET", "/v1/collections/recipes/generations", None),
    ("POST", "/v1/promote", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_what_needs_it_is_refused_for_now_and_says_what_helps(
    app: HttpApp, method: str, path: str, body: Any
) -> None:
    named = {"collection": "recipes", **body} if body is not None else None
    answer = app.request(method, path, json=named)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (503, "store_unavailable"), problem
    assert "INDEX_URL" in problem["hint"] and "retry-after" in answer.headers


def test_health_says_why(app: HttpApp) -> None:
    for path, key in (("/health", "reasons"), ("/readyz", "waiting_for")):
        answer = app.get(path)
        assert answer.status_code == 503
        assert {each["code"] for each in answer.json()[key]} == {"store_unavailable"}
    assert app.get("/health").json()["maintenance"] == "off"


def test_what_tells_how_the_service_is_still_does(app: HttpApp) -> None:
    assert app.get("/v1/sync/status").json()["store"] == ""
    collections = app.get("/v1/collections").json()["collections"]
    assert all("INDEX_URL" in each["hint"] for each in collections)
    lines = app.get("/metrics").text.splitlines()
    assert 'uhok_collection_ready{collection="recipes"} 0.0' in lines
    assert not [
        line for line in lines if line.startswith(("uhok_disk_reserve_bytes ", "uhok_disk_free_bytes "))
    ]


def test_its_backups_are_not_made_here(app: HttpApp) -> None:
    answer = app.post("/v1/snapshot", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_supported")
    assert "pg_dump" in answer.json()["hint"]
    assert app.get("/v1/snapshot").json() == {"snapshots": []}


def test_no_answer_and_no_line_of_the_log_holds_the_password(
    app: HttpApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for path in ("/health", "/readyz", "/metrics", "/v1/collections", "/v1/sync/status"):
        assert SECRET not in app.get(path).text, path
    for method, path, body in REQUESTS:
        assert SECRET not in app.request(method, path, json=body).text, path
    assert caplog.records
    assert SECRET not in caplog.text
