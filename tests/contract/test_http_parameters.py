"""Parameters of a query string: unknown ones are refused by name, wrong ones are told where they stand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.openapi_document import DOCUMENT
from tests.http_app import HttpApp

READS = [(path, item["get"]) for path, item in DOCUMENT["paths"].items() if "get" in item]
OPEN = [path for path, operation in READS if operation["x-role"] == "none"]


def filled(path: str) -> str:
    for name, value in (("collection", "recipes"), ("generation", "v"), ("id", "1"), ("file_name", "a.js")):
        path = path.replace(f"{{{name}}}", value)
    return path


def parameters_of(operation: dict[str, Any]) -> list[str]:
    """The names that the contract gives, those in `components` too."""
    shared = DOCUMENT["components"].get("parameters", {})
    found = [
        shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each
        for each in operation.get("parameters", ())
    ]
    return [each["name"] for each in found if each["in"] == "query"]


@pytest.mark.parametrize(("path", "operation"), READS, ids=[path for path, _ in READS])
def test_an_unknown_parameter_is_refused_by_name(app: HttpApp, path: str, operation: dict[str, Any]) -> None:
    answer = app.get(filled(path), params={"filtr": "1", "x" * 300: ""})
    if path in OPEN or path == "/metrics":
        assert answer.status_code != 422
        return
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert [each["loc"] for each in problem["errors"]] == [["query", "filtr"], ["query", "x" * 64]]
    known = parameters_of(operation)
    assert problem["detail"] == "filtr is no parameter of this route: it takes " + (
        f"{', '.join(known)}." if known else "none."
    )


def test_only_probes_and_pages_take_any_parameter() -> None:
    assert {path.split("/")[1] for path in OPEN} <= {
        "",
        "health",
        "livez",
        "readyz",
        "openapi.yaml",
        "docs",
        "console",
        "demo",
    }


def test_writes_refuse_them_too_and_searches_do_not(app: HttpApp) -> None:
    answer = app.post("/v1/upsert?partal=true", {"collection": "recipes", "items": []})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["query", "partal"])
    assert app.post("/v1/upsert?partial=true", {"collection": "recipes", "items": []}).status_code == 200
    assert app.post("/search_similar?from=shop", files={"file": b"x"}).json()["code"] == "invalid_image"
    wrong = app.post("/search_similar?top_k=0", files={"file": b"x"})
    assert (wrong.status_code, wrong.json()["errors"][0]["loc"]) == (422, ["query", "top_k"])
    assert app.post("/v1/search?from=shop", {"query": "갈비탕"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("/v1/items?filter=[1]", ["query", "filter"]),
        ('/v1/items?filter={"a":{"$near":1}}', ["query", "filter", "a.$near"]),
        ("/v1/items?cursor=a", ["query", "cursor"]),
        ("/v1/items?limit=0", ["query", "limit"]),
        ("/v1/items/a", ["path", "id"]),
        ("/v1/explain?id=a&query=b", ["query", "id"]),
        ("/v1/explain?id=1&like_ids=b", ["query", "like_ids"]),
        ("/v1/explain?id=1&query=b&top_k=0", ["query", "top_k"]),
        ("/v1/explain?query=b", ["query", "id"]),
    ],
)
def test_a_wrong_parameter_is_told_where_it_stands(app: HttpApp, path: str, loc: list[str]) -> None:
    answer = app.get(path)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, loc), answer.text
