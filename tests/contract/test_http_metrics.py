"""GET /metrics: what is exposed is documented, named as Prometheus asks, bounded, and true."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.http_app import HttpApp, running_app, seed
from tests.metrics_document import documented

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpApp]:
    with running_app(tmp_path_factory.mktemp("metrics") / "data") as running:
        seed(running)
        for path in ("/readyz", "/health"):
            running.get(path)
        for _ in range(2):
            assert running.post("/v1/search", {"query": "갈비탕"}).status_code == 200
        running.post("/v1/search", {"query": 1})
        running.post("/v1/delete", {"ids": [1, 2]})
        yield running


def families(app: HttpApp) -> dict[str, Metric]:
    answer = app.get("/metrics")
    assert answer.status_code == 200
    return {_exposed_name(each): each for each in text_string_to_metric_families(answer.text)}


def _exposed_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def value(app: HttpApp, name: str, **labels: str) -> float:
    for family in families(app).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(f"{name}{labels} is not exposed")


def test_the_document_lists_what_is_exposed_and_nothing_else(app: HttpApp) -> None:
    exposed = {name: (family.type, family.documentation) for name, family in families(app).items()}
    assert exposed == {name: (row.kind, row.meaning) for name, row in documented("service").items()}


def test_labels_are_those_of_the_document(app: HttpApp) -> None:
    rows = documented("service")
    for name, family in families(app).items():
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(rows[name].labels), sample


def test_names_follow_the_conventions(app: HttpApp) -> None:
    text = app.get("/metrics").text
    assert "_created" not in text
    for name, family in families(app).items():
        assert re.fullmatch(r"(uhok|process)_[a-z0-9_]+", name)
        assert family.documentation.endswith("."), name
        assert not re.search(r"_(ms|millis|kb|mb|percent)(_|$)", name), name
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_who_takes_an_older_answer_shares_it(app: HttpApp) -> None:
    fresh = app.get("/metrics")
    assert app.get("/livez").status_code == 200
    shared = app.get("/metrics", headers={"cache-control": "max-age=60"})
    assert shared.text == fresh.text and 0 <= int(shared.headers["age"]) <= 60
    for asked in ("no-cache", "max-age=0", "max-age=later", "max-age=99999999999"):
        again = app.get("/metrics", headers={"cache-control": asked})
        assert again.status_code == 200 and again.text != shared.text, asked


def test_the_state_of_a_collection_is_true(app: HttpApp) -> None:
    current = {"collection": "recipes", "role": "current"}
    assert value(app, "uhok_collection_items", **current) == 28
    assert value(app, "uhok_collection_live_items", **current) == 28
    assert value(app, "uhok_collection_seq", **current) == 32
    assert value(app, "uhok_collection_tombstones", **current) in (0, 2)
    assert value(app, "uhok_collection_delta_rows", **current) == 30
    assert value(app, "uhok_collection_store_bytes", **current) > 100_000
    (info,) = [
        each.labels
        for each in families(app)["uhok_generation_info"].samples
        if each.labels["collection"] == "recipes"
    ]
    assert (info["generation"], info["role"]) == ("g000001", "current")
    assert info["embedding_version"].startswith("ngram")


def test_the_service_is_counted_with_what_it_takes(app: HttpApp) -> None:
    assert value(app, "uhok_workers") == value(app, "uhok_workers_configured") == 1
    assert value(app, "uhok_worker_starts_total") == 1
    assert value(app, "process_resident_memory_bytes") > 50e6
    assert value(app, "process_cpu_seconds_total") > 0
    assert value(app, "process_start_time_seconds") > 1.7e9
    assert value(app, "uhok_disk_free_bytes") > value(app, "uhok_disk_reserve_bytes") > 0
    assert value(app, "uhok_jobs", state="running") == 0
    for name in ("recipes", "products"):
        assert value(app, "uhok_model_available", collection=name) == 1


def test_equal_text_queries_are_counted_as_hits(app: HttpApp) -> None:
    samples = families(app)["uhok_query_cache_requests_total"].samples
    found = {each.labels["result"]: each.value for each in samples if each.value}
    assert found["hit"] >= 1 and found["miss"] >= 1


def test_what_the_feeder_reported_is_shown_and_nothing_before(app: HttpApp) -> None:
    assert families(app)["uhok_sync_in_sync"].samples == []
    report = '{"equal": true, "as_of_ms": 1700000000000, "lag_ms": 250, "quarantined": 3}'
    source = {"sync.report": report, "sync.brake": '{"why": "x"}'}
    written = app.post("/v1/upsert", {"collection": "recipes", "items": [], "source": source})
    assert written.status_code == 200, written.text
    assert value(app, "uhok_sync_in_sync", collection="recipes") == 1
    assert value(app, "uhok_sync_lag_seconds", collection="recipes") == 0.25
    assert value(app, "uhok_sync_compared_timestamp_seconds", collection="recipes") == 1.7e9
    assert value(app, "uhok_sync_quarantined_items", collection="recipes") == 3
    assert value(app, "uhok_sync_brake", collection="recipes") == 1
