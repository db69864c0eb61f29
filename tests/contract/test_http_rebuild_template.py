"""A model change to another text template: only the texts' sender can make them anew, and nothing mixes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.rebuild_steps import ended, first, generations, rebuild, search, step
from tests.http_app import DISHES, HttpApp, running_app, seed, with_collections

COLLECTIONS = """
[collections.recipes]
id_field = "recipe_id"
model = "builtin:hashed-ngrams"
text_template = "{template}"

[collections.products]
id_field = "product_id"
id_type = "string"
modality = "image"
dim = 512
"""

pytestmark = pytest.mark.long


def configured(tmp_path: Path, template: str) -> dict[str, str]:
    return with_collections(tmp_path, COLLECTIONS.replace("{template}", template))


@pytest.fixture
def app(tmp_path: Path) -> Iterator[HttpApp]:
    with running_app(tmp_path / "data", configured(tmp_path, "{title}")) as before:
        seed(before)
    with running_app(tmp_path / "data", configured(tmp_path, "요리 {title}")) as after:
        yield after


def upsert(app: HttpApp, **body: Any) -> dict[str, Any]:
    answer = app.post("/v1/upsert", {"collection": "recipes", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def send_anew(app: HttpApp, old: str, new: str, ids: list[int], source_version: int = 6) -> None:
    """As a feeder does for the next generation alone: texts by the new template."""
    texts = [f"요리 {DISHES[number % len(DISHES)]} {number}" for number in ids]
    items = [
        {"recipe_id": number, "text": text, "source_version": source_version}
        for number, text in zip(ids, texts, strict=True)
    ]
    upsert(app, items=items, embedding_version=new, except_versions=[old])


def report(app: HttpApp, version: str) -> None:
    """That of the job was made before the texts came."""
    answer = app.post(f"/v1/collections/recipes/generations/{version}/report", {})
    assert answer.status_code == 200, answer.text


def test_the_texts_are_brought_anew_and_then_promoted(app: HttpApp) -> None:
    planned = app.post("/v1/rebuild", {"collection": "recipes", "dry_run": True}).json()
    assert (planned["text_template"], planned["estimate"]["contents"]) == ("요리 {title}", 0)
    job = ended(app, rebuild(app))
    assert (job["state"], job["text_template"], job["missing"]) == ("ready", "요리 {title}", 30)
    told = generations(app)
    old, new = told["current"]["embedding_version"], told["next"]["embedding_version"]
    assert old != new and (told["next"]["contents"], told["next"]["awaiting"]) == (0, 0)
    assert step(app, "promote", 409)["code"] == "promote_conflict"
    assert first(app, query=f"{DISHES[3]} 3") == 3
    send_anew(app, old, new, list(range(1, 31)))
    following = generations(app)["next"]
    assert (following["live"], following["contents"], following["awaiting"]) == (30, 30, 0)
    assert first(app, query=f"{DISHES[3]} 3") == 3
    report(app, new)
    step(app, "promote", embedding_version=new)
    answer = search(app, query=f"요리 {DISHES[3]} 3")
    assert (answer["embedding_version"], answer["results"][0]["recipe_id"]) == (new, 3)
    assert answer["results"][0]["distance"] < 1e-3
    assert app.get("/health").json()["reasons"] == []
    step(app, "rollback")
    assert first(app, query=f"{DISHES[3]} 3") == 3


def test_a_text_of_one_template_is_never_embedded_for_the_other(app: HttpApp) -> None:
    ended(app, rebuild(app))
    told = generations(app)
    old, new = told["current"]["embedding_version"], told["next"]["embedding_version"]
    send_anew(app, old, new, list(range(1, 31)))
    upsert(app, items=[{"recipe_id": 3, "text": "비빔밥 새것", "source_version": 8}])
    upsert(app, items=[{"recipe_id": 4, "text": f"{DISHES[4]} 4", "source_version": 6}])
    assert app.post("/v1/deactivate", {"collection": "recipes", "ids": [9]}).status_code == 200
    following = generations(app)["next"]
    assert (following["live"], following["awaiting"]) == (28, 0), "3 has changed since, 9 is inactive"
    refused = step(app, "promote", 409)
    assert "1 item(s)" in refused["detail"]
    send_anew(app, old, new, [3], source_version=8)
    report(app, new)
    step(app, "promote")
    shown = {hit["recipe_id"] for hit in search(app, query="요리", top_k=100)["results"]}
    assert shown == set(range(1, 31)) - {9}


@pytest.mark.parametrize(
    ("body", "status", "loc"),
    [
        ({"text_template": "{title}", "model": "builtin:hashed-ngrams"}, 409, None),
        ({"text_template": "x" * 5000}, 422, ["body", "text_template"]),
        ({"text_template": 3}, 422, ["body", "text_template"]),
        ({"collection": "products", "text_template": "{title}"}, 422, ["body", "text_template"]),
    ],
)
def test_templates_that_can_not_be(app: HttpApp, body: dict[str, Any], status: int, loc: Any) -> None:
    answer = app.post("/v1/rebuild", {"collection": "recipes", **body})
    assert answer.status_code == status, answer.text
    assert loc is None or answer.json()["errors"][0]["loc"] == loc
