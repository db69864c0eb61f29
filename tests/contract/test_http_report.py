"""The report before a switch: what it finds, what its gates stop, and that two runs say the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.engine.index import EmbeddedIndex
from index_store.types import CollectionSpec, Id, ItemWrite, WriteBatch
from service.ops.report import add_report
from tests.contract.rebuild_steps import ended, generations, rebuild, step, until
from tests.http_app import DISHES, HttpApp, picture, running_app, with_collections

pytestmark = pytest.mark.long

REPORT = "/v1/collections/recipes/generations/next/report"
CHANGED = {"TEXT_MODEL": "builtin:placeholder"}
PICTURES = """
[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
keep_content = true

[collections.products.gates]
overlap_at_10_min = 0.4
"""


@pytest.fixture
def app(seeded: Path) -> Iterator[HttpApp]:
    with running_app(seeded, CHANGED) as app:
        yield app


def reported(app: HttpApp, body: dict[str, Any] | None = None, path: str = REPORT) -> dict[str, Any]:
    answer = app.get(path) if body is None else app.post(path, body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def without_timing(report: dict[str, Any]) -> dict[str, Any]:
    assert report["timing"]["made_at"]
    return {key: value for key, value in report.items() if key != "timing"}


def gates(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in report["gates"]}


def test_a_job_ends_with_a_report_and_two_runs_say_the_same(seeded: Path) -> None:
    with running_app(seeded, CHANGED) as app:
        assert app.get(REPORT).json()["code"] == "unknown_generation"
        job = ended(app, rebuild(app))
        assert job["state"] == "ready"
        assert list((seeded / "reports" / "recipes").glob("*.json"))
        stored = reported(app)
        assert stored["holds"] and not stored["is_stale"]
        assert stored["after"]["embedding_version"] == job["embedding_version"]
        assert stored["sources"] == {"sampled": 60} and stored["by_kind"].keys() == {"text", "id"}
        assert stored["by_language"].keys() == {"korean"} and stored["skipped"] == {}
        assert stored["known_items"]["text"] == {"items": 30, "found_before": 1.0, "found_after": 1.0}
        assert sum(stored["overlap_histogram"]) == 60 and len(stored["changed"]) == 20
        assert stored["timing"] == reported(app)["timing"], "it was stored, not made again"
        again = reported(app, {})
        assert again["timing"]["made_at"] > stored["timing"]["made_at"]
        assert without_timing(again) == without_timing(stored)
        by_name = f"/v1/collections/recipes/generations/{stored['after']['generation']}/report"
        assert reported(app, path=by_name) == again
        first = stored["changed"][0]
        assert first["rbo"] <= stored["changed"][-1]["rbo"] and len(first["before"]) == 10
    with running_app(seeded, CHANGED) as restarted:
        assert without_timing(reported(restarted)) == without_timing(stored)


def test_a_write_makes_it_stale_and_a_promotion_keeps_it(app: HttpApp) -> None:
    ended(app, rebuild(app))
    assert app.post("/v1/upsert", {"items": [{"recipe_id": 3, "text": "고등어조림"}]}).status_code == 200
    stale = reported(app)
    assert stale["is_stale"] and stale["before"]["seq"] < generations(app)["current"]["seq"]
    assert reported(app, {})["is_stale"] is False
    name = stale["after"]["generation"]
    step(app, "promote")
    kept = reported(app, path=f"/v1/collections/recipes/generations/{name}/report")
    assert kept["after"]["generation"] == name
    former = reported(app, path="/v1/collections/recipes/generations/former/report")
    assert former["before"]["generation"] == name, "the way back can be looked at, too"


def test_a_browser_gets_a_page_that_shows_titles_as_text(app: HttpApp) -> None:
    title = "<img src=x onerror=alert(1)>"
    item = {"recipe_id": 3, "text": f"{DISHES[3]} 3", "metadata": {"title": title}}
    assert app.post("/v1/upsert", {"items": [item]}).status_code == 200
    ended(app, rebuild(app))
    queries = [{"query": f"{title} {DISHES[3]} 3"}, {"query": "<script>alert(1)</script>"}]
    assert reported(app, {"queries": queries})["holds"]
    answer = app.get(REPORT, headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in answer.text and "<img" not in answer.text
    assert "&lt;img src=x onerror=alert(1)&gt;" in answer.text and "&lt;script&gt;" in answer.text
    assert app.get(REPORT, headers={"accept": "*/*"}).headers["content-type"] == "application/json"


def test_given_queries_and_judgements_by_kind_and_language(app: HttpApp) -> None:
    ended(app, rebuild(app))
    vector = [1.0] + [0.0] * 383
    queries: list[dict[str, Any]] = [
        {"query": f"{DISHES[3]} 3", "exclude_ids": [13]},
        {"query": "kimchi stew", "filter": {"category": "국"}},
        {"query": "42 !", "filter": {"category": "nothing such"}},
        {"like_ids": [4], "unlike_ids": [5]},
        {"vector": vector, "next_vector": vector},
        {"vector": vector},
    ]
    judgements = [{"query": f"{DISHES[7]} 7", "grades": {"7": 3, "17": 1}}]
    report = reported(app, {"queries": queries, "judgements": judgements})
    assert report["sources"] == {"given": 5, "judged": 1}
    assert report["skipped"] == {"vector_of_one_model_only": 1}
    assert {kind: row["queries"] for kind, row in report["by_kind"].items()} == {
        "id": 1,
        "text": 4,
        "vector": 1,
    }
    assert {name: row["queries"] for name, row in report["by_language"].items()} == {
        "english": 1,
        "korean": 2,
        "other": 1,
    }
    assert (report["overall"]["zero_before"], report["overall"]["zero_new"]) == (1, 0)
    assert report["judged"]["queries"] == 1 and report["judged"]["ndcg_at_10_before"] > 0.7
    shown = {
        hit["id"] for each in report["changed"] if each["label"] == f"{DISHES[3]} 3" for hit in each["before"]
    }
    assert shown and 13 not in shown, "a replay leaves out what its caller left out"
    loss = report["judged"]["ndcg_at_10_before"] - report["judged"]["ndcg_at_10_after"]
    gate = gates(report)["ndcg_loss_max"]
    assert gate["value"] == pytest.approx(loss, abs=1e-4) and gate["holds"] == (loss <= 0.02)


def test_a_planted_regression_is_found_and_the_gate_stops_the_promotion(seeded: Path) -> None:
    """The vectors of the next generation change places among its items, as by a bad export."""
    with running_app(seeded, CHANGED) as app:
        version = ended(app, rebuild(app))["embedding_version"]
        assert gates(reported(app))["known_item_loss_max"]["value"] == 0.0
    shuffle(seeded, RECIPES, version, list(range(1, 31)))
    with running_app(seeded, CHANGED) as app:
        report = until_loaded(app)
        gate = gates(report)["known_item_loss_max"]
        assert (gate["holds"], gate["kind"]) == (False, "text") and gate["value"] > 0.4
        assert report["holds"] is False
        refused = step(app, "promote", 409)
        assert refused["code"] == "promote_conflict"
        assert f"known_item_loss_max is {gate['value']} for text queries, at most 0.05" in refused["detail"]
        assert refused["hint"] == "python -m service report recipes"
        assert generations(app)["current"]["embedding_version"] != version
        step(app, "promote", force=True)
        assert generations(app)["current"]["embedding_version"] == version


def test_a_report_of_a_generation_that_was_still_empty_decides_nothing(seeded: Path) -> None:
    """As by a rebuild whose vectors are imported after it."""
    ids = list(range(1, 31))
    with opened_index(seeded, RECIPES) as index:
        index.advance("recipes", "begin", "imported.1")
    path = REPORT.replace("next", "imported.1")
    with running_app(seeded) as app:
        empty = reported(app, path=path)
        assert empty["after"]["live"] == 0 and empty["holds"] is False
    with opened_index(seeded, RECIPES) as index:
        stored = index.get("recipes", ids)
        items = [ItemWrite(found.id, vector=found.vector) for found in stored if found is not None]
        index.write("recipes", WriteBatch(items, embedding_version="imported.1"))
    with running_app(seeded) as app:
        step(app, "promote")
        name = generations(app)["current"]["generation"]
        made = reported(app, path=f"/v1/collections/recipes/generations/{name}/report")
        assert made["after"]["live"] == 30 and made["holds"]


def test_a_shuffled_kind_is_found_among_sound_ones_and_by_overlap(tmp_path: Path) -> None:
    """Pictures are judged as a kind of their own, under limits of their collection."""
    environ = with_collections(tmp_path, PICTURES)
    ids = [f"p{number:02}" for number in range(40)]
    with running_app(tmp_path / "data", environ) as app:
        items = [{"product_id": id, "image": picture(number)} for number, id in enumerate(ids)]
        assert app.post("/v1/upsert", {"items": items}).status_code == 200
        version = app.post("/v1/embed", {"image": picture(1), "collection": "products"}).json()["version"]
    following = f"{version}.again"
    copy_to_next(tmp_path / "data", PRODUCTS, following, ids)
    with running_app(tmp_path / "data", environ) as app:
        path = "/v1/collections/products/generations/next/report"
        sound = reported(app, path=path)
        assert sound["by_kind"]["id"]["overlap_at_10"] == 1.0 and sound["holds"]
        assert sound["skipped"] == {"no_model_here": 40}, "nothing here makes vectors of that version"
    shuffle(tmp_path / "data", PRODUCTS, following, ids)
    with running_app(tmp_path / "data", environ) as app:
        report = reported(app, {}, path)
        gate = gates(report)["overlap_at_10_min"]
        assert (gate["holds"], gate["kind"], gate["limit"]) == (False, "id", 0.4)
        refused = app.post("/v1/promote", {"collection": "products"})
        assert refused.status_code == 409 and "overlap_at_10_min is" in refused.json()["detail"]


def test_recorded_queries_of_all_kinds_of_search_are_replayed(seeded: Path) -> None:
    """Off by default; nothing but the query itself is on disk."""
    key = {"authorization": "Bearer a-key-of-a-caller"}
    with running_app(seeded, CHANGED) as app:
        assert app.post("/v1/search", {"query": "적어 두지 않는다"}).status_code == 200
    assert not (seeded / "queries").exists()
    with running_app(seeded, {**CHANGED, "RECORD_QUERIES_PERCENT": "100"}) as app:
        for number in range(25):
            body = {
                "query": f"  {DISHES[number % 10]} {number}",
                "exclude_ids": [3],
                "filter": {"category": "국"},
            }
            assert app.post("/v1/search", body, headers=key).status_code == 200
        batch = {"searches": [{"like_ids": [4]}, {"query": "beef"}, {"vector": [1.0] * 384}]}
        assert app.post("/v1/search-batch", batch).status_code == 200
        assert app.post("/v1/search", {"query": "없는 필터", "filter": {"a": {"$no": 1}}}).status_code == 422
    with running_app(seeded, CHANGED) as app:
        ended(app, rebuild(app))
        report = reported(app)
    assert report["sources"] == {"recorded": 27} and report["known_items"]["text"]["items"] == 30
    assert {kind: row["queries"] for kind, row in report["by_kind"].items()} == {"id": 1, "text": 26}
    (file,) = (seeded / "queries" / "recipes").iterdir()
    lines = file.read_text("utf-8").splitlines()
    assert len(lines) == 27 and "a-key" not in file.read_text("utf-8")
    assert json.loads(lines[0]) == {
        "query": f"{DISHES[0]} 0",
        "exclude_ids": [3],
        "filter": {"category": "국"},
    }


REHEARSAL = "/v1/collections/recipes/rehearsal"


def test_a_rehearsal_changes_searches_and_needs_no_generation(app: HttpApp, seeded: Path) -> None:
    texts = [{"query": f"{DISHES[number]} {number}"} for number in range(1, 6)]
    queries = [*texts, {"vector": [1.0] + [0.0] * 383}, {"like_ids": [3]}]
    exact = reported(app, {"change": {"exact": True}, "queries": queries}, REHEARSAL)
    assert exact["rehearsed"] == {"exact": True} and exact["before"] == exact["after"]
    assert exact["overall"]["rbo"] == 1.0 and exact["by_kind"].keys() == {"id", "text", "vector"}
    assert exact["skipped"] == {} and exact["changed"] == [] and exact["holds"]
    broad = reported(app, {"change": {"ef": 64}, "queries": queries}, REHEARSAL)
    assert broad["rehearsed"] == {"ef": 64} and broad["overall"]["rbo"] == 1.0
    near = reported(app, {"change": {"max_distance": 0.0}, "queries": queries}, REHEARSAL)
    assert near["overall"]["zero_new"] >= 2 and not gates(near)["zero_results_max"]["holds"]
    worded = reported(app, {"change": {"query_template": "떡볶이와 {query}"}, "queries": queries}, REHEARSAL)
    assert worded["by_kind"]["text"]["rbo"] < 1.0 == worded["by_kind"]["id"]["rbo"]
    assert not (seeded / "reports").exists() and generations(app).keys() == {"current"}
    for change in ({}, {"query_template": "no place"}, {"query_template": "국" * 1001},
                   {"ef": 25}, {"ef": 4097}, {"ef": 64, "exact": True}, {"breadth": 3}):  # fmt: skip
        answer = app.post(REHEARSAL, {"change": change})
        assert (answer.status_code, answer.json()["errors"][0]["loc"][:2]) == (422, ["body", "change"]), (
            change
        )


def test_a_promotion_without_a_report_makes_one_first(app: HttpApp, seeded: Path) -> None:
    ended(app, rebuild(app))
    for each in (seeded / "reports" / "recipes").iterdir():
        each.write_bytes(b"no report")
    step(app, "promote")
    name = generations(app)["current"]["generation"]
    assert reported(app, path=f"/v1/collections/recipes/generations/{name}/report")["holds"]


WRONG: list[tuple[dict[str, Any], list[Any]]] = [
    ({"queries": [{"query": "a"}, {"query": ""}]}, ["queries", 1, "query"]),
    ({"queries": [{"vector": [1.0]}]}, ["queries", 0, "vector"]),
    ({"queries": [{"query": "a", "collection": "products"}]}, ["queries", 0, "collection"]),
    ({"queries": [{"query": "a", "next_vector": [1.0]}]}, ["queries", 0, "next_vector"]),
    ({"queries": [{"query": "a"}] * 501}, ["queries"]),
    ({"judgements": [{"query": "a", "grades": {}}]}, ["judgements", 0, "grades"]),
    ({"judgements": [{"query": "a", "grades": {"1": 0}}]}, ["judgements", 0, "grades"]),
    ({"judgements": [{"query": "a", "grades": {"p1": 1}}]}, ["judgements", 0, "grades", "p1"]),
]


def test_a_wrong_line_is_named(app: HttpApp) -> None:
    for body, loc in WRONG:
        answer = app.post("/v1/collections/recipes/generations/next/report", body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["loc"] == ["body", *loc]


def until_loaded(app: HttpApp) -> dict[str, Any]:
    """A fresh report, once the model of the next generation is here again."""
    until(app, lambda: app.post(REPORT, {}).status_code == 200)
    return reported(app)


RECIPES = CollectionSpec("recipes", "int64", 384, "l2")
PRODUCTS = CollectionSpec("products", "string", 512, "l2")


@contextmanager
def opened_index(data_dir: Path, spec: CollectionSpec) -> Iterator[EmbeddedIndex]:
    index = EmbeddedIndex(data_dir, [spec])
    assert not index.open()
    yield index
    index.close()


def shuffle(data_dir: Path, spec: CollectionSpec, version: str, ids: Sequence[Id]) -> None:
    with opened_index(data_dir, spec) as index:
        stored = index.replay_source().get_version(spec.name, version, ids)
        order = np.random.default_rng(20_261_128).permutation(len(ids))
        items = [
            ItemWrite(id, vector=found.vector)
            for id, place in zip(ids, order, strict=True)
            if (found := stored[place]) is not None
        ]
        assert index.write(spec.name, WriteBatch(items, embedding_version=version)).upserted == len(ids)


def copy_to_next(data_dir: Path, spec: CollectionSpec, version: str, ids: Sequence[Id]) -> None:
    with opened_index(data_dir, spec) as index:
        stored = index.get(spec.name, ids)
        index.advance(spec.name, "begin", version)
        items = [ItemWrite(found.id, vector=found.vector) for found in stored if found is not None]
        index.write(spec.name, WriteBatch(items, embedding_version=version))


class AppCalls:
    """Fits `service.ops.report.OpsCalls` over the application in this process."""

    def __init__(self, app: HttpApp) -> None:
        self._app = app

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = self._app.request(method, path, **({"json": body} if body is not None else {}))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def fetch(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, media_type: str = ""
    ) -> bytes:
        sent = {"json": body} if body is not None else {}
        answer = self._app.request(method, path, headers={"accept": media_type}, **sent)
        assert answer.status_code == 200, answer.text
        return answer.content


def command(app: HttpApp, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_report(parser.add_subparsers())
    given = parser.parse_args(["report", *words])
    return int(given.run(given, AppCalls(app), None))


def test_the_command_shows_the_report_and_its_exit_code_tells_the_gates(
    app: HttpApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(app, rebuild(app))
    assert command(app, "recipes") == 0
    shown = capsys.readouterr().out
    assert "holds  known_item_loss_max  0.0 (limit 0.05) text" in shown and "60 sampled" in shown
    assert "overlap@1" in shown and "changed most:" in shown
    queries, judgements = tmp_path / "queries.jsonl", tmp_path / "judgements.jsonl"
    queries.write_text('{"query": "갈비탕"}\n\n{"like_ids": [3]}\n')
    judgements.write_text('{"query": "갈비탕", "grades": {"10": 1, "20": 1}}\n')
    page = tmp_path / "report.html"
    rehearse = ("--rehearse", "max_distance=0", "--rehearse", "exact=true")
    assert command(app, "recipes", *rehearse, "--html", str(page)) == 4
    assert "the same generation with exact=True, max_distance=0.0" in capsys.readouterr().out
    assert "A rehearsal: after is the same generation" in page.read_text("utf-8")
    files = ("--html", str(page), "--queries", str(queries), "--judgements", str(judgements))
    assert command(app, "recipes", *files, "--json") == 4, "a model without meaning answers worse"
    report = json.loads(capsys.readouterr().out)
    assert report["sources"] == {"given": 2, "judged": 1} and not gates(report)["ndcg_loss_max"]["holds"]
    assert "1 of 4 gates do not hold" in page.read_text("utf-8")
    queries.write_text('{"query": "갈비탕"}\n{"query"\n')
    assert command(app, "recipes", "--queries", str(queries)) == 2
    assert f"{queries}:2 is no JSON" in capsys.readouterr().err
